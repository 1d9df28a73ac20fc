"""JSON and JSON Lines: values as JSON has them, each fault told with its row, a broken row never hides the others."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finesight.config.sources import JsonSource
from finesight.core.errors import DataError
from finesight.data.files import index
from finesight.data.sources.json import JsonReader, open_json, parse_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), min_size=1, max_size=6)


def reader_of(path: Path, data: bytes | str) -> JsonReader:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return JsonReader(path, path.parent)


def all_rows(found: JsonReader) -> list[object]:
    return [found.row(number) for number in range(len(found))]


@given(ROWS, st.booleans(), st.booleans(), st.integers(0, 2))
def test_rows_equal_the_standard_librarys(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict], bom: bool, plain: bool, indent: int
) -> None:
    folder, mark = tmp_path_factory.getbasetemp(), "\ufeff" * bom
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    listed = json.dumps(rows, ensure_ascii=plain, indent=indent or None)
    lines = "\r\n\n".join(json.dumps(row, ensure_ascii=plain) for row in rows)
    held = f'{{"info": [1, {{}}], "rows": {json.dumps(rows, ensure_ascii=plain)}, "n": 1}}'
    for name, text in (("r.json", listed), ("r.jsonl", lines), ("r.ndjson", lines), ("h.json", held)):
        found = reader_of(folder / name, mark + text)
        assert all_rows(found) == rows
        assert found.columns == columns


def test_what_a_reader_says_of_itself(tmp_path: Path) -> None:
    found = reader_of(tmp_path / "rows.jsonl", '{"a": 1}\n\n{"b": [2]}')
    assert (len(found), found.columns, found.notes) == (2, ("a", "b"), ())
    assert (found.file, found.root) == (str(tmp_path / "rows.jsonl"), str(tmp_path))
    assert str(found.origin(1)) == f"{tmp_path}/rows.jsonl, row 2"
    assert found.row(1, ["b"])["b"] == [2]
    assert found.verify() and found.identity()
    assert pickle.loads(pickle.dumps(found)).row(1) == {"b": [2]}
    for number in (-1, 2):
        with pytest.raises(IndexError):
            found.row(number)


BROKEN = [
    (b'{"caption": "b"', "is not JSON: .* at character 16"),
    (b"[1, 2]", "the row is a list, not an object"),
    (b'"text"', "the row is a str, not an object"),
    (b'{"caption": "caf\xe9"}', "is not JSON: byte 17 is not UTF-8"),
    (b'{"caption": NaN}', "NaN is no JSON"),
    (b'{"caption": -1e999}', "-1e999 is too large a number"),
    (b'{"caption": "c", "caption": "d"}', "the key 'caption' comes twice"),
    (b'{"caption": ' + b"9" * 5000 + b"}", "digits"),
    (b'{"caption": ' + b"[" * 100_000 + b"}", "nested too deeply"),
    (b'{"caption": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"caption": ' + b"[" * 65 + b"]" * 65 + b"}", "nested too deeply"),
    (b'{"caption": "\\ud83d"}', "character 1 of `caption` is half of a surrogate pair"),
    (b'{"caption": ["a", {"b": "\\udc00"}]}', "character 14 of `caption` is half of a surrogate pair"),
    (b'{"\\ud800": 1}', r"character 1 of `\\ud800` is half of a surrogate pair"),
    (b'{"caption": "' + b"," * (5 << 20) + b'"}', "more than 1,000,000 values"),
]


@pytest.mark.parametrize("lines", [True, False])
def test_broken_rows_leave_the_others(tmp_path: Path, lines: bool) -> None:
    rows = [b'{"caption": "a"}', *(row for row, _ in BROKEN), b'{"caption": "\\ud83d\\ude00"}']
    if not lines:  # in a list, brackets must pair up for the rows to be told apart
        rows[1], rows[9] = b'{"caption":"b" 1}', rows[10]
    path = tmp_path / ("rows.jsonl" if lines else "rows.json")
    found = reader_of(path, b"\n\n".join(rows) if lines else b"[" + b",\n".join(rows) + b"]")
    assert (found.row(0), found.row(len(found) - 1)) == ({"caption": "a"}, {"caption": "😀"})
    assert len(found) == len(rows)
    for number, (_, reason) in enumerate(BROKEN, 1):
        where = f"line {2 * number + 1}" if lines else "the row"
        pattern = (
            reason.replace("is not JSON", f"{where} is not JSON")
            if number != 1 or lines
            else "the row is not JSON"
        )
        with pytest.raises(DataError, match=pattern) as caught:
            found.row(number)
        assert caught.value.faults[0].where.startswith(f"{path}, row {number + 1}")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ('[{"a": 1},\n{"a": ]', "not JSON: .* at line 2, character 7"),
        ('[{"a": 1},\n{"a": "', "not JSON: .* at line 2, character 7"),
        ('{"rows": []}', "not hold a list of rows"),
        ('{"rows": [1, 2], "a": {"b": [{}]}}', "not hold a list of rows"),
        ('{"a": [{}], "b": [ {}]}', "several lists of rows: `a`, `b`"),
        ('{"a": [{}], "a": [{}]}', "several lists of rows: `a`, `a`"),
        ('{"image": "a.png"}', "not hold a list of rows"),
        ("[]", "there is no row"),
        ("[ \n]", "there is no row"),
        ("{}", "not hold a list of rows"),
        ("[1,,2]", "not JSON"),
        ('[{"a": 1},]', "not JSON"),
        ('[{"a": 1}] {"b": 2}', "not JSON: Extra data"),
        ("[" * 200_000, "nested too deeply"),
        ('"[]"', "not hold a list of rows"),
        ("12", "not hold a list of rows"),
        (b"\x89PNG\r\n\x1a\n", "byte 1 is not UTF-8"),
        ("[]".encode("utf-16"), "byte 1 is not UTF-8"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: bytes | str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        reader_of(tmp_path / "rows.json", text)
    assert caught.value.faults[0].where == str(tmp_path / "rows.json")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n \r\n"])
def test_no_lines(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="there is no row"):
        reader_of(tmp_path / "rows.jsonl", data)


def test_a_list_under_a_key_is_taken_and_said(tmp_path: Path) -> None:
    text = (
        '{"info": {"data": [{}]}, "names": ["x"], "annot\\u0061tions" : [\n{"id": 1}, {"id": 2}], "more": []}'
    )
    found = reader_of(tmp_path / "rows.json", text)
    assert all_rows(found) == [{"id": 1}, {"id": 2}]
    assert found.notes == (("guess", f"{tmp_path}/rows.json: its list `annotations` is taken as the rows"),)
    assert pickle.loads(pickle.dumps(found)).row(1) == {"id": 2}


def test_json_lines_under_another_name_are_read_and_said(tmp_path: Path) -> None:
    found = reader_of(tmp_path / "rows.json", '\ufeff {"a": [{"b": 1}]}\n{"a": 2}\n')
    assert all_rows(found) == [{"a": [{"b": 1}]}, {"a": 2}]
    assert found.notes == (("guess", f"{tmp_path}/rows.json holds one object after another: one row a line"),)


def test_columns_of_many_rows(tmp_path: Path) -> None:
    rows = [{"a": 1, f"early{number % 7}": 1} for number in range(1000)] + [{"a": 1} for _ in range(9000)]
    rows[500] = [1]
    for number in range(5000, 5100):
        rows[number] = {"late": 1}
    rows[-3] = {"seldom": 1}
    found = reader_of(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    assert found.columns == ("a", *(f"early{number}" for number in range(7)), "late")
    assert found.row(len(found) - 3) == {"seldom": 1}


def test_an_index_of_items_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    rows = [{"number": number, "text": "a" * 500} for number in range(3000)]
    texts = {"rows.json": json.dumps(rows), "rows.jsonl": "\n".join(map(json.dumps, rows))}
    texts["held.json"] = f'{{"x": 1, "rows": {texts["rows.json"]}}}'
    for name, text in texts.items():
        assert reader_of(tmp_path / name, text).row(2999) == rows[2999]
        monkeypatch.setattr(index.FileIndex, "_found", None)  # no further scan
        again = JsonReader(tmp_path / name, tmp_path)
        assert again.row(1234) == rows[1234] and len(again) == 3000
        assert len(pickle.dumps(again)) < 2000
        monkeypatch.undo()
        monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))


def test_places_and_sources(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"a": "b"}]')
    assert open_json(JsonSource(source="json", path=str(tmp_path / "rows.json"))).row(0) == {"a": "b"}
    with pytest.raises(DataError, match=r"did you mean rows\.json"):
        open_json(JsonSource(source="json", path=str(tmp_path / "row.json")))
    with pytest.raises(DataError, match="this is not a file"):
        open_json(JsonSource(source="json", path=str(tmp_path)))
    (tmp_path / "rows").write_text('{"a": 1}\n{"a": 2}\n')
    assert len(open_json(JsonSource(source="json", path=str(tmp_path / "rows")))) == 2


def test_numbers_are_those_of_json() -> None:
    assert parse_json(b"[1, -0.5, 1e3, true, null]") == [1, -0.5, 1000.0, True, None]
    assert parse_json(b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}")


# T33: files that are made to exhaust a reader. Each is opened in a process of its own, whose memory is watched.

OPEN = """
import resource, sys, time
from pathlib import Path
from finesight.core.errors import DataError
from finesight.data.sources.csv import CsvReader
from finesight.data.sources.json import JsonReader
path = Path(sys.argv[1])
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    found = CsvReader(path, ",", path.parent) if path.suffix == ".csv" else JsonReader(path, path.parent)
    found.row(0)
except DataError as error:
    print(error.faults[0].what)
else:
    print("read")
print(time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
GIGABYTE = 10**9
WHOLE = 1 << 26
"""Bytes of a piece that is written again and again."""

BOMBS = {
    "line.jsonl": (b'{"a": "', b"x", b'"}', "the row has 953 MiB"),
    "line.json": (b'[{"a": "', b"x", b'"}]', "the row has 953 MiB"),
    "object.json": (b'{"a": "', b"x", b'"}', "does not hold a list of rows"),
    "open.json": (b'[{"a": "', b"x", b"", "a quote is opened and not closed"),
    "nested.json": (b"[", b"[", b"", "nested too deeply"),
    "field.csv": (b"a,b\n1,", b"x", b"\n", "the row has 953 MiB"),
    "header.csv": (b"a,", b"x", b"\n1,2\n", "too long for the names of columns"),
    "quote.csv": (b'a,b\n1,"', b"x", b"", "a quote is opened and not closed"),
    "blank.csv": (b"a,b\n", b"\0", b"\n1,2\n", "the row has 953 MiB"),
}


@pytest.mark.proof
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_little_memory_and_time(tmp_path: Path, name: str) -> None:
    first, filling, last, what = BOMBS[name]
    path = tmp_path / name
    with open(path, "wb") as stream:
        stream.write(first)
        for _ in range(GIGABYTE // WHOLE + 1):
            stream.write(filling * min(WHOLE, GIGABYTE - stream.tell()))
        stream.write(last)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, check=False
    )
    path.unlink()
    told, _, measured = done.stdout.partition("\n")
    assert what in told, done.stderr
    seconds, memory = map(float, measured.split())
    assert memory * (1 if sys.platform == "darwin" else 1024) < 128 << 20
    assert seconds < 2
