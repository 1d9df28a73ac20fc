"""Signatures of pictures, and the search for near-equal ones against a search that compares everything."""

import time
from io import BytesIO
from pathlib import Path

import numpy as np
import picture_files as make
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import finesight
from finesight.data.pictures.load import load_picture
from finesight.data.pictures.phash import MOST_BITS, MOST_COLOUR, nearest, nearest_before, signature


def scene(number: int, height: int = 240, width: int = 320) -> Image.Image:
    """A picture of its own of some overlapping shapes."""
    random = np.random.default_rng(number)
    image = Image.fromarray(make.gradient(height, width))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.integers(width), random.integers(height)
        size = 20 + random.integers(width // 3)
        draw.ellipse(
            (x - size, y - size // 2, x + size, y + size // 2), tuple(random.integers(0, 256, 3).tolist())
        )
    return image


def shipped() -> list[Image.Image]:
    """Drawings of 64 pixels, which a pixel more or less changes most."""
    folder = Path(finesight.__file__).parent / "assets" / "pictures" / "things" / "images"
    files = sorted(folder.rglob("*.png"))[::15]
    assert len(files) > 60
    return [load_picture(file.read_bytes(), str(file)).image for file in files]


def table(*signatures: tuple[int, int]) -> np.ndarray:
    return np.array(signatures, np.uint64).reshape(-1, 2)


def near(one: Image.Image, other: Image.Image) -> bool:
    place, _ = nearest(table(signature(one)), table(signature(other)))
    return bool(place[0] == 0)


CHANGES = {
    "smaller": lambda image: image.resize((97, 73), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((800, 600), Image.Resampling.LANCZOS),
    "stretched": lambda image: image.resize((224, 224), Image.Resampling.BILINEAR),
    "JPEG": lambda image: load_picture(make.encode(image, "JPEG", quality=40, subsampling=2), "").image,
    "palette": lambda image: image.quantize(64).convert("RGB"),
    "brighter": lambda image: image.point(lambda level: min(255, level + 6)),
    "one pixel cut off": lambda image: image.crop((1, 1, *image.size)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_picture_again_is_near(change: str) -> None:
    pictures = [scene(number) for number in range(20)] + shipped()
    missed = sum(not near(image, CHANGES[change](image)) for image in pictures)
    assert missed <= len(pictures) // (100 if change != "one pixel cut off" else 10)


def test_other_pictures_are_not() -> None:
    signatures = table(*(signature(scene(number)) for number in range(300)))
    place, bits = nearest(signatures[:150], signatures[150:])
    assert (place == -1).all() and (bits == -1).all()
    drawings = table(*map(signature, shipped()))
    for number in range(len(drawings)):
        assert (nearest(drawings[number : number + 1], np.delete(drawings, number, 0))[0] == -1).all()
    image = scene(3)
    assert not near(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert not near(image, image.rotate(90, expand=True))


def test_colour_tells_apart_what_structure_cannot() -> None:
    def bands(*colours: str) -> Image.Image:
        image = Image.new("RGB", (90, 60))
        for number, colour in enumerate(colours):
            image.paste(colour, (30 * number, 0, 30 * number + 30, 60))
        return image

    flags = [bands("blue", "white", "red"), bands("green", "white", "red"), bands("black", "yellow", "red")]
    flat = [Image.new("RGB", (50, 50), colour) for colour in ("white", "black", "gray", "red", "navy")]
    pictures = [*flags, *flat]
    for one, picture in enumerate(pictures):
        for other, another in enumerate(pictures):
            assert near(picture, another) == (one == other)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (2, 3), (3000, 2000)])
def test_any_size_has_a_signature(size: tuple[int, int]) -> None:
    structure, colour = signature(Image.new("RGB", size, (255, 255, 255)))
    assert structure == 0 and colour == 2**60 - 1
    structure, colour = signature(Image.effect_noise(size, 90).convert("RGB"))
    assert 0 <= structure < 2**64 and 0 <= colour < 2**60


def test_the_source_is_left_alone() -> None:
    image = scene(1)
    before = image.tobytes()
    signature(image)
    assert image.tobytes() == before


def by_comparing_all(
    asked: np.ndarray, known: np.ndarray, most_bits: int, most_colour: int
) -> tuple[list[int], list[int]]:
    places, differences = [], []
    for structure, colour in asked.tolist():
        best, place = 65, -1
        for number, (other, tint) in enumerate(known.tolist()):
            steps = max(abs((colour >> 5 * field & 31) - (tint >> 5 * field & 31)) for field in range(12))
            bits = (structure ^ other).bit_count()
            if bits <= most_bits and steps <= most_colour and bits < best:
                best, place = bits, number
        places.append(place)
        differences.append(best if place >= 0 else -1)
    return places, differences


@given(st.data())
def test_the_search_equals_comparing_all(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    most_bits = data.draw(st.integers(0, 16))
    bases = random.integers(0, 2**64, 3, np.uint64)

    def some(count: int) -> np.ndarray:
        flips = random.integers(0, 64, (count, 20))
        spoil = random.integers(0, 20, count)
        structures = random.choice(bases, count)
        for number in range(count):
            for bit in flips[number, : spoil[number]].tolist():
                structures[number] ^= np.uint64(1 << bit)
        colours = random.integers(0, 4, (count, 12)) @ (1 << 5 * np.arange(12))
        return np.stack([structures, colours.astype(np.uint64)], 1)

    asked, known = some(data.draw(st.integers(0, 30))), some(data.draw(st.integers(0, 30)))
    most_colour = data.draw(st.integers(0, 3))
    places, bits = nearest(asked, known, most_bits, most_colour)
    assert (places.tolist(), bits.tolist()) == by_comparing_all(asked, known, most_bits, most_colour)


def test_portions_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    pictures = np.stack([random.integers(0, 40, 500), random.integers(0, 3, 500)], 1).astype(np.uint64)
    whole = nearest(pictures, pictures[::-1])
    monkeypatch.setattr("finesight.data.pictures.phash._PAIRS_AT_ONCE", 7)
    portions = nearest(pictures, pictures[::-1])
    assert (whole[0] == portions[0]).all() and (whole[1] == portions[1]).all()


def test_half_a_million_pictures_are_searched_in_seconds() -> None:
    random = np.random.default_rng(7)
    known = np.stack(
        [random.integers(0, 2**64, 500_000, np.uint64), random.integers(0, 2**60, 500_000, np.uint64)], 1
    )
    asked = known[random.integers(0, len(known), 50_000)]
    copies = np.arange(0, 50_000, 10)
    asked[:, 0] ^= np.uint64(2**40 - 1)  # far from all
    asked[copies] = known[copies]
    asked[copies, 0] ^= np.uint64(0b1001 << 30)
    begin = time.process_time()
    place, bits = nearest(asked, known)
    assert time.process_time() - begin < 20  # comparing all with all would take minutes
    assert (place[copies] == copies).all() and (bits[copies] == 2).all()
    assert (place >= 0).sum() == len(copies)


def test_many_copies_of_a_blank_page() -> None:
    blank = np.zeros((300_000, 2), np.uint64)
    begin = time.process_time()
    place, bits = nearest(blank, blank)
    assert time.process_time() - begin < 5
    assert (place == 0).all() and (bits == 0).all()


def test_limits() -> None:
    assert nearest(np.empty((0, 2), np.uint64), np.zeros((3, 2), np.uint64))[0].shape == (0,)
    assert nearest(np.zeros((3, 2), np.uint64), np.empty((0, 2), np.uint64))[0].tolist() == [-1] * 3
    with pytest.raises(ValueError, match="17"):
        nearest(np.zeros((1, 2), np.uint64), np.zeros((1, 2), np.uint64), 17)
    one = np.zeros((1, 2), np.uint64)
    most = np.array([[2**MOST_BITS - 1, MOST_COLOUR]], np.uint64)
    assert nearest(one, most)[0][0] == 0
    assert nearest(one, most * np.array([2, 1], np.uint64) + np.array([1, 0], np.uint64))[0][0] == -1
    assert nearest(one, most + np.array([0, 1], np.uint64))[0][0] == -1


def test_a_file_is_like_its_picture() -> None:
    file = BytesIO()
    scene(2).save(file, "PNG")
    assert signature(load_picture(file.getvalue(), "").image) == signature(scene(2))


def test_the_nearest_before_is_the_nearest_of_those_before() -> None:
    random = np.random.default_rng(4)
    few = random.integers(0, 2**63, (12, 1), np.uint64) ^ random.integers(0, 8, (12, 5), np.uint64)
    pictures = np.stack([few.ravel(), np.zeros(60, np.uint64)], axis=1)[random.permutation(60)]
    place, bits = nearest_before(pictures)
    for at in range(len(pictures)):
        one, apart = nearest(pictures[at : at + 1], pictures[:at])
        assert (place[at], bits[at]) == (one[0], apart[0])
    assert (place[1:] >= 0).any()
