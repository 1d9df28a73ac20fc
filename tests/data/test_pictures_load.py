"""Pictures of every kind against pixels computed here with numpy, and the text and resize helpers beside."""

import base64
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import picture_files as make
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finesight.core.errors import DataError
from finesight.data.pictures.load import PictureLimits, decode_base64, load_picture, resize

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def check(data: bytes, expected: np.ndarray, *notes: str, frames: int = 1) -> None:
    """The picture's mean distance from `expected` (gray or RGB levels, 0 to 255) is at most one level."""
    picture = load_picture(data, "here")
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, -1)
    got = np.asarray(picture.image)
    assert picture.image.mode == "RGB"
    assert got.shape == expected.shape
    assert np.abs(got - expected.astype(float)).mean() <= 1
    assert picture.notes == notes
    assert picture.frames == frames
    assert not picture.image.info


def refused(data: bytes, *words: str, limits: PictureLimits | None = None) -> None:
    """The picture is refused in three parts, of which the first holds all `words`."""
    with pytest.raises(DataError) as caught:
        load_picture(data, "flags.csv, row 7", limits or PictureLimits())
    (fault,) = caught.value.faults
    assert fault.where == "flags.csv, row 7"
    assert fault.mend
    assert all(word in fault.what for word in words), fault.what
    assert caught.value.__context__ is None  # it would keep the pixels alive


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = make.encode(make.gradient(), form, exif=exif)
    check(data, UPRIGHT[orientation](make.gradient()), *["orientation"][: orientation > 1])


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_costs_nothing(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make.encode(make.gradient(), "JPEG", exif=exif), make.gradient())


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_plain_colours(form: str) -> None:
    check(make.encode(make.gradient(), form), make.gradient())


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "JPEG"])
def test_gray(form: str) -> None:
    gray = make.gradient()[..., 0]
    check(make.encode(gray, form), gray)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit_and_palette(form: str) -> None:
    bits = make.gradient()[..., 0] > 99
    check(make.encode(bits, form), bits * 255)
    palette = np.arange(768, dtype=np.uint8)[::-1].reshape(256, 3)
    indexed = Image.fromarray(make.gradient()[..., 1])
    indexed.putpalette(palette.tobytes())
    check(make.encode(indexed, form), palette[make.gradient()[..., 1]])


DEEP = np.linspace(0, 65535, 24 * 40).reshape(24, 40)


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits(form: str, options: dict[str, str], order: str) -> None:
    check(make.encode(Image.fromarray(DEEP.astype(order)), form, **options), DEEP / 257, "levels")


def test_deep_tiffs() -> None:
    check(make.encode(DEEP.astype(np.int32), "TIFF"), DEEP / 257, "levels")
    words = DEEP.astype("<u2").tobytes()
    check(make.tiff((40, 24), 16, words, (262, 3, 1, 0)), 255 - DEEP / 257, "levels")
    twelve = (DEEP / 16).astype(np.uint16).reshape(-1, 2)
    packed = np.stack(
        [twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], -1
    )
    check(make.tiff((40, 24), 12, packed.astype(np.uint8).tobytes()), DEEP / 257, "levels")
    refused(make.encode(DEEP.astype(np.int32) * 2, "TIFF"), "131070")
    refused(make.encode(DEEP.astype(np.int32) - 9, "TIFF"), "-9")


def test_floats() -> None:
    share = (DEEP / 65535).astype(np.float32)
    check(make.encode(share, "TIFF"), DEEP / 257, "levels")
    check(make.encode(share * 255, "TIFF"), DEEP / 257, "levels")
    for wrong in (np.nan, np.inf, -0.5, 300.0):
        spoiled = share.copy()
        spoiled[3, 5] = wrong
        refused(make.encode(spoiled, "TIFF"), "float levels", str(wrong).removesuffix(".0"))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(form: str) -> None:
    colour, alpha = make.gradient(), make.gradient()[..., 1]
    data = make.encode(np.dstack([colour, alpha]), form)
    check(data, on_white(colour, alpha), "transparency")
    check(make.encode(np.dstack([colour, alpha * 0 + 255]), form), colour)
    hidden = np.zeros((5, 5, 4), np.uint8)
    hidden[..., 0] = 255
    check(make.encode(hidden, form), np.full((5, 5), 255), "transparency")


def test_gray_alpha_and_palette_alpha() -> None:
    gray, alpha = make.gradient()[..., 0], make.gradient()[..., 1]
    image = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
    expected = on_white(np.dstack([gray] * 3), alpha)
    for form in ("PNG", "TIFF"):
        check(make.encode(image, form), expected, "transparency")
    palette = np.arange(768, dtype=np.uint8)[::-1].reshape(256, 3)
    indexed = Image.new("PA", (40, 24))
    indexed.putpalette(palette.tobytes())
    indexed.putdata(list(zip(gray.ravel().tolist(), alpha.ravel().tolist(), strict=True)))
    check(make.encode(indexed, "TIFF"), on_white(palette[gray], alpha), "transparency")


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_palette_entry(form: str) -> None:
    gray = make.gradient()[..., 1]
    palette = np.arange(768, dtype=np.uint8)[::-1].reshape(256, 3)
    indexed = Image.fromarray(gray)
    indexed.putpalette(palette.tobytes())
    expected = on_white(palette[gray], np.where(gray == 55, 0, 255))
    check(make.encode(indexed, form, transparency=55), expected, "transparency")
    if form == "PNG":
        table = bytes(range(256))
        check(make.encode(indexed, form, transparency=table), on_white(palette[gray], gray), "transparency")


def test_transparent_level_of_a_png() -> None:
    for depth in (1, 2, 4, 8):
        row = bytes([0b00_01_10_11]) if depth < 8 else bytes([0, 1, 2, 3])
        count, top = 8 // depth if depth < 8 else 4, (1 << depth) - 1
        stored = np.array(
            [[row[0] >> 8 - depth * (i + 1) & top for i in range(count)] if depth < 8 else [*row]]
        )
        expected = np.where(stored == 1, 255, stored * 255 // top)
        key = make.chunk(b"tRNS", b"\0\1")
        check(make.png((count, 1), depth, 0, [row], key), expected, "transparency")
    words = np.array([[0, 300, 301, 65535]], ">u2")
    key = make.chunk(b"tRNS", (300).to_bytes(2))
    expected = np.array([[0, 255, 1, 255]])
    check(make.png((4, 1), 16, 0, [words.tobytes()], key), expected, "levels", "transparency")
    colours = np.array([[[300, 9, 9], [60000, 0, 30000]]], ">u2")
    key = make.chunk(b"tRNS", colours[0, 1].tobytes())
    expected = np.array([[[1, 0, 0], [255, 255, 255]]])
    check(make.png((2, 1), 16, 2, [colours.tobytes()], key), expected, "transparency")


def test_cmyk() -> None:
    ink = np.dstack([make.gradient(), make.gradient()[::-1, :, 0] // 2])
    image = Image.frombytes("CMYK", (40, 24), ink.tobytes())
    expected = (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255
    check(make.encode(image, "TIFF"), expected)
    marked = make.encode(image, "JPEG")
    assert b"\xff\xee\x00\x0eAdobe" in marked
    check(marked, expected)
    check(make.without_adobe_marker(marked), expected)  # as browsers show it


def test_lab_and_ycbcr() -> None:
    check(make.encode(Image.new("LAB", (4, 3), (255, 128, 128)), "TIFF"), np.full((3, 4), 255))
    # CIE L*a*b* (D50) of sRGB red is 54.3, 80.8, 69.9; Pillow keeps L* × 2.55, a* and b* + 128.
    red = make.encode(Image.new("LAB", (4, 3), (138, 128 + 81, 128 + 70)), "TIFF")
    assert np.abs(np.asarray(load_picture(red, "").image)[0, 0] - np.array([255.0, 0, 0])).max() <= 6
    ycc = Image.fromarray(make.gradient()).convert("YCbCr")
    y, cb, cr = np.moveaxis(np.asarray(ycc).astype(float), -1, 0)
    cb, cr = cb - 128, cr - 128
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    check(make.encode(ycc, "TIFF"), np.clip(expected, 0, 255))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_moving_pictures_give_their_first_frame(form: str) -> None:
    gray = [Image.fromarray(make.gradient()[..., channel]) for channel in range(3)]
    frames = gray if form == "GIF" else [frame.convert("RGB") for frame in gray]
    data = make.encode(frames[0], form, save_all=True, append_images=frames[1:])
    expected = 3 if form in ("WEBP", "PNG") else 2
    check(data, make.gradient()[..., 0], "first_frame", frames=expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_thin_and_tiny(form: str, size: tuple[int, int]) -> None:
    check(make.encode(np.full(size, 77, np.uint8), form), np.full(size, 77))


def test_colour_profiles() -> None:
    levels = make.gradient()
    for form in ("PNG", "JPEG", "WEBP", "TIFF"):
        check(make.encode(levels, form, icc_profile=make.srgb_profile()), levels)
        check(make.encode(levels, form, icc_profile=make.swapped_profile()), levels[..., [1, 0, 2]], "icc")
        check(make.encode(levels, form, icc_profile=b"no profile at all" * 9), levels, "icc_ignored")
    light = levels / 255
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    check(make.encode(levels, "PNG", icc_profile=make.linear_profile()), encoded, "icc")
    alpha = levels[::-1, :, 0]
    data = make.encode(np.dstack([levels, alpha]), "PNG", icc_profile=make.linear_profile())
    check(data, on_white(encoded, alpha), "icc", "transparency")
    check(make.encode(levels[..., 0], "PNG", icc_profile=make.srgb_profile()), levels[..., 0], "icc_ignored")


def test_text_does_not_matter() -> None:
    plain = make.gradient(1, 3)
    rows = [plain[0].tobytes()]
    texts = [
        make.chunk(b"tEXt", b"transparency\0yes"),
        make.chunk(b"iTXt", b"a\0\0\0\0\0" + b"b" * 3_000_000),
    ]
    check(make.png((3, 1), 8, 2, rows, *texts), plain)


def test_refusals() -> None:
    refused(b"", "0 bytes")
    refused(b"<svg></svg>", "<svg>")
    refused(make.encode(make.gradient(), "PNG")[:-30], "cannot be decoded")
    refused(make.encode(make.gradient(), "PNG"), "40 × 24", "959", limits=PictureLimits(pixels=959))
    refused(make.encode(make.gradient(), "WEBP"), "39", limits=PictureLimits(side=39))
    refused(make.encode(make.gradient(), "BMP"), "bytes", limits=PictureLimits(file_bytes=99))
    for form in ("PPM", "ICO", "PCX", "TGA", "JPEG2000"):
        refused(make.encode(make.gradient(), form), "no picture")
    whole = {
        form: make.encode(make.gradient(), form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")
    }
    for data in whole.values():
        for length in range(0, len(data) * 4 // 5, 1 + len(data) // 25):
            refused(data[:length])
    with pytest.raises(ValueError, match="89478485"):
        PictureLimits(pixels=10**9)


def test_threads() -> None:
    data = make.encode(make.gradient(300, 400), "JPEG", icc_profile=make.linear_profile())
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: load_picture(data, "").image.tobytes(), range(24)))
    assert len(set(pictures)) == 1


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(32, 32), (17, 50), (100, 24)])
def test_resize_equals_the_reference_processors(resample: str, size: tuple[int, int]) -> None:
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    noise = np.random.default_rng(3).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ours = resize(image, *size, resample)
    assert ours.dtype == np.uint8 and ours.shape == (3, *size) and ours.flags.c_contiguous
    code = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}[resample]
    shape = {"height": size[0], "width": size[1]}
    for processor in (siglip.SiglipImageProcessorPil, clip.CLIPImageProcessorPil):
        plain = processor(
            size=shape, resample=code, do_center_crop=False, do_rescale=False, do_normalize=False
        )
        np.testing.assert_array_equal(plain(image, return_tensors="np")["pixel_values"][0], ours)


@given(st.binary(min_size=1, max_size=200))
def test_base64_round_trip(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    wrapped = "\n ".join(text[start : start + 7] for start in range(0, len(text), 7))
    url_safe = base64.urlsafe_b64encode(data).decode().rstrip("=")
    for form in (text, f" data:image/png;base64,{text}", wrapped + "\n", url_safe):
        assert decode_base64(form, "here") == data


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("data:image/png;base64,", "empty"),
        ("====", "empty"),
        ("AAAAA", "cut short"),
        ("AA!A", "character 3, '!'"),
        ("data:image/png;base64,A\u00e9AA", "character 24, 'é'"),
        ("AA=AAA==", "character 3, '='"),
        ("AA\u2028AA", "character 3, '\\u2028'"),
        ("AA\x1cAA", "character 3, '\\x1c'"),
        ("data:image/png,AAAA", "data URI"),
        ("b'AAAA'", 'character 2, "\'"'),
    ],
)
def test_base64_faults(text: str, word: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_base64(text, "a.csv, row 3")
    assert word in caught.value.faults[0].what
    assert caught.value.faults[0].where == "a.csv, row 3"


@given(st.text("AZaz09+/-_= \n\t\x1c!é", max_size=14) | st.text("AZ09+/=", max_size=14))
def test_quick_base64_equals_a_close_look(text: str) -> None:
    def refuse(*args: object, **values: object) -> bytes:
        raise ValueError

    def result() -> bytes | str:
        try:
            return decode_base64(text, "here")
        except DataError as error:
            return error.faults[0].what

    quick = result()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pybase64.b64decode", refuse)
        assert result() == quick


def test_base64_of_a_picture() -> None:
    file = BytesIO()
    Image.fromarray(make.gradient()).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    check(decode_base64(text, ""), make.gradient())
