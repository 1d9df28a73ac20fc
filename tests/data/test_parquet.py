"""Parquet and Arrow files as one table: equal to what pyarrow reads, whatever the file and the order."""

import json
import pickle
import random
import threading
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from archives import pictures, table

from finesight.config.sources import ParquetSource
from finesight.core.errors import DataError
from finesight.data.samples import open_rows
from finesight.data.sources.arrow import JSON_TEXT
from finesight.data.sources.parquet import ParquetReader, open_tables


def write(file: Path, content: pa.Table, form: str) -> Path:
    match form:
        case "parquet":
            pq.write_table(content, file, row_group_size=3)
        case "parquet of pages":
            pq.write_table(
                content, file, row_group_size=7, compression="zstd", data_page_size=500, use_dictionary=False
            )
        case "feather":
            feather.write_feather(content, file, compression="lz4", chunksize=4)
        case "arrow":
            with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, content.schema) as writer:
                writer.write_table(content, max_chunksize=4)
        case "stream":
            with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, content.schema) as writer:
                writer.write_table(content, max_chunksize=4)
        case "compressed stream":
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            with (
                pa.OSFile(str(file), "wb") as stream,
                pa.ipc.new_stream(stream, content.schema, options=options) as writer,
            ):
                writer.write_table(content, max_chunksize=4)
    return file


FORMS = {
    "parquet": "a.parquet", "parquet of pages": "b.parquet", "feather": "c.feather",
    "arrow": "d.arrow", "stream": "e.arrow", "compressed stream": "f.arrows",
}  # fmt: skip


def expected(content: pa.Table) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value is not None} for row in content.to_pylist()]


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_any_order(tmp_path: Path, form: str) -> None:
    content = table(20)
    found = open_tables(str(write(tmp_path / FORMS[form], content, form)))
    rows = expected(content)
    assert len(found) == 20
    assert found.columns == tuple(content.column_names)
    order = random.Random(2).sample(range(20), 20)
    assert [found.row(index) for index in order] == [rows[index] for index in order]
    assert [found.row(index, ("caption", "score")) for index in order] == [
        {name: rows[index][name] for name in ("caption", "score") if name in rows[index]} for index in order
    ]
    assert found.row(3, ()) == {}
    assert [found.origin(index).row for index in order] == [index + 1 for index in order]
    for index in (-1, 20):
        with pytest.raises(IndexError):
            found.row(index)


def test_several_files_stand_in_the_order_of_their_names(tmp_path: Path) -> None:
    start = 0
    for form, name in FORMS.items():
        write(tmp_path / name, table(5, start), form)
        start += 5
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "_metadata.parquet").write_text("x")
    found = open_tables(str(tmp_path))
    assert [found.row(index)["number"] for index in range(30)] == [*range(30)]
    assert str(found.origin(12)) == f"{tmp_path}/c.feather, row 3"
    assert found.root == str(tmp_path)
    for pattern, count in (("*.parquet", 10), ("{a,c}.*", 10), ("d.arrow", 5)):
        assert len(open_tables(str(tmp_path / pattern))) == count


def test_projection_reads_no_other_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_tables(str(write(tmp_path / "a.parquet", table(20), "parquet")))
    asked: list[Any] = []
    held = pq.ParquetFile.iter_batches

    def iter_batches(self: Any, *given: Any, columns: Any, **named: Any) -> Any:
        asked.append((given, named["row_groups"], columns))
        return held(self, *given, columns=columns, **named)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    assert [found.row(index, ("caption",))["caption"] for index in range(6)]
    assert [(groups, columns) for _, groups, columns in asked] == [([0], ["caption"]), ([1], ["caption"])]


def test_few_row_groups_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finesight.data.sources import parquet

    monkeypatch.setattr(parquet, "_HELD", 5000)
    found = open_tables(str(write(tmp_path / "a.parquet", table(24), "parquet")))
    for index in range(24):
        found.row(index)
        assert len(found._held) == 1 or sum(size for _, size in found._held.values()) <= 5000
    assert len(found._held) < 8


def test_types_that_json_lacks(tmp_path: Path) -> None:
    from datetime import UTC, date, datetime
    from decimal import Decimal

    content = pa.table(
        {
            "day": [date(2024, 2, 29)],
            "at": [datetime(2024, 2, 29, 12, 30, tzinfo=UTC)],
            "price": [Decimal("1.10")],
            "nan": [float("nan")],
            "inf": [[float("inf"), 1.0]],
            "map": pa.array([[("a", 1), ("b", 2)]], pa.map_(pa.string(), pa.int32())),
            "large": pa.array(["x"], pa.large_string()),
            "fixed": pa.array([b"ab"], pa.binary(2)),
            "view": pa.array(["long enough to be no inline view"], pa.string_view()),
            "half": pa.array([1.5], pa.float16()),
            "none": pa.nulls(1),
        }
    )
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as stream,
        pa.ipc.new_file(stream, content.schema) as writer,
    ):
        writer.write_table(content)
    found = open_tables(str(tmp_path / "a.arrow"))
    row = found.row(0)
    assert row == {
        "day": "2024-02-29",
        "at": "2024-02-29T12:30:00+00:00",
        "price": "1.10",
        "inf": [None, 1.0],
        "map": {"a": 1, "b": 2},
        "large": "x",
        "fixed": b"ab",
        "view": "long enough to be no inline view",
        "half": 1.5,
    }
    json.dumps({name: value for name, value in row.items() if name != "fixed"}, allow_nan=False)


def test_columns_of_json_texts(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("any", pa.string(), metadata=JSON_TEXT), pa.field("text", pa.string())])
    content = pa.table(
        {"any": ['{"a": [1, null]}', "3", "null", "{"], "text": ['{"a": 1}', "3", "null", "{"]}, schema
    )
    found = open_tables(str(write(tmp_path / "a.parquet", content, "parquet")))
    assert [found.row(index) for index in range(3)] == [
        {"any": {"a": [1, None]}, "text": '{"a": 1}'},
        {"any": 3, "text": "3"},
        {"text": "null"},
    ]
    with pytest.raises(DataError, match="row cannot be read"):
        found.row(3)


def refused(path: Path | str, what: str) -> DataError:
    with pytest.raises(DataError, match=what) as caught:
        open_tables(str(path))
    return caught.value


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, data, what in (
        ("a.parquet", b"", "empty"),
        ("b.parquet", b"PAR1" + bytes(100), "cannot be read"),
        ("c.parquet", b"a,b\n1,2\n", "neither a parquet nor an Arrow file"),
        ("d.arrow", b"ARROW1\0\0" + bytes(50), "cannot be read"),
        ("e.arrow", b"\xff\xff\xff\xff" + bytes(50), "no columns|cannot be read"),
        ("f.feather", b"FEA1" + bytes(50), "old version 1"),
        ("g.parquet", b"PARE" + bytes(50), "encrypted"),
    ):
        (tmp_path / name).write_bytes(data)
        error = refused(tmp_path / name, what)
        assert str(tmp_path / name) in error.faults[0].where
    refused(tmp_path / "none", "does not exist")
    (tmp_path / "sub").mkdir()
    refused(tmp_path / "sub", "no file in this folder")
    pq.write_table(table(3).slice(0, 0), tmp_path / "h.parquet")
    refused(tmp_path / "h.parquet", "no row")
    twice = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(twice, tmp_path / "i.parquet")
    refused(tmp_path / "i.parquet", "two columns are named `x`")


def test_files_of_different_tables_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": [2.5]}), tmp_path / "2.parquet")
    assert [open_tables(str(tmp_path)).row(index) for index in (0, 1)] == [
        {"a": 1, "b": "x"},
        {"a": 2.5, "b": "y"},
    ]
    pq.write_table(pa.table({"a": [3], "b": pa.nulls(1)}), tmp_path / "3.parquet")
    assert open_tables(str(tmp_path)).row(2) == {"a": 3}
    pq.write_table(pa.table({"a": [1], "c": ["x"]}), tmp_path / "4.parquet")
    refused(tmp_path, "lacks `b` and has `c` more, compared with .*1.parquet")
    pq.write_table(pa.table({"a": ["1"], "b": ["x"]}), tmp_path / "4.parquet")
    error = refused(tmp_path, "column `a` has the type string here, and int64 in .*1.parquet")
    assert "4.parquet" in error.faults[0].where
    pq.write_table(pa.table({"a": [1], "b": [["x"]]}), tmp_path / "4.parquet")
    refused(tmp_path, "column `b`")


def test_an_unsupported_type_is_named(tmp_path: Path) -> None:
    union = pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])])
    content = pa.table({"a": [1], "u": union})
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as stream,
        pa.ipc.new_file(stream, content.schema) as writer,
    ):
        writer.write_table(content)
    refused(tmp_path / "a.arrow", "column `u` has the type dense_union")


def test_a_text_that_is_none_is_its_rows_fault(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"caf\xe9", b"three"], pa.binary()).view(pa.string())
    for form in ("parquet", "arrow"):
        found = open_tables(str(write(tmp_path / FORMS[form], pa.table({"t": texts, "n": [1, 2, 3]}), form)))
        assert [found.row(index)["t"] for index in (0, 2)] == ["one", "three"]
        assert found.row(1, ("n",)) == {"n": 2}
        with pytest.raises(DataError, match="cannot be read") as caught:
            found.row(1)
        assert caught.value.faults[0].where.endswith("row 2")


def test_other_processes_and_threads(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(20), "parquet")
    write(tmp_path / "b.arrow", table(20, 20), "arrow")
    found = open_tables(str(tmp_path))
    expected = [found.row(index) for index in range(40)]
    again: ParquetReader = pickle.loads(pickle.dumps(found))
    assert [again.row(index) for index in range(40)] == expected
    wrong: list[int] = []

    def look(seed: int) -> None:
        order = random.Random(seed).choices(range(40), k=200)
        wrong.extend(index for index in order if again.row(index) != expected[index])

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    import os

    found = open_tables(str(write(tmp_path / "a.parquet", table(20), "parquet")))
    expected = [found.row(index)["number"] for index in range(20)]
    child = os.fork()
    if not child:
        os._exit(0 if [found.row(index)["number"] for index in range(20)] == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [found.row(index)["number"] for index in range(20)] == expected


def test_files_at_an_address(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for form, name in FORMS.items():
        files.pipe(f"/tables/{name}", write(tmp_path / name, table(5), form).read_bytes())
    found = open_tables("memory://tables")
    assert [found.row(index)["number"] for index in range(30)] == [*range(5)] * 6


def test_samples_of_conversations(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(6).drop_columns(["caption"]), "parquet")
    found = open_rows(ParquetSource(source="parquet", path=str(tmp_path)))
    sample = found.sample(4)
    assert sample is not None
    assert sample.images[0].data == pictures()[4][1]
    assert [turn.text for turn in sample.messages] == [pictures()[4][2], "é"]


def test_a_row_group_too_large_says_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finesight.data.sources import arrow

    write(tmp_path / "a.parquet", table(20), "parquet")
    monkeypatch.setattr(arrow, "_LARGEST_BLOCK", 1000)
    found = open_tables(str(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match="row group 1 takes") as caught:
        found.row(0)
    assert "row_group_size=100" in caught.value.faults[0].mend
    assert found.row(0, ("number",)) == {"number": 0}
