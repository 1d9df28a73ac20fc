"""CSV files: rows at any offset equal those of the standard library, and each fault is told with its row."""

import csv
import io
import multiprocessing
import pickle
from operator import methodcaller
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import csv_source

from finesight.core.errors import DataError
from finesight.data.sources.csv import CsvReader, open_csv


def reader_of(path: Path, data: bytes | str, delimiter: str = ",") -> CsvReader:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return CsvReader(path, delimiter, path.parent)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
FIELD = st.one_of(
    TEXT, st.sampled_from(['"', '""', "a,b", "a\nb", "a\r\nb", "\r", " x ", "", "é\u2028ü\x85", ";\t"])
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[str]], dict[str, str]]:
    width = draw(st.integers(2, 4))
    header = draw(st.lists(FIELD, min_size=width, max_size=width, unique=True))
    body = draw(st.lists(st.lists(FIELD, min_size=width, max_size=width), min_size=1, max_size=5))
    form = {
        "delimiter": draw(st.sampled_from([",", ";", "\t", "|"])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])),
    }
    if any("\r" in field for row in (header, *body) for field in row):
        form["quoting"] = csv.QUOTE_ALL  # the standard library's writer leaves lone returns unquoted
    return [header, *body], form


@given(tables(), st.booleans())
def test_rows_equal_dict_reader(tmp_path_factory: pytest.TempPathFactory, table: tuple, bom: bool) -> None:
    rows, form = table
    text = io.StringIO(newline="")
    csv.writer(text, **form).writerows(rows)
    file = tmp_path_factory.getbasetemp() / "random.csv"
    found = reader_of(file, (b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode(), form["delimiter"])
    wanted = list(csv.DictReader(io.StringIO(text.getvalue(), newline=""), delimiter=form["delimiter"]))
    assert found.columns == tuple(rows[0])
    assert len(found) == len(wanted) == len(rows) - 1
    for index in (*range(len(found)), *reversed(range(len(found)))):
        assert found.row(index) == wanted[index]


PIECES = st.lists(
    st.sampled_from(['"', '"', '""', ",", ",", "\n", "\n", "\r\n", "a", "b c", "é", "\u2028", "\r"])
)


@given(PIECES, st.sets(st.sampled_from(["x", "y", "z", "none"])))
def test_whatever_the_standard_library_reads(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], columns: set[str]
) -> None:
    """Quotes anywhere: the same fields, or a row that says how many it has; of the wanted columns alone, too."""
    text = "x,y\n" + "".join(pieces)
    try:
        wanted = [row for row in csv.reader(io.StringIO(text, newline="\n"), strict=True) if row][1:]
    except csv.Error:
        wanted = []
    try:
        found = reader_of(tmp_path_factory.getbasetemp() / "any.csv", text)
    except DataError:
        assert not wanted
        return
    assert len(found) == len(wanted)
    for index, fields in enumerate(wanted):
        if len(fields) == 2:
            whole = dict(zip("xy", fields, strict=True))
            assert found.row(index) == whole
            assert found.row(index, columns) == {name: whole[name] for name in columns & {"x", "y"}}
        else:
            with pytest.raises(DataError, match=f"the row has {len(fields)} fields, the header 2"):
                found.row(index, columns)


def test_columns_that_are_not_wanted_are_not_decoded(file: Path) -> None:
    found = reader_of(file, b'a,b,c\n\xff,"x, ""y""",\xfe\n')
    assert found.row(0, ("b",)) == {"b": 'x, "y"'}
    with pytest.raises(DataError, match="byte 14 of the row is not UTF-8"):
        found.row(0, ("b", "c"))
    with pytest.raises(DataError, match="byte 1 of the row"):
        found.row(0)


def test_rows_that_are_not_there(file: Path) -> None:
    found = reader_of(file, "a\n1\n2\n")
    for index in (-1, 2):
        with pytest.raises(IndexError, match="has no row"):
            found.row(index)


def test_quoted_line_breaks_blank_lines_and_no_last_line_break(file: Path) -> None:
    found = reader_of(file, '\n\nname,text\r\n\r\na,"one\r\ntwo, ""three"""\n\n\n\nb,four')
    assert [found.row(index) for index in range(len(found))] == [
        {"name": "a", "text": 'one\r\ntwo, "three"'},
        {"name": "b", "text": "four"},
    ]


def test_a_field_beyond_the_standard_limit(file: Path) -> None:
    long = "A" * 300_000
    found = reader_of(file, f"image,caption\n{long},x\ny,{long}\n")
    assert found.row(1) == {"image": "y", "caption": long}
    assert found.row(0)["image"] == long


def test_names_beyond_ascii(file: Path) -> None:
    assert reader_of(file, "größe,日本\n1,2\n").row(0) == {"größe": "1", "日本": "2"}


def test_tsv_and_delimiter(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("a\tb\n1,5\t2\n")
    assert open_csv(csv_source(tmp_path / "table.tsv")).row(0) == {"a": "1,5", "b": "2"}
    (tmp_path / "table.csv").write_text("a;b\n1,5;2\n")
    assert open_csv(csv_source(tmp_path / "table.csv", delimiter=";")).row(0) == {"a": "1,5", "b": "2"}


def test_an_unnamed_first_column_is_allowed(file: Path) -> None:
    assert reader_of(file, ",image\n0,x\n").row(0) == {"": "0", "image": "x"}


@pytest.mark.parametrize(
    ("data", "what", "where"),
    [
        (b"", "empty", "table.csv"),
        (b"\xef\xbb\xbf", "empty", "table.csv"),
        (b"\n\n", "empty", "table.csv"),
        (b"a,b\n", "no row below the header", "table.csv"),
        (b"a,b,a\n1,2,3\n", "two columns are named `a`", "table.csv"),
        (b"a,,\n1,2,3\n", "two columns have no name", "table.csv"),
        (b'a,b\n1,2\n3,"4\n5,6\n7,8\n', "a quote is opened and not closed", "row 2"),
        (b'a,"b\n1,2\n', "a quote is opened and not closed", "header"),
        (b'a,b\n1,"2"3\n', "not valid CSV", "row 1"),
        (b"a,b\r1,2\r", "not valid CSV", "header"),
        ("a,b\n1,2\n".encode("utf-16"), "", "header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not valid CSV", ""),
    ],
)
def test_broken_files_are_refused(file: Path, data: bytes, what: str, where: str) -> None:
    with pytest.raises(DataError) as caught:
        reader_of(file, data)
    assert what in caught.value.faults[0].what
    assert where in caught.value.faults[0].where
    assert str(file) in caught.value.faults[0].where


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"1", "1 fields, the header 2"),
        (b"1,2,3", "3 fields, the header 2"),
        (b"1,caf\xe9", "byte 6 of the row is not UTF-8"),
        (b"1,2\0", "null character"),
        (b"   ", "1 fields"),
    ],
)
def test_a_broken_row_leaves_the_others(file: Path, line: bytes, what: str) -> None:
    found = reader_of(file, b"a,b\n\n1,2\n" + line + b"\n3,4\n")
    assert (found.row(0)["b"], found.row(2)["b"]) == ("2", "4")
    with pytest.raises(DataError, match=what) as caught:
        found.row(1)
    assert caught.value.faults[0].where == f"{file}, row 2"


def test_a_file_that_shrinks_is_told(file: Path) -> None:
    found = reader_of(file, "a,b\n1,2\n3,4\n")
    file.write_text("a,b\n1,2\n")
    for index in range(2):
        with pytest.raises(DataError, match="became shorter"):
            found.row(index)


def test_places(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"did you mean table\.csv"):
        open_csv(csv_source(tmp_path / "tabel.csv"))
    with pytest.raises(DataError, match="not a file"):
        open_csv(csv_source(tmp_path))
    with pytest.raises(DataError, match="root, seen from"):
        open_csv(csv_source(tmp_path / "table.csv", root=str(tmp_path / "pictures")))
    with pytest.raises(DataError, match="not a folder"):
        open_csv(csv_source(tmp_path / "table.csv", root=str(tmp_path / "table.csv")))


def test_another_process_reads_the_same(file: Path) -> None:
    found = reader_of(file, "a,b\n1,é\n")
    assert pickle.loads(pickle.dumps(found)).row(0) == found.row(0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(methodcaller("row", 0), (found,)) == found.row(0)


def test_descriptors_are_closed(file: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("the system does not list open files")
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        reader_of(file, "a,b\n1,2\n")
    assert len(list(descriptors.iterdir())) <= before + 1


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_letters_of_older_programs(tmp_path: Path, encoding: str) -> None:
    written = 'größe,naïve\n"a ""é""",ÿ\n'.encode(encoding)
    (tmp_path / "t.csv").write_bytes(written + b"\x81,x\n")
    found = open_csv(csv_source(tmp_path / "t.csv", encoding=encoding))
    assert found.columns == ("größe", "naïve")
    assert found.row(0) == {"größe": 'a "é"', "naïve": "ÿ"}
    if encoding == "latin-1":
        assert found.row(1)["größe"] == "\x81"
    else:
        with pytest.raises(DataError, match=r"byte 1 of the row is not CP1252[\s\S]*latin-1"):
            found.row(1)
    with pytest.raises(DataError, match=r"not UTF-8[\s\S]*encoding: cp1252"):
        open_csv(csv_source(tmp_path / "t.csv"))
