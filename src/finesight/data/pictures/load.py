"""The one way from a picture file to pixels: training, evaluation, command line and server use it.

`load_picture` reads JPEG, PNG, WebP, GIF, BMP and TIFF. What it does, in this order:

1. size caps and counts from the header, before anything is decoded (`guard`);
2. decode the first frame; a moving picture is noted;
3. levels of 12, 16 and 32 bits and floats scaled by their mode, never clipped (`colour`);
4. embedded colour profile → sRGB;
5. transparency composited over white;
6. EXIF orientation (the tag alone, as browsers read it; not what XMP says).

Plain JPEGs are decoded by `simplejpeg` where it is there (`jpeg`), everything else by Pillow; the pixels are
the same. CMYK JPEGs are taken as inverted, with or without an Adobe marker, as browsers and Pillow take them.
Nothing global is changed, and nothing shared but a cache of colour transforms: threads may load at once.
"""

import base64
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Final

import numpy as np
import pybase64
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from finesight.core.errors import DataError
from finesight.core.ports import Resample
from finesight.data.pictures import jpeg
from finesight.data.pictures.colour import to_srgb
from finesight.data.pictures.guard import Kind, PictureLimits, Refusal, inspect

__all__ = ["DEFAULT_LIMITS", "Picture", "PictureLimits", "decode_base64", "load_picture", "resize", "size_of"]

DEFAULT_LIMITS: Final = PictureLimits()

_ORIENTATION_TAG: Final = 0x0112
_SHORT: Final = 3
_LAST_UPRIGHT: Final = 4
"""Orientations above this one lie on their side."""

_FILTERS: Final[dict[Resample, Image.Resampling]] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture of 8 bits a channel, sRGB, upright and opaque; ask for its `image` or for its `pixels`.

    `frames` counts the frames of the file; 2 stands for two or more in GIF and TIFF, not read to the end.
    `notes` tells what was done beyond plain decoding, in this order: `first_frame`, `levels` (scaled from
    more than 8 bits), `icc` (profile converted), `icc_ignored` (profile broken, or for another kind of
    colour), `transparency` (put on white), `orientation` (turned upright as EXIF says).
    """

    decoded: Image.Image | NDArray[np.uint8]
    frames: int = 1
    notes: tuple[str, ...] = ()

    @cached_property
    def image(self) -> Image.Image:
        """The picture for Pillow: mode RGB, no metadata."""
        return self.decoded if isinstance(self.decoded, Image.Image) else Image.fromarray(self.decoded)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture for numpy and torch: (height, width, 3), contiguous."""
        return np.array(self.decoded) if isinstance(self.decoded, Image.Image) else self.decoded

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        if isinstance(self.decoded, Image.Image):
            return self.decoded.size
        return self.decoded.shape[1], self.decoded.shape[0]


def load_picture(data: bytes, where: str, limits: PictureLimits = DEFAULT_LIMITS) -> Picture:
    """Decode the bytes of a picture file. `where` names file and row for the message.

    Raises DataError, and nothing else, for bytes that are no picture, broken, cut short, or beyond `limits`.
    """
    try:
        return _load(data, limits)
    except Refusal as refusal:
        what, mend = refusal.what, refusal.mend
    except Exception as error:  # Pillow raises nearly every kind, MemoryError and struct.error among them
        what = f"the picture cannot be decoded ({type(error).__name__}: {error})"
        mend = "the file is damaged or unusual: save it anew as PNG or JPEG, or leave the row out"
    # Raised outside the handler, because an error that is kept must not keep the pixels alive.
    raise DataError(what, where, mend)


def size_of(data: bytes, where: str, limits: PictureLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Width and height of the picture that `load_picture` would decode, read from the header of its file.

    Raises DataError as `load_picture`, for a header that is broken.
    """
    try:
        header = inspect(data, limits)
        image = _READERS[header.kind](BytesIO(header.data))
        limits.check(*image.size)
        across, down = image.size
        return (down, across) if _orientation(image) > _LAST_UPRIGHT else (across, down)
    except Refusal as refusal:
        what, mend = refusal.what, refusal.mend
    except Exception as error:  # as in load_picture
        what = f"the header of the picture cannot be read ({type(error).__name__}: {error})"
        mend = "the file is damaged or unusual: save it anew as PNG or JPEG, or leave the row out"
    raise DataError(what, where, mend)


def _load(data: bytes, limits: PictureLimits) -> Picture:
    header = inspect(data, limits)
    if header.kind == "JPEG" and (head := jpeg.head_of(data)):
        limits.check(head.width, head.height)
        pixels = jpeg.decode(data, head)
        if pixels is not None:
            turn = _TURNS.get(_exif_orientation(head.exif))
            if turn is None:
                return Picture(pixels)
            return Picture(Image.fromarray(pixels).transpose(turn), notes=("orientation",))
    # Not Image.open, which warns of large pictures before we could refuse them.
    image = _READERS[header.kind](BytesIO(header.data))
    limits.check(*image.size)
    turn = _TURNS.get(_orientation(image))
    image.load()
    limits.check(*image.size)
    colour, notes = to_srgb(image, header.depth, header.inverted)
    if turn is not None:
        notes += ("orientation",)
        if header.kind != "TIFF":  # Pillow's TIFF reader has turned it
            colour = colour.transpose(turn)
    frames = image.n_frames if isinstance(image, WebPImagePlugin.WebPImageFile) else header.frames
    colour.info.clear()
    return Picture(colour, frames, ("first_frame", *notes) if frames > 1 else notes)


class _JpegReader(JpegImagePlugin.JpegImageFile):
    """Pillow's reader, without its look for the resolution in EXIF, which warns where EXIF is broken."""

    def _read_dpi_from_exif(self) -> None:
        pass


_READERS: Final[dict[Kind, Callable[[BytesIO], ImageFile.ImageFile]]] = {
    "JPEG": _JpegReader,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, or EXIF is broken."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(_ORIENTATION_TAG, 1)
        return value if isinstance(value, int) else 1
    return _exif_orientation(image.info.get("exif") or b"")


def _exif_orientation(exif: bytes) -> int:
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(order + "L", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for start in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, form, _, value = struct.unpack_from(order + "HHLH", exif, start)
            if tag == _ORIENTATION_TAG and form == _SHORT:
                return int(value)
    except struct.error:
        pass
    return 1


_DATA_URI = re.compile(r"\s*data:[^,]{0,200},", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/\-_\s]", re.ASCII)
_TO_STANDARD = str.maketrans("-_", "+/", " \t\r\n\v\f")


def decode_base64(text: str, where: str) -> bytes:
    """Bytes of a base64 text; a `data:…;base64,` prefix, blanks, URL-safe letters, no padding are accepted.

    Raises DataError, which names the first wrong character by its place in `text`, counted from 1.
    """
    try:
        decoded = pybase64.b64decode(text, validate=True)
        if decoded:
            return decoded
    except ValueError:  # binascii.Error, or letters beyond ASCII: look closer
        pass
    prefix = _DATA_URI.match(text)
    if prefix and not prefix[0].rstrip(", ").lower().endswith(";base64"):
        raise DataError("the data URI is not base64", where, "write it as data:image/png;base64,…")
    start = prefix.end() if prefix else 0
    end = len(text.rstrip("= \t\r\n\v\f"))
    wrong = _NOT_BASE64.search(text, start, end)
    if wrong:
        what = f"character {wrong.start() + 1}, {wrong[0]!r}, does not belong in base64 text"
        raise DataError(what, where, _BYTES_AS_TEXT if text.lstrip()[:2] in ("b'", 'b"') else _ENCODE_AGAIN)
    body = text[start:end].translate(_TO_STANDARD)
    if not body:
        raise DataError("the base64 text is empty", where, "fill the cell, or leave the row out")
    if len(body) % 4 == 1:
        what = f"the base64 text is cut short: {len(body)} characters, one more than whole groups of four"
        raise DataError(what, where, "a program may have cut the cell at its longest length: export it again")
    return base64.b64decode(body + "=" * (-len(body) % 4))


_ENCODE_AGAIN = "encode the picture file's bytes as base64 again, or check that this is the right column"
_BYTES_AS_TEXT = "the cell holds Python's notation of bytes: write b64encode(data).decode('ascii') instead"


_SMALL: Final = 64 * 64
"""Pixels up to which Pillow resizes as fast as torch, whose calls cost more than its work on so few."""


def resize(picture: Picture | Image.Image, height: int, width: int, resample: Resample) -> NDArray[np.uint8]:
    """The picture squashed to `height` × `width` pixels: uint8, (3, height, width).

    Filters as wide as the picture shrinks, as in the PIL processors of `transformers`: equal to them for small
    pictures, `nearest` and `lanczos`, which Pillow resizes; within one level of them, on photographs, for others, which
    torch resizes.
    """
    across, down = picture.size
    if across * down > _SMALL and resample in ("bicubic", "bilinear"):
        pixels = picture.pixels if isinstance(picture, Picture) else np.array(picture)
        return _resized_by_torch(pixels, height, width, resample)
    image = picture.image if isinstance(picture, Picture) else picture
    small = image.resize((width, height), _FILTERS[resample])
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def _resized_by_torch(pixels: NDArray[np.uint8], height: int, width: int, resample: str) -> NDArray[np.uint8]:
    import torch  # not above: whoever only decodes pictures does not wait for it
    from torch.nn.functional import interpolate

    down, across, _ = pixels.shape
    # channels last, for which torch has its fastest kernel
    levels = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    sizes = [(height, width)]
    if down > height and down - height > 2 * (across - width):
        # Pillow 13 then squeezes the height first. Levels are clipped between the two, so the order can be seen.
        sizes.insert(0, (height, across))
    for size in sizes:
        levels = interpolate(levels, size, mode=resample, antialias=True, align_corners=False)
    return np.ascontiguousarray(levels[0].numpy())
