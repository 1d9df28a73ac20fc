"""Damaged and hostile picture files: a picture or a DataError, soon, in little memory, and nothing else."""

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import picture_files as make
import pytest
from PIL import Image

from finesight.core.errors import DataError
from finesight.data.pictures.load import load_picture

MUTANTS = 100 * int(os.environ.get("FINESIGHT_PROOF_FACTOR", "1"))


def seeds(form: str) -> list[bytes]:
    """Whole files, of which mutants are made: with metadata, several frames, profiles and compressions."""
    levels = make.gradient(32, 48)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif, "icc_profile": make.srgb_profile()}
    if form == "GIF":
        frames = [Image.fromarray(levels[..., channel]) for channel in range(3)]
        return [make.encode(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"flag")]
    if form == "JPEG":
        return [make.encode(levels, form, **options), make.encode(levels, form, progressive=True)]
    if form == "TIFF":
        squeezed = [make.encode(levels, form, compression=name) for name in ("tiff_lzw", "jpeg", "packbits")]
        return [
            make.encode(levels, form, **options),
            make.encode(levels[..., 0].astype(np.int32), form),
            *squeezed,
        ]
    alpha = np.dstack([levels, levels[..., 0]])
    return [make.encode(alpha, form, **options), make.encode(levels, form, lossless=False)]


def mutant(data: bytes, random: np.random.Generator) -> bytes:
    """The file cut short, or with 1 to 32 bytes changed, half of the time within its first 200."""
    if random.random() < 0.15:
        return data[: random.integers(len(data))]
    changed = bytearray(data)
    end = min(200, len(data)) if random.random() < 0.5 else len(data)
    for place in random.integers(end, size=random.integers(1, 33)):
        changed[place] = random.integers(256)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_mutants(form: str) -> None:
    random = np.random.default_rng(len(form) + ord(form[0]))
    files = seeds(form)
    refused = 0
    for number in range(MUTANTS):
        data = mutant(files[number % len(files)], random)
        begin = time.monotonic()
        try:
            assert load_picture(data, "here").image.mode == "RGB"
        except DataError:
            refused += 1
        assert time.monotonic() - begin < 5
    assert refused


def big_png() -> bytes:
    """13,300² pixels of 1 bit in 21 KiB."""
    row = bytes((13_300 + 7) // 8)
    return make.png((13_300, 13_300), 1, 0, [row] * 13_300)


def jpeg_head(middle: bytes) -> bytes:
    """A small JPEG with bytes put after its first segment."""
    data = make.encode(make.gradient(), "JPEG")
    return data[:20] + middle + data[20:]


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG that says that it is large."""
    data = make.encode(make.gradient(), "JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def many_scans() -> bytes:
    """A progressive JPEG of 3,000² pixels with 5,000 more passes over them."""
    data = make.encode(np.zeros((3000, 3000), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 5000 + b"\xff\xd9"


def repeated_scan(progressive: bool) -> bytes:
    """A JPEG of 3,000² gray pixels whose only scan stands there 5,000 times."""
    data = make.encode(np.zeros((3000, 3000), np.uint8), "JPEG", progressive=progressive, quality=50)
    scan = data.index(b"\xff\xda")
    return data[:-2] + data[scan:-2] * 5000 + b"\xff\xd9"


def single_channel_scans() -> bytes:
    """A baseline JPEG of three channels, each in scans of its own, a thousand of them."""
    size = 2000
    head = b"\xff\xd8\xff\xdb\0\x43\0" + b"\1" * 64
    head += b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, size, size, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    codes = bytes([1]) + bytes(15) + b"\0"  # one code, of one bit: nothing changes, nothing follows
    head += b"\xff\xc4" + struct.pack(">HB", 3 + len(codes), 0) + codes
    head += b"\xff\xc4" + struct.pack(">HB", 3 + len(codes), 0x10) + codes
    scans = [
        b"\xff\xda" + struct.pack(">HBBB", 8, 1, 1 + n % 3, 0) + b"\0\x3f\0" + bytes(size * size // 256)
        for n in range(999)
    ]
    return head + b"".join(scans) + b"\xff\xd9"


def squeezed(length: int) -> bytes:
    return zlib.compress(bytes(length), 9)


def tiff_pair() -> bytes:
    """Two directories that name each other as next."""
    first = make.tiff((1, 1), 8, b"\0")
    second = len(first) + len(first) % 2
    start = int.from_bytes(first[4:8], "little")
    body = first[start:-4]
    padded = first[:-4] + struct.pack("<L", second)
    return padded + b"\0" * (second - len(first)) + body + struct.pack("<L", start)


ROW = [bytes(3)]
BOMBS = {
    "one-bit PNG": big_png,
    "PNG text": lambda: make.png((1, 1), 8, 2, ROW, make.chunk(b"zTXt", b"a\0\0" + squeezed(100_000_000))),
    "PNG texts": lambda: make.png(
        (1, 1), 8, 2, ROW, *[make.chunk(b"zTXt", b"a\0\0" + squeezed(1_000_000))] * 2000
    ),
    "PNG itext": lambda: make.png(
        (1, 1), 8, 2, ROW, make.chunk(b"iTXt", b"a\0\1\0\0\0" + squeezed(100_000_000))
    ),
    "PNG profile": lambda: make.png((1, 1), 8, 2, ROW, make.chunk(b"iCCP", b"a\0\0" + squeezed(100_000_000))),
    "PNG chunks": lambda: make.png((1, 1), 8, 2, ROW, make.chunk(b"teXt", b"") * 1_000_000),
    "PNG pixels": lambda: make.png((1, 1), 8, 2, [bytes(200_000_000)]),
    "GIF frames": lambda: make.gif(10_000),
    "GIF comment": lambda: make.gif(1, b"!\xfe" + b"\1a" * 8_000_000 + b"\0"),
    "GIF extensions": lambda: make.gif(1, b"!\xfe\0" * 8_000_000),
    "GIF screen": lambda: make.gif(1, size=(65_535, 65_535)),
    "WebP canvas": lambda: b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xfe\x3f\0" * 2 + bytes(8),
    "JPEG segments": lambda: jpeg_head(b"\xff\xfe\0\2" * 4_000_000),
    "JPEG junk": lambda: jpeg_head(bytes(32_000_000)),
    "JPEG scans": many_scans,
    "JPEG scan repeated": lambda: repeated_scan(False),
    "JPEG progressive scan repeated": lambda: repeated_scan(True),
    "JPEG scans of one channel": single_channel_scans,
    "JPEG canvas": lambda: jpeg_of_size(65_535, 65_535),
    "TIFF loop": lambda: make.tiff((1, 1), 8, b"\0", then=10),
    "TIFF pair": tiff_pair,
    "TIFF inner loop": lambda: make.tiff((1, 1), 8, b"\0", (34665, 4, 1, 10)),
    "TIFF numbers": lambda: make.tiff((1, 1), 8, bytes(40_000_000), (258, 3, 16_000_000, 8)),
    "TIFF inner numbers": lambda: make.tiff(
        (1, 1),
        8,
        struct.pack("<HHHLLL", 1, 40_000, 3, 16_000_000, 8, 0) + bytes(40_000_000),
        (34665, 4, 1, 8),
    ),
    "BMP runs": lambda: make.encode(np.zeros((1, 1), np.uint8), "BMP")[:30] + b"\1" + bytes(40_000_000),
}
LOADED = {"PNG pixels", "GIF frames", "TIFF loop", "TIFF pair", "TIFF inner loop"}
"""The ones that are pictures after all, since nobody reads what is too much in them."""

MEASURE = """
import json, re, sys, time
from pathlib import Path
from finesight.core.errors import DataError
from finesight.data.pictures.load import load_picture

def kibibytes(name):  # not getrusage, whose peak is inherited from the parent process
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

data = Path(sys.argv[1]).read_bytes()
load_picture(Path(sys.argv[2]).read_bytes(), "here")
before, begin = kibibytes("VmRSS"), time.process_time()
try:
    end = str(load_picture(data, "here").frames)
except DataError as error:
    end = error.faults[0].what
seconds = time.process_time() - begin
print(json.dumps({"end": end, "bytes": (kibibytes("VmHWM") - before) * 1024, "seconds": seconds}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path) -> None:
    bomb, plain = tmp_path / "bomb", tmp_path / "plain"
    bomb.write_bytes(BOMBS[name]())
    plain.write_bytes(make.encode(make.gradient(), "PNG"))
    command = [sys.executable, "-W", "error", "-c", MEASURE, str(bomb), str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["end"].isdecimal() == (name in LOADED), result
    assert result["bytes"] <= 128 << 20, result
    assert result["seconds"] <= 2, result
    assert "Warning" not in result["end"] and not done.stderr
