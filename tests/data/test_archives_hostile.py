"""Archives that were made to do harm: little memory, little time, nothing read from outside, a named refusal."""

import gzip
import json
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import END, special, tar_bytes

from finesight.core.errors import DataError
from finesight.data.sources.parquet import open_tables
from finesight.data.sources.tar import open_tars

pytestmark = pytest.mark.proof

MOST = 128 << 20
SECONDS = 2.0

_LOOK = """
import sys, time
from finesight.core.errors import DataError
from finesight.config.sources import CocoSource, ParquetSource, TarSource
from finesight.data.sources import open_source
import pyarrow.parquet, pyarrow.ipc, numpy
kind, *paths = sys.argv[1:]
def peak():  # not getrusage, whose peak is inherited from the parent process
    with open("/proc/self/status") as stream:
        return int(next(line for line in stream if line.startswith("VmHWM")).split()[1]) << 10
before = peak()
for path in paths:
    source = {"tar": TarSource, "parquet": ParquetSource, "coco": CocoSource}[kind](source=kind, path=path)
    began, told = time.process_time(), []
    try:
        reader = open_source(source)
        for index in range(min(len(reader), 50)):
            try:
                reader.row(index)
            except DataError as error:
                told.append(error.faults[0].what)
    except DataError as error:
        told.append(error.faults[0].what)
    print(peak() - before, time.process_time() - began, "|".join(dict.fromkeys(told)), sep="\\t")
"""


def looked_at(kind: str, *paths: Path) -> list[str]:
    """What was told of each file; the memory and the time that it took are bounded."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, kind, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
    )
    found = []
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        grown, seconds, told = line.split("\t", 2)
        assert int(grown) < MOST, f"{path.name}: {int(grown) >> 20} MiB"
        assert float(seconds) < SECONDS, path.name
        found.append(told)
    return found


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    return made.tobuf(tarfile.GNU_FORMAT)


def holes(path: Path, head: bytes, size: int, tail: bytes = END) -> Path:
    """A file that is large and takes no room."""
    with open(path, "wb") as stream:
        stream.write(head)
        stream.seek(size, os.SEEK_CUR)
        stream.write(tail)
    return path


def test_sizes_that_lie(tmp_path: Path) -> None:
    first = tar_bytes([("a.txt", b"1")])[:1024]
    paths = [tmp_path / f"{number}.tar" for number in range(4)]
    for path, size in zip(paths, (1 << 40, (1 << 63) - 1, 8**11 - 1), strict=False):
        path.write_bytes(first + header("b.png", size))
    negative = bytearray(header("b.png", 0))
    negative[124:136] = b"\xff" * 12
    negative[148:156] = b" " * 8
    negative[148:156] = b"%06o\0 " % sum(negative)
    paths[3].write_bytes(first + bytes(negative) + END)
    *told, last = looked_at("tar", *paths)
    assert all("member `b.png` is cut short" in text for text in told)
    assert "a damaged header" in last


def test_what_is_large_beyond_reason(tmp_path: Path) -> None:
    size = 200 << 20
    members = [holes(tmp_path / f"{name}.tar", header(name, size), size) for name in ("a.png", "a.json")]
    for kind in (b"L", b"x"):
        path = tmp_path / f"{kind.decode()}.tar"
        members.append(holes(path, header("././@LongLink", size, kind), size, header("a.txt", 0) + END))
    told = looked_at("tar", *members)
    assert all("has 209,715,200 bytes" in text for text in told[:2])
    assert all("a header of 209,715,200 bytes for one name" in text for text in told[2:])


def test_pax_records_that_go_nowhere(tmp_path: Path) -> None:
    paths = []
    records = (b"0 path=a.txt\n", b"99999999 path=x\n", b"5 =\n", b"9" * 1000, b"12 path=\xff.txt\n" * 500)
    for number, record in enumerate(records):
        extra = header("x", len(record), b"x") + record + bytes(-len(record) % 512)
        paths.append(tmp_path / f"{number}.tar")
        paths[-1].write_bytes(extra + header("a.txt", 1) + b"1" + bytes(511) + END)
    assert len(looked_at("tar", *paths)) == 5


def test_many_members_and_many_names(tmp_path: Path) -> None:
    many, long, kinds = (tmp_path / f"{name}.tar" for name in ("many", "long", "kinds"))
    many.write_bytes(b"".join(header(f"{number}.txt", 0) for number in range(20_000)) + END)
    name = ("d/" * 30_000 + "x.txt").encode()
    extra = header("././@LongLink", len(name), b"L") + name + bytes(-len(name) % 512)
    long.write_bytes((extra + header("x", 0)) * 200 + END)
    kinds.write_bytes(b"".join(header(f"a.{number}", 0) for number in range(3000)) + END)
    told = looked_at("tar", many, long, kinds)
    assert told[0] == ""
    assert "more than 1,000 extensions" in told[2]


def test_json_that_was_made_to_be_large_in_memory(tmp_path: Path) -> None:
    contents = (
        b"[" * 10_000_000,
        b'{"a":' * 1_000_000,
        b"[" + b"{}," * 5_000_000 + b"0]",
        json.dumps({f"k{number}": 1 for number in range(200_000)}).encode(),
    )
    paths = [tmp_path / f"{number}.tar" for number in range(4)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(tar_bytes([("a.json", content)]))
    *told, last = looked_at("tar", *paths)
    assert all("not JSON" in text for text in told)
    assert last == ""


def test_archives_in_archives(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50 << 20), 9)
    (tmp_path / "a.tar").write_bytes(bomb)
    (tmp_path / "b.tar").write_bytes(tar_bytes([("a.png", bomb), ("b.txt.gz", bomb)]))
    told = looked_at("tar", tmp_path / "a.tar", tmp_path / "b.tar")
    assert "compressed" in told[0]
    assert told[1] == ""


def test_nothing_is_read_from_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    folder = tmp_path / "data"
    folder.mkdir()
    data = b"".join(
        [
            special("a.txt", tarfile.SYMTYPE, str(secret)),
            special("b.txt", tarfile.LNKTYPE, str(secret)),
            special("c", tarfile.SYMTYPE, str(tmp_path)),
            tar_bytes([("c/secret.txt", b"mine"), ("../secret.txt", b"mine"), (str(secret), b"mine")]),
        ]
    )
    (folder / "a.tar").write_bytes(data)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = open_tars(str(folder / "a.tar"))
    rows, told = [], []
    for index in range(len(found)):
        try:
            rows.append(found.row(index))
        except DataError as error:
            told.append(str(error))
    assert [row["txt"] for row in rows] == ["mine"]  # the file of the archive, below no link
    assert len(told) == 4
    assert not any("the secret" in text for text in told)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before  # nothing was unpacked


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pickle = b"cos\nsystem\n(S'touch %s'\ntR." % str(mark).encode()
    names = ("a.pyd", "a.pickle", "a.pkl", "a.pth", "a.pt", "a.npy", "a.npz", "a.cls")
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.txt", b"1"), *((name, pickle) for name in names)]))
    found = open_tars(str(tmp_path / "a.tar"))
    assert {"npy", "npz"} <= found.row(0).keys()
    assert not {"pyd", "pickle", "pkl", "pth", "pt"} & found.row(0).keys()
    assert not mark.exists()


def rewritten(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new))


def test_parquet_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    zeros = pa.table({"a": [bytes(16 << 20)] * 8})
    pq.write_table(zeros, path, compression="zstd", use_dictionary=False, write_statistics=False)
    assert path.stat().st_size < 100_000
    assert "bytes that say to become" in looked_at("parquet", path)[0]


def test_a_footer_that_lies_about_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"a": [bytes(16 << 20)] * 8}),
        path,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    told = pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    old = _varint(2 * told)
    rewritten(path, old, bytes([2000 & 127 | 128, 2000 >> 7 | 128]) + b"\x80" * (len(old) - 3) + b"\x00")
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 1000
    assert "bytes that say to become" in looked_at("parquet", path)[0]


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def test_a_dictionary_of_one_large_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that all hold it would take a hundred times the memory: they are unpacked a few at a time, up to a bound."""
    from finesight.data.sources import arrow

    value = os.urandom(1 << 20)
    held = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([value]))
    pq.write_table(
        pa.table({"a": held}), tmp_path / "a.parquet", store_schema=False, dictionary_pagesize_limit=8 << 20
    )
    assert (tmp_path / "a.parquet").stat().st_size < 2 << 20
    monkeypatch.setattr(arrow, "_LARGEST_BLOCK", 64 << 20)
    before = pa.total_allocated_bytes()
    monkeypatch.setattr(arrow, "_SLICE_BYTES", 8 << 20)
    with pytest.raises(DataError, match="row group 1 takes"):
        open_tables(str(tmp_path / "a.parquet")).row(0)
    assert pa.total_allocated_bytes() - before < 200 << 20


def test_footers_that_claim_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    nothing = pa.table({"a": pa.nulls(20_000_000, pa.int8())})
    pq.write_table(nothing, path, row_group_size=20_000_000, max_rows_per_page=20_000_000)
    assert "rows in" in looked_at("parquet", path)[0]


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_bombs(form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    content = pa.table({"a": [bytes(300 << 20)]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as stream, new(stream, content.schema, options=options) as writer:
        writer.write_table(content)
    del content
    assert path.stat().st_size < 1 << 20
    assert "bytes that say to become" in looked_at("parquet", path)[0]


def test_offsets_that_lie_outside(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    content = pa.table({"a": [b"first", b"second"]})
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, content.schema) as writer:
        writer.write_table(content)
    paths = []
    for number, bad in enumerate(((0, 5, 1 << 30), (0, -7, 11), (1 << 20, 5, 11))):
        paths.append(tmp_path / f"{number}.arrow")
        paths[-1].write_bytes(path.read_bytes())
        rewritten(paths[-1], struct.pack("<iii", 0, 5, 11), struct.pack("<iii", *bad))
    assert all("cannot be read" in told for told in looked_at("parquet", *paths))


def test_annotations_that_are_large_or_deep(tmp_path: Path) -> None:
    paths = []
    for number, content in enumerate(
        (
            b'{"images": ' + b"[" * 100_000,
            b'{"images": [' + b'{"a":' * 100_000,
            b'{"x": "' + b"a" * (200 << 20) + b'"}',
            b'{"images": [{"id": 1, "file_name": "' + b"a" * (64 << 20) + b'"}]}',
        )
    ):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_bytes(content)
    assert all(looked_at("coco", *paths))
