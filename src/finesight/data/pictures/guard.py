"""What a picture file says of itself, read before anything is decoded.

Pillow's readers are Python loops over chunks, tags and blocks: a hostile file can make them spend minutes or
gigabytes before one pixel is seen. The walks here count those chunks, tags and blocks and stop early. They
decide nothing else: whether a file is whole is the decoder's to say.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

Kind = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]

PILLOW_PIXELS = 89_478_485
"""Above this many pixels Pillow itself warns (`Image.MAX_IMAGE_PIXELS`): the highest limit of ours."""

_STEPS = 20_000  # segments, tags and stray bytes before the pixels; a real file has fewer than a hundred
_SCANS = 50  # passes of a progressive JPEG, each over all its pixels; encoders write about ten
_BLOCKS = 300_000  # chunks or blocks of pixel data: 64 MiB in GIF's blocks of 255 bytes fit
_TEXT_BYTES = 4 << 20  # compressed text of a PNG, all chunks together, once inflated
_TAG_VALUES = 1 << 18  # numbers in one TIFF tag: Pillow makes a tuple of them
_RLE_BYTES = 2 << 20  # of a run-length coded BMP, which Pillow decodes in Python at about 1 s each MiB

_REPLACE = "leave the row out, or replace the file"
_TIFF_PREFIXES = (b"II\x2a\x00", b"MM\x00\x2a", b"II\x00\x2a", b"MM\x2a\x00", b"II\x2b\x00", b"MM\x00\x2b")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"tRNS", b"iCCP", b"eXIf", b"sRGB"}


class Refusal(Exception):
    """A picture that is not let in: `what` is wrong with it, and how to `mend` it."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend


@dataclass(frozen=True)
class PictureLimits:
    """Largest picture that is let in: `file_bytes` encoded, `pixels` in all, `side` pixels high or wide.

    Decoding takes up to about 12 bytes a pixel for a while. `pixels` may not exceed PILLOW_PIXELS.
    """

    file_bytes: int = 64 << 20
    pixels: int = 40_000_000
    side: int = 65_535

    def __post_init__(self) -> None:
        if not 0 < self.pixels <= PILLOW_PIXELS:
            raise ValueError(f"pixels must be 1 to {PILLOW_PIXELS}, not {self.pixels}")

    def check(self, width: int, height: int) -> None:
        """Raise Refusal where a picture of this size is not let in."""
        if width < 1 or height < 1:
            raise Refusal(f"the picture is empty: {width} × {height} pixels", _REPLACE)
        if width > self.side or height > self.side:
            what = f"the picture is {width} × {height} pixels; at most {self.side} a side are let in"
            raise Refusal(what, "make the picture smaller, or leave the row out")
        if width * height > self.pixels:
            what = f"the picture is {width} × {height} pixels; at most {self.pixels} in all are let in"
            raise Refusal(what, "make the picture smaller, or leave the row out")


@dataclass(frozen=True)
class Header:
    """A file's kind, the bytes for the decoder, and what cannot be learned from the decoder at no cost.

    `frames` is 2 where there are two or more and counting them would mean reading them all (GIF, TIFF); 1 for
    WebP, whose decoder knows. `depth` is bits a channel (PNG, TIFF), else 8. `inverted`: a TIFF's 0 is white.
    """

    kind: Kind
    data: bytes
    frames: int = 1
    depth: int = 8
    inverted: bool = False


def inspect(data: bytes, limits: PictureLimits) -> Header:
    """Kind and header of a picture file. Raises Refusal; struct.error or IndexError on a file cut short."""
    if not data:
        raise Refusal("the picture is empty: 0 bytes", _REPLACE)
    if len(data) > limits.file_bytes:
        what = f"the picture file has {len(data)} bytes; at most {limits.file_bytes} are let in"
        raise Refusal(what, "save it smaller, or leave the row out")
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data)
        return Header("JPEG", data)
    if data.startswith(_PNG_SIGNATURE):
        return _inspect_png(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _inspect_gif(data, limits)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        limits.check(*_webp_size(data))
        return Header("WEBP", data)
    if data.startswith(_TIFF_PREFIXES):
        return _inspect_tiff(data, limits)
    if data.startswith(b"BM"):
        _check_bmp(data)
        return Header("BMP", data)
    what = f"this is no picture that can be read: it begins with {bytes(data[:8])!r}"
    raise Refusal(what, "JPEG, PNG, WebP, GIF, BMP and TIFF are read; convert the file to one of them")


def _too_many(what: str) -> Refusal:
    return Refusal(f"the picture file holds {what}", "save the picture anew, without its metadata")


def _check_jpeg(data: bytes) -> None:
    position, end = 2, len(data) - 4
    frames: list[tuple[int, int]] = []
    for _ in range(_STEPS):
        if position > end:
            return
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xFF:
            position += 1
        elif marker == 0xDA:
            if len(frames) == 1 and frames[0] in ((0xC0, data[position + 4]), (0xC1, data[position + 4])):
                return  # all channels in one scan, after which the decoder wants the end of the file
            if data.count(b"\xff\xda", position) > _SCANS:
                raise _too_many(f"more than {_SCANS} scans")
            return
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            position += 2
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 9 < len(data):
                frames.append((marker, data[position + 9]))  # how it is coded, and the number of its channels
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4]))
    raise _too_many("no pixels after thousands of segments")


def _inspect_png(data: bytes) -> Header:
    """Leave out chunks that do not bear on the pixels (text, dates, later frames): nobody inflates them."""
    kept: list[bytes] = [_PNG_SIGNATURE]
    seen: set[bytes] = set()
    frames, room, position, dropped = 1, _TEXT_BYTES, len(_PNG_SIGNATURE), False
    for _ in range(_BLOCKS):
        if position + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        stop = position + 12 + length
        if stop > len(data):
            break
        if not kind[0] & 0x20 or (kind in _PNG_KEPT and kind not in seen):  # a capital first letter: critical
            kept.append(data[position:stop])
            seen.add(kind)
        else:
            dropped = True
            if kind == b"acTL" and length >= 4:
                frames = max(1, int.from_bytes(data[position + 8 : position + 12]))
            elif kind in (b"zTXt", b"iTXt"):
                room -= _inflated(data[position + 8 : stop - 4], kind, room)
        position = stop
        if kind == b"IEND":
            break
    else:
        raise _too_many(f"more than {_BLOCKS} chunks")
    if dropped and b"IEND" not in seen:
        kept.append(data[position:])
    return Header("PNG", b"".join(kept) if dropped else data, frames, depth=data[24])


def _inflated(chunk: bytes, kind: bytes, room: int) -> int:
    """Length of a chunk's text once inflated; Refusal where it would not fit in `room`."""
    _, _, rest = chunk.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return 0
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    try:
        length = len(zlib.decompressobj().decompress(rest, room + 1))
    except zlib.error:
        return 0
    if length > room:
        raise _too_many(f"a compressed text of more than {_TEXT_BYTES} bytes")
    return length


def _inspect_gif(data: bytes, limits: PictureLimits) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    pictures, end = 0, len(data)
    for _ in range(_BLOCKS):
        if position >= end or data[position] == 0x3B:
            break
        if data[position] == 0x2C:
            pictures += 1
            if pictures == 2:
                break
            left, top, across, down, local = struct.unpack_from("<4HB", data, position + 1)
            width, height = max(width, left + across), max(height, top + down)
            position += 11 + (3 << (local & 7) + 1 if local & 0x80 else 0)
            position = _after_blocks(data, position, _BLOCKS)
        elif data[position] == 0x21:
            position = _after_blocks(data, position + 2, _STEPS)
        else:
            position += 1
    else:
        raise _too_many(f"more than {_BLOCKS} blocks")
    limits.check(width, height)
    return Header("GIF", data, max(1, pictures))


def _after_blocks(data: bytes, position: int, most: int) -> int:
    """Position after a chain of GIF's length-headed blocks, or the end of the file."""
    end = len(data)
    for _ in range(most):
        if position >= end:
            return end
        if data[position] == 0:
            return position + 1
        position += data[position] + 1
    raise _too_many(f"more than {most} blocks")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas, which the decoder allocates at once."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _check_bmp(data: bytes) -> None:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes >= 40 and len(data) > _RLE_BYTES and data[30] in (1, 2):
        what = "the picture is a large run-length coded BMP, which takes long to read"
        raise Refusal(what, "save it as PNG")


def _inspect_tiff(data: bytes, limits: PictureLimits) -> Header:
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    big = data[2] == 43
    counts, entry_form, entry_bytes = ("Q", "HHQQ", 20) if big else ("H", "HHLL", 12)
    (first,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    directories, depth, tile, inverted, following = [first], 8, [0, 0], False, 0
    for number, offset in enumerate(directories):  # the list grows by the EXIF directories that it finds
        (entries,) = struct.unpack_from(order + counts, data, offset)
        if entries > _STEPS or number > 8:
            raise _too_many("thousands of tags")
        offset += struct.calcsize(order + counts)
        after = offset + entries * entry_bytes
        for start in range(offset, min(after, len(data) - entry_bytes + 1), entry_bytes):
            tag, form, count, value = struct.unpack_from(order + entry_form, data, start)
            if count > _TAG_VALUES and form not in (1, 2, 7):
                raise _too_many(f"{count} numbers in tag {tag}")
            if form == 3 and order == ">":  # a short number stands at the left of its field
                value >>= 48 if big else 16
            elif form == 3:
                value &= 0xFFFF
            inner = tag in (34665, 34853, 40965)
            if inner and value < len(data) - 8 and value not in directories:
                directories.append(value)
            elif number == 0 and tag in (322, 323):
                tile[tag - 322] = value
            elif number == 0 and tag == 258 and count == 1:
                depth = value
            elif number == 0 and tag == 262:
                inverted = value == 0
        if number == 0:
            link = data[after : after + (8 if big else 4)]
            if after + (8 if big else 4) > len(data):
                raise Refusal("the picture is cut short, in its first directory", _REPLACE)
            following = int.from_bytes(link, "little" if order == "<" else "big")
    if tile[0] * tile[1] > limits.pixels:
        raise Refusal(f"the picture is stored in tiles of {tile[0]} × {tile[1]} pixels", "save it as PNG")
    more = 0 < following < len(data) and following != first
    return Header("TIFF", data, 2 if more else 1, depth, inverted)
