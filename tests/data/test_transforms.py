"""Picture transforms: what each setting does, and that a picture's draws depend on its key alone."""

import multiprocessing
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finesight.data.pictures.transforms import PictureTransform, TransformSettings, _crop_box, _draws

ALL = TransformSettings(
    rotate=15,
    scale=(0.8, 1.2),
    translate=0.1,
    shear=8,
    wave=0.05,
    brightness=0.2,
    contrast=0.2,
    saturation=0.3,
    hue=0.05,
    crop=0.3,
)
KEY = (7, 0, "flags.csv, row 3")
DRAWS = np.array(_draws(KEY))


def picture(height: int = 64, width: int = 64) -> Image.Image:
    """Smooth colours that no warp maps to themselves."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack(
        [x * 200 // width + 20, y * 200 // height + 20, (x + y) * 90 // (width + height) + 60], -1
    )
    return Image.fromarray(levels.astype(np.uint8))


def changed(settings: TransformSettings, image: Image.Image, key: tuple[int, int, str] = KEY) -> np.ndarray:
    return np.asarray(PictureTransform(settings)(image, key), np.float64)


def bytes_of(key: tuple[int, int, str]) -> bytes:
    return PictureTransform(ALL)(picture(), key).tobytes()


def test_identity_is_the_same_object() -> None:
    image = picture()
    assert PictureTransform(TransformSettings())(image, KEY) is image


def test_a_function_of_the_key_alone() -> None:
    transform, image = PictureTransform(ALL), picture()
    keys = [
        (seed, epoch, name) for seed in (1, 2) for epoch in (0, 1, 11) for name in ("a", "1/a", "ü\udc80")
    ]
    results = {key: transform(image, key).tobytes() for key in keys}
    assert len(set(results.values())) == len(keys)
    for key in reversed(keys):
        assert PictureTransform(replace(ALL))(picture(), key).tobytes() == results[key]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(bytes_of, keys) == list(results.values())


def test_the_source_is_left_alone() -> None:
    image = picture()
    before = image.tobytes()
    after = PictureTransform(ALL)(image, KEY)
    assert image.tobytes() == before
    assert after.mode == "RGB"
    assert PictureTransform(replace(ALL, crop=0.0))(image, KEY).size == image.size


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2), (37, 129), (200, 90)])
def test_any_size(size: tuple[int, int]) -> None:
    strong = TransformSettings(180, (0.25, 4), 1, 30, 0.25, 1, 1, 1, 0.5)
    for epoch in range(5):
        levels = changed(strong, picture(*size), (0, epoch, "a"))
        assert levels.shape == (*size, 3)
    flat = Image.new("RGB", size[::-1], (10, 200, 255))
    geometry = replace(strong, brightness=0, contrast=0, saturation=0, hue=0)
    assert (changed(geometry, flat) == (10, 200, 255)).all()  # nothing comes in from outside


def reference_warp(
    levels: np.ndarray, matrix: np.ndarray, shift: np.ndarray, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Each output pixel, one after the other: inverse map about the centre, bilinear, edges repeated."""
    height, width, _ = levels.shape
    rows, columns = size or (height, width)
    centre, middle = (
        np.array([(width - 1) / 2, (height - 1) / 2]),
        np.array([(columns - 1) / 2, (rows - 1) / 2]),
    )
    out = np.empty((rows, columns, 3))
    for row in range(rows):
        for column in range(columns):
            x, y = np.linalg.solve(matrix, np.array([column, row]) - middle - shift) + centre
            x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
            left, top = int(x), int(y)
            right, low = min(left + 1, width - 1), min(top + 1, height - 1)
            upper = levels[top, left] * (1 - x + left) + levels[top, right] * (x - left)
            lower = levels[low, left] * (1 - x + left) + levels[low, right] * (x - left)
            out[row, column] = upper * (1 - y + top) + lower * (y - top)
    return out


def draws_of(setting: str, most: float) -> float:
    """The draw behind one setting at KEY, found by trying: the value whose reference fits best."""
    image = picture(40, 56)
    levels = np.asarray(image, np.float64)
    got = changed(TransformSettings(**{setting: most}), image)
    tries = np.linspace(-most, most, 81)
    return float(min(tries, key=lambda value: np.abs(reference(setting, value, levels) - got).mean()))


def reference(setting: str, value: float, levels: np.ndarray) -> np.ndarray:
    """What one setting does, pixel by pixel in floats."""
    if setting == "rotate":
        turn = np.deg2rad(value)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return reference_warp(levels, rotation, np.zeros(2))
    luma = levels @ [0.299, 0.587, 0.114]
    if setting == "brightness":
        return np.clip(levels * (1 + value), 0, 255)
    if setting == "contrast":
        return np.clip((levels - 127.5) * (1 + value) + 127.5, 0, 255)
    return np.clip(luma[..., None] + (levels - luma[..., None]) * (1 + value), 0, 255)


@pytest.mark.parametrize("setting", ["brightness", "contrast", "saturation"])
def test_colour_settings_against_their_formula(setting: str) -> None:
    image = picture(40, 56)
    levels = np.asarray(image, np.float64)
    value = draws_of(setting, 0.8)
    got = changed(TransformSettings(**{setting: 0.8}), image)
    assert np.abs(reference(setting, value, levels) - got).mean() < 1.5  # the trial values are 0.02 apart


def test_rotation_against_a_plain_loop() -> None:
    image = picture(20, 28)
    levels = np.asarray(image, np.float64)
    got = changed(TransformSettings(rotate=60), image)
    errors = [np.abs(reference("rotate", value, levels) - got).mean() for value in np.arange(-60, 61, 1.0)]
    assert min(errors) < 1
    assert np.median(errors) > 10


def test_scale_translate_and_shear_move_pixels_as_said() -> None:
    y, x = np.mgrid[:81, :101]
    spot = ((x - 50) ** 2 + (y - 40) ** 2 < 36) * 255
    image = Image.fromarray(np.dstack([spot] * 3).astype(np.uint8))

    def centre(levels: np.ndarray) -> np.ndarray:
        weights = levels[..., 0]
        return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()

    for epoch in range(20):
        key = (3, epoch, "spot")
        moved = centre(changed(TransformSettings(translate=0.2), image, key)) - (50, 40)
        assert (np.abs(moved) <= np.array([101, 81]) * 0.2 + 0.1).all() and np.abs(moved).max() > 0.1
        larger = changed(TransformSettings(scale=(1.5, 1.5)), image, key)[..., 0].sum() / image_sum(image)
        assert abs(larger - 2.25) < 0.05
        sheared = changed(TransformSettings(shear=20), image, key)
        assert np.abs(centre(sheared) - (50, 40)).max() < 0.1
        waved = changed(TransformSettings(wave=0.1), image, key)
        assert np.abs(centre(waved) - (50, 40)).max() <= 0.1 * 101 + 1


def image_sum(image: Image.Image) -> float:
    return float(np.asarray(image, np.float64)[..., 0].sum())


def test_hue_keeps_luma_and_gray() -> None:
    image = Image.fromarray(np.asarray(picture()) // 2 + 64)
    turned = changed(TransformSettings(hue=0.5), image)
    before = np.asarray(image, np.float64)
    luma = [0.299, 0.587, 0.114]
    assert np.abs(turned - before).max() > 10
    assert np.abs((turned - before) @ luma).max() <= 2  # rounding of three channels
    gray = Image.new("RGB", (9, 9), (77, 77, 77))
    assert (changed(TransformSettings(hue=0.5, saturation=1), gray) == 77).all()


def test_draws_fill_their_range() -> None:
    gray = Image.new("RGB", (1, 1), (100, 100, 100))
    transform = PictureTransform(TransformSettings(brightness=0.5))
    levels = [transform(gray, (0, epoch, "a")).getpixel((0, 0))[0] for epoch in range(2000)]
    assert min(levels) in (50, 51) and max(levels) in (149, 150)
    assert abs(np.mean(levels) - 100) < 2.6  # four times 100 · 0.5 / √3 / √2000


def test_one_setting_leaves_the_draws_of_another() -> None:
    image = picture()
    both = changed(TransformSettings(rotate=20, brightness=0.3), image)
    rotated = PictureTransform(TransformSettings(rotate=20))(image, KEY)
    assert (both == changed(TransformSettings(brightness=0.3), rotated)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (21, 28)])
def test_white_comes_from_outside(size: tuple[int, int]) -> None:
    levels = np.asarray(picture(*size), np.float64)
    height, width = size
    framed = np.full((height + 2, width + 2, 3), 255.0)
    framed[1:-1, 1:-1] = levels
    for value in (0.0, 0.6):
        settings = TransformSettings(translate=value, scale=(0.5, 0.5), fill="white")
        got = changed(settings, picture(*size))
        shift = value * np.array([width, height]) * DRAWS[4:6]
        wanted = reference_warp(framed, np.eye(2) / 2, shift, (height, width))
        assert np.abs(got - wanted).max() <= 2
    assert (
        changed(TransformSettings(rotate=40, scale=(0.25, 0.25), fill="white"), picture(64, 64))[0] == 255
    ).all()


def test_white_is_drawn_as_edge_where_nothing_comes_in() -> None:
    settings = TransformSettings(rotate=30, scale=(4, 4))
    edge, white = (changed(replace(settings, fill=fill), picture()) for fill in ("edge", "white"))
    assert (edge == white).all()


def test_flips() -> None:
    image = picture(4, 6)
    levels = np.asarray(image)
    sides = (levels, levels[:, ::-1])
    both = (*sides, levels[::-1], levels[::-1, ::-1])
    wanted = {"none": (levels,), "horizontal": sides, "both": both}
    wanted["all"] = (*both, *(each.transpose(1, 0, 2) for each in both))
    for flip, forms in wanted.items():
        transform = PictureTransform(TransformSettings(flip=flip))
        counts = dict.fromkeys((form.tobytes() for form in forms), 0)
        for epoch in range(800):
            changed = transform(image, (0, epoch, "a"))
            assert np.array_equal(np.asarray(changed), np.asarray(transform(image, (0, epoch, "a"))))
            counts[changed.tobytes()] += 1
        assert len(counts) == len(forms)
        share = 1 / len(forms)
        assert all(
            abs(count / 800 - share) <= 4.5 * (share * (1 - share) / 800) ** 0.5 for count in counts.values()
        )


def test_flips_leave_the_other_draws() -> None:
    image = picture(30, 40)
    settings = TransformSettings(rotate=20, brightness=0.3)
    for epoch in range(8):
        key = (1, epoch, "a")
        flipped = PictureTransform(TransformSettings(flip="all"))(image, key)
        assert (changed(replace(settings, flip="all"), image, key) == changed(settings, flipped, key)).all()


KEYS = st.tuples(st.integers(0, 2**63), st.integers(0, 10**6), st.text())
SIDE = st.integers(1, 90) | st.sampled_from([1, 2, 20_000])


@given(KEYS, SIDE, st.integers(1, 90), st.floats(0, 0.9), st.booleans())
def test_a_crop_leaves_enough_and_its_shape(
    key: tuple[int, int, str], width: int, height: int, most: float, turn: bool
) -> None:
    if turn:
        width, height = height, width
    left, top, right, low = _crop_box(width, height, most, key)
    assert 0 <= left < right <= width and 0 <= top < low <= height
    wide, high = right - left, low - top
    assert wide * high >= (1 - most) * width * height * (1 - 1e-9)
    # a pixel more either way is the rounding
    assert (wide - 1) / width <= (high + 1) / height * 4 / 3 and (high - 1) / height <= (
        wide + 1
    ) / width * 4 / 3
    assert _crop_box(width, height, most, key) == (left, top, right, low)


def test_a_crop_shows_a_part_of_the_picture_anywhere_and_of_all_sizes() -> None:
    image = picture(200, 300)
    levels = np.asarray(image)
    transform = PictureTransform(TransformSettings(crop=0.5))
    areas, corners, shapes = [], [], []
    for epoch in range(400):
        cropped = transform(image, (3, epoch, "a"))
        left, top, right, low = _crop_box(300, 200, 0.5, (3, epoch, "a"))
        assert np.array_equal(np.asarray(cropped), levels[top:low, left:right])
        areas.append(cropped.width * cropped.height / 60_000)
        corners += [
            at / room for at, room in ((left, 300 - cropped.width), (top, 200 - cropped.height)) if room > 9
        ]
        shapes.append(cropped.width / cropped.height / 1.5)
    assert 0.5 <= min(areas) < 0.52 and 0.98 < max(areas) <= 1
    assert abs(np.mean(areas) - 0.75) < 0.03  # four times 0.5 / √12 / √400
    assert abs(np.mean(corners) - 0.5) < 0.05 and min(corners) < 0.05 and max(corners) > 0.95
    assert 0.74 < min(shapes) < 0.85 and 1.2 < max(shapes) < 1.35


def test_a_crop_leaves_the_other_draws() -> None:
    image = picture(60, 80)
    settings = TransformSettings(rotate=20, brightness=0.3, flip="both")
    for epoch in range(8):
        key = (1, epoch, "a")
        cropped = PictureTransform(TransformSettings(crop=0.4))(image, key)
        assert (changed(replace(settings, crop=0.4), image, key) == changed(settings, cropped, key)).all()


def test_large_pictures_are_shrunk_to_what_is_enough() -> None:
    image = picture(500, 810)
    transform = PictureTransform(TransformSettings(brightness=0.1))
    assert transform(image, KEY, (100, 100)).size == (102, 100)  # 810 / 8 and 500 / 5, no pixel lost
    assert transform(image, KEY, (500, 300)).size == (810, 500)
    assert PictureTransform(TransformSettings())(image, KEY, (811, 501)) is image
    cropping = PictureTransform(TransformSettings(crop=0.9))
    for epoch in range(20):  # what a crop leaves is what is shrunk
        left, top, right, low = _crop_box(810, 500, 0.9, (1, epoch, "a"))
        wide, high = right - left, low - top
        seen = cropping(image, (1, epoch, "a"), (100, 100))
        assert seen.width >= min(wide, 100) and seen.height >= min(high, 100)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_everything_at_once_on_thin_pictures(size: tuple[int, int]) -> None:
    strong = TransformSettings(180, (0.25, 4), 1, 30, 0.25, 1, 1, 1, 0.5, 0.75, 0.9, "white", "all")
    begin = time.process_time()
    for epoch in range(6):
        seen = PictureTransform(strong)(Image.new("RGB", size, (10, 200, 255)), (0, epoch, "a"), (64, 64))
        assert seen.mode == "RGB" and min(seen.size) == 1
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("field", ["fill", "flip"])
def test_unknown_words_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        TransformSettings(**{field: "sideways"})


NUMBERS = [field.name for field in fields(TransformSettings) if field.name not in ("fill", "flip")]


@pytest.mark.parametrize("field", NUMBERS)
def test_settings_out_of_range_are_refused(field: str) -> None:
    for wrong in (-0.1, 1000.0, float("nan")):
        value = (wrong, wrong) if field == "scale" else wrong
        with pytest.raises(ValueError, match=field):
            TransformSettings(**{field: value})


def test_stretch_changes_the_height_alone() -> None:
    image = Image.new("RGB", (64, 64), "white")
    image.paste((0, 0, 0), (24, 24, 40, 40))
    heights = set()
    for epoch in range(20):
        dark = changed(TransformSettings(stretch=0.5, fill="white"), image, (7, epoch, "a"))[..., 0] < 128
        assert dark.any(axis=0).sum() == 16
        heights.add(int(dark.any(axis=1).sum()))
    assert min(heights) < 14 and max(heights) > 18 and min(heights) >= 8 and max(heights) <= 24
