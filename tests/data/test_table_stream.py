"""Tables at addresses, read from front to back: the rows are those of a reader by number."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finesight.config.sources import CsvSource, JsonSource, PairsSource
from finesight.core.errors import DataError
from finesight.data.sources import open_source, table_stream
from finesight.data.sources.table_stream import TableStream


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def put(name: str, content: bytes) -> str:
    import fsspec

    with fsspec.open(f"memory://{name}", "wb") as stream:
        stream.write(content)
    return f"memory://{name}"


def shown(rows: Any) -> list[Any]:
    return [str(row.faults[0].what) if isinstance(row, DataError) else dict(row) for row in rows]


def by_number(reader: Any) -> list[Any]:
    found = []
    for index in range(len(reader)):
        try:
            found.append(dict(reader.row(index)))
        except DataError as error:
            found.append(str(error.faults[0].what))
    return found


def csv_bytes(rows: list[list[str]], ending: str = "\n") -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=ending).writerows([["a", "b"], *rows])
    return buffer.getvalue().encode()


CELLS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r"), max_size=12)
ROWS = st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=12)


@settings(max_examples=30)
@given(rows=ROWS, block=st.integers(1, 40), mark=st.booleans(), ending=st.sampled_from(["\n", "\r\n"]))
def test_rows_of_a_csv_are_those_by_number(
    rows: list[list[str]], block: int, mark: bool, ending: str
) -> None:
    path = put("rows.csv", (b"\xef\xbb\xbf" if mark else b"") + csv_bytes(rows, ending))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_stream, "_BLOCK", block)
        found = shown(TableStream(path).iter_rows())
    assert found == by_number(open_source(CsvSource(source="csv", path=path)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | CELLS, lambda inner: st.lists(inner, max_size=3)
)
LINES = st.lists(
    st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1)
    | st.sampled_from(["", "  ", "{", "[1]", '{"a": NaN}']),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30)
@given(lines=LINES, block=st.integers(1, 40))
def test_rows_of_json_lines_are_those_by_number(lines: list[Any], block: int) -> None:
    text = "\n".join(
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines
    )
    path = put("rows.jsonl", ('{"a": 1}\n' + text).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_stream, "_BLOCK", block)
        found = shown(TableStream(path).iter_rows())
    expected = by_number(open_source(JsonSource(source="json", path=path)))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == theirs or (isinstance(ours, str) and isinstance(theirs, str))


def test_it_may_begin_anywhere_and_knows_where_rows_stand() -> None:
    for number in range(2):
        put(f"part-{number}.csv", csv_bytes([[f"{number}-{row}", "x"] for row in range(4)]))
    stream = TableStream("memory://part-{0..1}.csv")
    assert stream.columns == ("a", "b") and stream.root == "memory://"
    every = [row["a"] for row in stream.iter_rows()]
    assert every == ["0-0", "0-1", "0-2", "0-3", "1-0", "1-1", "1-2", "1-3"]
    for start in range(10):
        assert [row["a"] for row in stream.iter_rows(start)] == every[start:]
    assert [str(stream.origin(index)).rpartition("part-")[2] for index in (0, 3, 4, 7)] == [
        "0.csv, row 1", "0.csv, row 4", "1.csv, row 1", "1.csv, row 4"
    ]  # fmt: skip


def test_which_sources_are_read_so() -> None:
    path = put("rows.csv", csv_bytes([["1", "2"]]))
    assert isinstance(open_source(CsvSource(source="csv", path=path, stream=True)), TableStream)
    assert not isinstance(open_source(CsvSource(source="csv", path=path)), TableStream)
    pairs = PairsSource(source="pairs", path=put("rows.tsv", b"a\tb\n1\t2\n"), stream=True)
    assert [dict(row) for row in open_source(pairs).iter_rows()] == [{"a": "1", "b": "2"}]  # type: ignore[attr-defined]


def test_letters_of_older_programs() -> None:
    path = put("rows.csv", "größe,b\né,2\n".encode("cp1252"))
    source = CsvSource(source="csv", path=path, stream=True, encoding="cp1252")
    assert [dict(row) for row in open_source(source).iter_rows()] == [{"größe": "é", "b": "2"}]  # type: ignore[attr-defined]


def test_the_identity_changes_with_the_file() -> None:
    path = put("rows.csv", csv_bytes([["1", "2"]]))
    before = TableStream(path).identity()
    put("rows.csv", csv_bytes([["1", "2"], ["3", "4"]]))
    assert TableStream(path).identity() != before


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b'a,b\n1,2\n"3,4\n', "a quote is opened and not closed"),
        ("a.csv", b"a,a\n1,2\n", "two columns are named `a`"),
        ("a.csv", b"", "the file is empty|there is no row"),
        ("a.csv", b"a,b\n", "there is no row"),
        ("a.jsonl", b"\n\n", "there is no row"),
        ("a.jsonl", b"nonsense\n", "not JSON"),
        ("a.csv", b"a,b\n1\n", "1 fields, the header 2"),
        ("a.csv", b"a,b\n\xff,1\n", "not UTF-8"),
    ],
)
def test_what_is_wrong_is_told(name: str, content: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        list(TableStream(put(name, content)).iter_rows())
    assert name in caught.value.faults[0].where


def test_a_row_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_stream, "LARGEST_ROW", 1000)
    monkeypatch.setattr(table_stream, "_BLOCK", 100)
    with pytest.raises(DataError, match="a row has more than"):
        TableStream(put("a.jsonl", b'{"a": 1}\n' + b"x" * 5000))
