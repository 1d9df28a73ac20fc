"""The look at a file before it is decoded: any bytes give a header or a refusal, soon and in little memory."""

import struct
import time
import tracemalloc
from contextlib import suppress

import picture_files as make
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finesight.core.errors import DataError
from finesight.data.pictures.guard import Header, PictureLimits, Refusal, inspect
from finesight.data.pictures.load import load_picture

BYTES = st.binary(max_size=60)
NUMBERS = st.integers(0, 70_000) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])


def jpeg() -> st.SearchStrategy[bytes]:
    marker = st.sampled_from(
        [0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xFF, 0xD0]
    )
    segment = st.builds(
        lambda kind, body, lie: struct.pack(">BBH", 0xFF, kind, (len(body) + 2 + lie) % 65_536) + body,
        marker,
        BYTES,
        st.sampled_from([0, 0, 0, 1, -1, 60_000]),
    )
    return st.builds(
        lambda parts: b"\xff\xd8\xff" + b"".join(parts)[1:], st.lists(segment | BYTES, max_size=12)
    )


def png() -> st.SearchStrategy[bytes]:
    kind = st.sampled_from(
        [b"IHDR", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"acTL", b"PLTE"]
    )
    size = st.builds(struct.pack, st.just(">IIBBBBB"), NUMBERS, NUMBERS, *[st.integers(0, 20)] * 5)
    chunk = st.builds(make.chunk, kind, BYTES | size) | BYTES
    return st.builds(
        lambda head, parts: b"\x89PNG\r\n\x1a\n" + make.chunk(b"IHDR", head) + b"".join(parts),
        size,
        st.lists(chunk, max_size=12),
    )


def tiff() -> st.SearchStrategy[bytes]:
    tag = st.sampled_from(
        [254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 322, 323, 330, 34665, 34853, 40965]
    )
    entry = st.builds(struct.pack, st.just("<HHLL"), tag, st.integers(0, 14), NUMBERS, NUMBERS)
    return st.builds(
        lambda start, entries, then, tail: (
            b"II\x2a\0"
            + struct.pack("<LH", start, len(entries))
            + b"".join(entries)
            + struct.pack("<L", then)
            + tail
        ),
        st.sampled_from([8, 8, 8, 9, 0, 4]),
        st.lists(entry, max_size=12),
        NUMBERS,
        BYTES,
    )


def gif() -> st.SearchStrategy[bytes]:
    block = st.sampled_from([b",", b"!", b";", b"!\xfe", make.GIF_FRAME]) | BYTES
    return st.builds(
        lambda head, parts: b"GIF89a" + head + b"".join(parts), BYTES, st.lists(block, max_size=12)
    )


def webp() -> st.SearchStrategy[bytes]:
    chunk = st.builds(
        lambda kind, body: b"RIFF\x20\0\0\0WEBP" + kind + body,
        st.sampled_from([b"VP8X", b"VP8L", b"VP8 "]),
        BYTES,
    )
    return chunk


def bmp() -> st.SearchStrategy[bytes]:
    return st.builds(lambda head: b"BM" + head, BYTES)


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("files", [jpeg, png, tiff, gif, webp, bmp], ids=lambda files: files.__name__)
def test_any_file_gives_a_header_or_is_refused(files) -> None:
    @given(files())
    def holds(data: bytes) -> None:
        begin = time.process_time()
        with suppress(Refusal, struct.error, IndexError):
            header = inspect(data, PictureLimits())
            assert isinstance(header, Header) and len(header.data) <= len(data)
        with suppress(DataError):
            assert load_picture(data, "here").image.mode == "RGB"
        assert time.process_time() - begin < 2

    holds()


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(DataError):
        load_picture(data, "here")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_the_look_takes_no_more_memory_than_the_file(form: str) -> None:
    image = Image.effect_noise((1500, 1500), 80).convert("RGB")
    data = make.encode(image, form)
    tracemalloc.start()
    header = inspect(data, PictureLimits())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert header.kind == form
    assert peak < 2 * len(data) + 2**16


def test_the_size_that_a_header_claims_is_enough_to_refuse_it() -> None:
    """Before anything is decoded, and whatever else is wrong with the file."""
    limits = PictureLimits(pixels=1000)
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        data = make.encode(make.gradient(40, 60), form)
        with pytest.raises(DataError, match="60 × 40 pixels; at most 1000"):
            load_picture(data, "here", limits)
