"""Archives with random damage: rows, or a DataError that names file and row; never another error, never a hang."""

import base64
import random
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import annotations, rows_as_members, table, tar_bytes

from finesight.config.sources import CocoSource, ParquetSource, Source, TarSource
from finesight.core.errors import DataError
from finesight.data.pictures.load import load_picture
from finesight.data.samples import open_rows
from finesight.data.sources.tar import open_tar

pytestmark = pytest.mark.proof

MUTANTS = 150
SECONDS = 5

Made = tuple[Path, Source]


def tar_file(folder: Path) -> Made:
    file = folder / "a.tar"
    file.write_bytes(tar_bytes(rows_as_members(8)))
    return file, TarSource(source="tar", path=str(file), tags=("kind",))


def tar_with_long_names(folder: Path) -> Made:
    import tarfile

    file = folder / "a.tar"
    members = [(name.replace("train", "x" * 120), data) for name, data in rows_as_members(6)]
    file.write_bytes(
        tar_bytes(members, tarfile.PAX_FORMAT)
        if folder.name[-1] in "02468"
        else tar_bytes(members, tarfile.GNU_FORMAT)
    )
    return file, TarSource(source="tar", path=str(file))


def parquet_file(folder: Path) -> Made:
    file = folder / "a.parquet"
    pq.write_table(table(12).drop_columns(["messages"]), file, row_group_size=5, compression="zstd")
    return file, ParquetSource(source="parquet", path=str(file), tags=("kind",))


def plain_parquet(folder: Path) -> Made:
    """Without compression, of which damage in the pages themselves would be found."""
    file = folder / "a.parquet"
    pq.write_table(
        table(12).drop_columns(["messages"]), file, row_group_size=5, compression="none", use_dictionary=False
    )
    return file, ParquetSource(source="parquet", path=str(file))


def arrow_file(folder: Path) -> Made:
    file = folder / "a.arrow"
    content = table(12).drop_columns(["messages"])
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, content.schema) as writer:
        writer.write_table(content, max_chunksize=5)
    return file, ParquetSource(source="parquet", path=str(file), tags=("kind",))


def packed_arrow_file(folder: Path) -> Made:
    file = folder / "a.arrow"
    content = table(12).drop_columns(["messages"])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        pa.OSFile(str(file), "wb") as stream,
        pa.ipc.new_file(stream, content.schema, options=options) as writer,
    ):
        writer.write_table(content, max_chunksize=5)
    return file, ParquetSource(source="parquet", path=str(file))


def arrow_stream(folder: Path) -> Made:
    file = folder / "a.arrow"
    content = table(12).drop_columns(["messages"])
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, content.schema) as writer:
        writer.write_table(content, max_chunksize=5)
    return file, ParquetSource(source="parquet", path=str(file))


def coco_file(folder: Path) -> Made:
    file = annotations(folder)
    return file, CocoSource(source="coco", path=str(file), tags=("vizwiz_url",))


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A few changes: bits, bytes, runs, cuts, repeats; mostly at the beginning and the end, where the structure is."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        near = draw.random()
        at = draw.randrange(len(data) + 1)
        if near < 0.3:
            at = min(len(data), draw.randrange(1200))
        elif near < 0.6:
            at = max(0, len(data) - draw.randrange(1, 1500))
        kind = draw.randrange(7)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = (
                data[:at]
                + draw.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"0" * 12))
                + data[at + 8 :]
            )
        elif kind == 2:
            data = data[:at] + draw.randbytes(draw.randint(1, 16)) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + draw.randint(1, 600) :]
        elif kind == 4:
            data = data[: at or 1]
        elif kind == 5:
            data = data[:at] + data[at : at + draw.randint(1, 2000)] + data[at:]
        elif at < len(data):
            stop = min(len(data), at + draw.randint(1, 200))
            data = data[:at] + draw.randbytes(stop - at) + data[stop:]
    return data


MAKERS = [
    *(tar_file, tar_with_long_names, coco_file),
    *(parquet_file, plain_parquet, arrow_file, packed_arrow_file, arrow_stream),
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_random_damage(make: Callable[[Path], Made], tmp_path: Path, proof_factor: int) -> None:
    file, source = make(tmp_path)
    whole = file.read_bytes()
    draw = random.Random(make.__name__)
    kept = faults = refused = 0
    for number in range(MUTANTS * proof_factor):
        mutant = damaged(whole, draw)
        file.write_bytes(mutant)
        began = time.perf_counter()
        try:
            kept_now, faults_now = _look(source, tmp_path)
        except DataError as error:
            refused += 1
            _check_words(error, tmp_path)
        except Exception as error:
            raise AssertionError(f"mutant {number}: {base64.b64encode(mutant).decode()}") from error
        else:
            kept += kept_now
            faults += faults_now
        assert time.perf_counter() - began < SECONDS
    assert kept > MUTANTS / 10
    assert faults > MUTANTS / 20
    assert refused > MUTANTS / 20 or isinstance(source, TarSource)


def _look(source: Source, folder: Path) -> tuple[int, int]:
    """How many rows are samples, and how many are faults."""
    opened = open_rows(source)
    kept = faults = 0
    for index in range(len(opened.reader)):
        try:
            sample = opened.sample(index)
            assert sample is not None
            for image in sample.images:
                load_picture(image.data, str(sample.origin))
            kept += 1
        except DataError as error:
            faults += 1
            _check_words(error, folder)
    assert kept + faults == len(opened.reader)
    if isinstance(source, TarSource):
        stream = open_tar(source.model_copy(update={"stream": True}))
        assert sum(1 for _ in stream.iter_rows()) >= 1  # type: ignore[union-attr]
    return kept, faults


def _check_words(error: DataError, folder: Path) -> None:
    assert all(fault.what and fault.where and fault.mend for fault in error.faults)
    assert str(folder) in str(error)
