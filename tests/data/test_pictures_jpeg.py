"""JPEGs decoded the fast way are those that Pillow decodes, pixel by pixel; all others are left to Pillow."""

import os
import struct
from collections.abc import Callable, Iterator

import numpy as np
import picture_files as make
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finesight.core.errors import DataError
from finesight.data.pictures import jpeg
from finesight.data.pictures.guard import PictureLimits
from finesight.data.pictures.load import Picture, load_picture, resize

FACTOR = int(os.environ.get("FINESIGHT_PROOF_FACTOR", "1"))


def carefully(data: bytes) -> Picture:
    """The picture as Pillow alone decodes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "turbo", lambda: None)
        return load_picture(data, "here")


def goes_fast(data: bytes) -> bool:
    head = jpeg.head_of(data)
    return head is not None and jpeg.decode(data, head) is not None


def same(data: bytes) -> None:
    """The fast way is taken, and gives the pixels and the notes of the careful one."""
    assert goes_fast(data)
    fast, slow = load_picture(data, "here"), carefully(data)
    assert fast.notes == slow.notes and fast.frames == slow.frames and fast.size == slow.size
    assert fast.image.mode == "RGB" and not fast.image.info
    # 0 with the two libjpeg-turbos of today; another version may round otherwise
    assert np.abs(fast.pixels.astype(int) - slow.pixels.astype(int)).max() <= 1
    assert (np.asarray(fast.image) == fast.pixels).all()


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something like a photograph: smooth, with edges and grain."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width, 8)
    waves = [np.sin(9 * random.normal() * x + 9 * random.normal() * y + random.normal()) for _ in range(9)]
    levels = np.stack([sum(waves[c::3]) * 35 + 60 * (waves[c] > 0.3) + 90 for c in range(3)], -1)
    return np.clip(levels + random.normal(0, 6, levels.shape), 0, 255).astype(np.uint8)


SIZES = [(1, 1), (1, 7), (9, 1), (8, 8), (16, 16), (17, 33), (31, 15), (1, 3000), (3000, 1), (240, 321)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
def test_sizes_and_subsamplings(size: tuple[int, int], subsampling: str) -> None:
    levels = photo(*size)
    if subsampling == "Gray":
        levels = np.ascontiguousarray(levels[..., :1])
    space = "GRAY" if subsampling == "Gray" else "RGB"
    for quality in (20, 75, 95):
        same(simplejpeg.encode_jpeg(levels, quality, space, subsampling))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "options", [{"restart_marker_blocks": 3}, {"restart_marker_rows": 1}, {"optimize": True}, {}]
)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_pillows_own(progressive: bool, options: dict[str, int], subsampling: int) -> None:
    image = Image.fromarray(photo(75, 101))
    for quality in (30, 90, 100):
        data = make.encode(
            image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive, **options
        )
        same(data)
        same(make.encode(image.convert("L"), "JPEG", quality=quality, progressive=progressive, **options))


def test_red_green_and_blue_without_luma() -> None:
    data = make.encode(Image.fromarray(photo(40, 60)), "JPEG", keep_rgb=True)
    same(data)


@pytest.mark.parametrize("orientation", range(9))
def test_orientation_and_other_metadata(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a comment " * 200
    image = photo(30, 50)
    same(make.encode(image, "JPEG", exif=exif, comment=b"of a flag", dpi=(300, 300), xmp=b"<x/>"))
    bare = make.encode(image, "JPEG")
    same(with_segment(bare, 0xE1, make.encode(image, "JPEG", exif=exif)[:40]))
    # a second EXIF segment goes on where the first ended
    body = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    split = with_segment(with_segment(bare, 0xE1, b"Exif\0\0" + body[20:]), 0xE1, body[:20])
    same(split)


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment, before all others."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def left_to_pillow() -> Iterator[tuple[str, bytes]]:
    plain = make.encode(photo(40, 60), "JPEG")
    yield "profile", make.encode(photo(40, 60), "JPEG", icc_profile=make.swapped_profile())
    ink = np.dstack([photo(40, 60), photo(40, 60, 1)[..., 0]])
    yield "CMYK", make.encode(Image.frombytes("CMYK", (60, 40), ink.tobytes()), "JPEG")
    yield "Photoshop", with_segment(plain, 0xED, b"Photoshop 3.0\0")
    yield "Photoshop, cut short", with_segment(plain, 0xED, b"Photoshop 3.0\x008BIM\4\4")
    yield "JFIF, cut short", with_segment(plain, 0xE0, b"JFIF\0")
    yield "Adobe, cut short", with_segment(plain, 0xEE, b"Adobe")
    yield "an unknown segment", with_segment(plain, 0xF0, b"1234")
    yield "junk between segments", plain[:2] + b"junk" + plain[2:]
    yield "a fill byte", plain[:2] + b"\xff" + plain[2:]
    yield "cut short", plain[: len(plain) * 2 // 3]
    yield "cut short within its last scan", make.encode(photo(40, 60), "JPEG", progressive=True)[:-9]
    yield "no end", plain[:-2]
    yield "no pixels", plain[: plain.index(b"\xff\xda") + 20]
    frame = plain.index(b"\xff\xc0")
    for name, marker in (("lossless", 0xC3), ("arithmetic", 0xC9), ("differential", 0xC5)):
        yield name, plain[: frame + 1] + bytes([marker]) + plain[frame + 2 :]
    yield "12 bits", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :]
    yield "two frames", plain[:frame] + plain[frame : frame + 19] + plain[frame:]
    yield "no frame", plain[:frame] + plain[frame + 19 :]
    yield "no height", plain[: frame + 5] + b"\0\0" + plain[frame + 7 :]
    broken = bytearray(plain)
    broken[-40:-20] = b"\xff\xd0" * 10
    yield "markers among the pixels", bytes(broken)


UNUSUAL = dict(left_to_pillow())


@pytest.mark.parametrize("name", UNUSUAL)
def test_anything_unusual_is_left_to_pillow(name: str) -> None:
    data = UNUSUAL[name]
    assert not goes_fast(data)
    agree(data)


def outcome(load: Callable[[bytes], Picture], data: bytes) -> Picture | str:
    """The picture, or why it is refused."""
    try:
        return load(data)
    except DataError as error:
        return error.faults[0].what


def agree(data: bytes) -> bool:
    """With `simplejpeg` or without, a file gives the same pixels or is refused; whether it gave any."""
    slow, fast = outcome(carefully, data), outcome(lambda data: load_picture(data, "here"), data)
    if isinstance(slow, str) or isinstance(fast, str):
        assert slow == fast
        return False
    assert (fast.pixels == slow.pixels).all() and fast.notes == slow.notes
    return True


def seeds() -> list[bytes]:
    image = Image.fromarray(photo(40, 56))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        make.encode(image, "JPEG", quality=80, subsampling=2, exif=exif, comment=b"of a flag"),
        make.encode(image, "JPEG", quality=80, subsampling=1, restart_marker_blocks=2),
        make.encode(image, "JPEG", quality=60, subsampling=2, progressive=True),
        make.encode(image.convert("L"), "JPEG", quality=90),
        make.encode(image, "JPEG", keep_rgb=True),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_end_as_pillow_ends_them() -> None:
    """A thousand damaged files, ten thousand in `make proof`: never a crash, nor a picture that Pillow refuses."""
    random = np.random.default_rng(11)
    files, decoded, fast = seeds(), 0, 0
    for number in range(1000 * FACTOR):
        changed = bytearray(files[number % len(files)])
        kind = random.random()
        if kind < 0.2:
            del changed[random.integers(2, len(changed)) :]
        elif kind < 0.3:
            start = random.integers(2, len(changed))
            del changed[start : start + random.integers(1, 40)]
        elif kind < 0.4:
            start = random.integers(2, len(changed))
            changed[start:start] = random.bytes(random.integers(1, 40))
        else:
            end = 200 if random.random() < 0.4 else len(changed)
            for place in random.integers(2, end, random.integers(1, 9)):
                changed[place] = random.integers(256)
        data = bytes(changed)
        decoded += agree(data)
        fast += goes_fast(data)
    assert decoded > 100 and fast > 10


@given(st.binary(max_size=80))
def test_the_head_of_any_bytes(tail: bytes) -> None:
    head = jpeg.head_of(b"\xff\xd8\xff" + tail)
    assert head is None or (head.width >= 0 and head.height >= 0)


def test_a_picture_beyond_the_limits_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object, **__: object) -> np.ndarray:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(jpeg, "turbo", lambda: decoded)
    data = make.encode(photo(40, 60), "JPEG")
    for limits in (PictureLimits(pixels=2399), PictureLimits(side=59)):
        with pytest.raises(DataError, match="60 × 40"):
            load_picture(data, "here", limits)


def test_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make.encode(photo(40, 60), "JPEG", quality=80, subsampling=2)
    expected = load_picture(data, "here").pixels
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    jpeg.turbo.cache_clear()
    try:
        assert jpeg.turbo() is None
        assert np.abs(load_picture(data, "here").pixels.astype(int) - expected).max() <= 1
    finally:
        jpeg.turbo.cache_clear()


@pytest.mark.parametrize(
    "source", [(480, 640), (640, 480), (1512, 2016), (300, 300), (375, 500), (65, 64), (1, 20_000)]
)
@pytest.mark.parametrize("target", [224, 384, 32])
def test_model_input_is_within_a_level_of_the_reference_processors(
    source: tuple[int, int], target: int
) -> None:
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    data = make.encode(photo(*source), "JPEG", quality=85, subsampling=2)
    theirs = clip.CLIPImageProcessorPil(
        size={"height": target, "width": target}, do_center_crop=False, do_rescale=False, do_normalize=False
    )
    expected = theirs(carefully(data).image, return_tensors="np")["pixel_values"][0]
    for picture in (load_picture(data, "here"), carefully(data), carefully(data).image):
        ours = resize(picture, target, target, "bicubic")
        assert ours.shape == expected.shape and ours.dtype == np.uint8 and ours.flags.c_contiguous
        difference = np.abs(ours.astype(int) - expected.astype(int))
        # one value in about a million is two away: torch rounds its weights to 16 bits, and rounds twice
        assert difference.max() <= 2 and (difference > 1).sum() <= 2 and difference.mean() <= 0.02


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_any_size_to_any_size(resample: str) -> None:
    """The order of the two directions is Pillow's: it shows where levels are clipped between them."""
    random = np.random.default_rng(5)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    worst = 0
    for number in range(150):
        height, width, down, across = random.integers(20, 260, 4).tolist()
        levels = (
            random.integers(0, 2, (height, width, 3), np.uint8) * 255 if number % 2 else photo(height, width)
        )
        image = Image.fromarray(levels)
        expected = np.asarray(image.resize((across, down), filters[resample])).transpose(2, 0, 1)
        difference = np.abs(resize(image, down, across, resample).astype(int) - expected)
        worst = max(worst, int(difference.max()))
        assert difference.mean() < 0.1
    assert worst <= 2
