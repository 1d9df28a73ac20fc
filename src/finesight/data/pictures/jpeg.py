"""The fast way of the JPEGs that most pictures are: `simplejpeg`, which brings its own libjpeg-turbo.

Only what it must decode to the same pixels as Pillow goes this way: 8 bits, one or three channels, Huffman coded,
baseline or progressive, no colour profile, no segment that Pillow might stumble over, and not one warning while it is
decoded. For anything else `decode` gives None, and Pillow has the last word: a file that is cut short or damaged is
refused, or let through, as if this module were not there.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, Huffman coded
_TABLES = (0xC4, 0xDB, 0xDD)  # Huffman codes, quantisation, restart interval
_SCAN = 0xDA
_COMMENT = 0xFE


@dataclass(frozen=True)
class Head:
    """What a plain JPEG says before its pixels; `exif` is the body of its EXIF segments, empty without one."""

    width: int
    height: int
    exif: bytes


@cache
def turbo() -> Callable[..., NDArray[np.uint8]] | None:
    """`simplejpeg.decode_jpeg`; None where the package is missing or broken."""
    try:
        from simplejpeg import decode_jpeg
    except Exception:  # a wheel for another numpy raises more than ImportError
        return None
    decoder: Callable[..., NDArray[np.uint8]] = decode_jpeg
    return decoder


def head_of(data: bytes) -> Head | None:
    """Size and EXIF of a plain JPEG; None where anything about it is unusual."""
    size, exif, position = None, b"", 2
    while position + 4 <= len(data):
        start, marker, length = struct.unpack_from(">BBH", data, position)
        stop = position + 2 + length
        if start != 0xFF or length < 2 or stop > len(data):
            return None
        body = data[position + 4 : stop]
        if marker == _SCAN:
            return Head(*size, exif) if size else None
        if marker in _FRAMES:
            if size or len(body) < 6 or body[0] != 8 or body[5] not in (1, 3):
                return None
            height, width = struct.unpack_from(">HH", body, 1)
            size = width, height
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6:] if exif else body  # as Pillow puts them together
        elif marker not in _TABLES and not _passes(marker, body):
            return None
        position = stop
    return None


def _passes(marker: int, body: bytes) -> bool:
    """Whether a segment bears on nothing but the colour space, which both decoders read in the same way."""
    if (marker == 0xE0 and body.startswith(b"JFIF")) or (marker == 0xEE and body.startswith(b"Adobe")):
        return len(body) >= 7  # Pillow refuses shorter ones
    if marker == 0xE2:
        return not body.startswith(b"ICC_PROFILE\0")
    if marker == 0xED:
        return not body.startswith(b"Photoshop 3.0\0")  # Pillow looks into it, and may fail
    return 0xE0 <= marker <= 0xEF or marker == _COMMENT


def decode(data: bytes, head: Head) -> NDArray[np.uint8] | None:
    """Pixels (height, width, 3) of a plain JPEG; None where they are better left to Pillow."""
    decoder = turbo()
    if decoder is None:
        return None
    pixels = np.empty((head.height, head.width, 3), np.uint8)
    try:
        # Into a buffer of the size that was checked: another size than the header's is an error, not an allocation.
        found = decoder(data, colorspace="RGB", buffer=pixels, strict=True)
    except ValueError:
        return None
    return pixels if found.shape == pixels.shape else None
