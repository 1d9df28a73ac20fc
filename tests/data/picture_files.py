"""Picture files made for tests: by Pillow where it can write them, else byte by byte."""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    """Smooth colours, uint8 (height, width, 3), that no symmetry maps to themselves and that JPEG keeps."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack(
        [x * 200 // width, y * 220 // height, (x + 2 * y) * 80 // (width + 2 * height) + 90], -1
    )
    return levels.astype(np.uint8)


def encode(image: Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    """A picture as a file. JPEG at its best quality, WebP lossless."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if form == "JPEG":
        options = {"quality": 100, "subsampling": 0, **options}
    if form == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size: tuple[int, int], depth: int, colour: int, rows: Sequence[bytes], *chunks: bytes) -> bytes:
    """A PNG of unfiltered rows; `colour` is its colour type, `chunks` stand before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def tiff(
    size: tuple[int, int], bits: int, pixels: bytes, *tags: tuple[int, int, int, int], then: int = 0
) -> bytes:
    """A gray, uncompressed, little-endian TIFF; `tags` (tag, type, count, value) are added or replace."""
    base = {256: (4, 1, size[0]), 257: (4, 1, size[1]), 258: (3, 1, bits), 259: (3, 1, 1), 262: (3, 1, 1)}
    base |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, size[1]), 279: (4, 1, len(pixels))}
    base |= {tag: rest for tag, *rest in tags}
    entries = b"".join(struct.pack("<HHLL", tag, *rest) for tag, rest in sorted(base.items()))
    pixels += b"\0" * (len(pixels) % 2)
    start = 8 + len(pixels)
    return (
        struct.pack("<2sHL", b"II", 42, start)
        + pixels
        + struct.pack("<H", len(base))
        + entries
        + struct.pack("<L", then)
    )


GIF_FRAME = b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
"""One black pixel."""


def gif(frames: int, before: bytes = b"", size: tuple[int, int] = (1, 1)) -> bytes:
    """A GIF of frames of one pixel; `before` stands before the first."""
    palette = bytes(3) + b"\xff" * 3
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + palette + before + GIF_FRAME * frames + b";"


def without_adobe_marker(data: bytes) -> bytes:
    """A JPEG without its APP14 segment."""
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]


def srgb_profile() -> bytes:
    """The sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """A profile whose first channel is green and whose second is red."""
    table = srgb_profile()
    return table.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")


def linear_profile() -> bytes:
    """A profile of sRGB's primaries with levels in proportion to light."""
    data = bytearray(srgb_profile())
    count = int.from_bytes(data[128:132])
    for start in range(132, 132 + 12 * count, 12):
        name, offset, _ = struct.unpack_from(">4sII", data, start)
        if name in (b"rTRC", b"gTRC", b"bTRC"):  # a parametric curve: make it x ** 1
            assert data[offset : offset + 4] == b"para"
            struct.pack_into(">HHI", data, offset + 8, 0, 0, 1 << 16)
    return bytes(data)
