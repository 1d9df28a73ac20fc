"""One way to open every kind of table: by the ending of its name, here or at an address."""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
from row_files import png, read, rows, write_csv

from finesight.config.sources import (
    CsvSource,
    JsonSource,
    LlavaSource,
    MessagesSource,
    PairsSource,
    Source,
    TextSource,
    VqaSource,
)
from finesight.core.errors import DataError
from finesight.data.sources import open_source, open_table
from finesight.runtime.notices import Notices

ROWS = [{"image": "a.png", "text": 'é, "x"\ny'}, {"image": "b.png", "text": ""}]


@pytest.fixture(autouse=True)
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def data_of(name: str) -> bytes:
    name = name.lower()
    if name.endswith(("csv", "tsv")):
        mark = "\t" if name.endswith("tsv") else ","
        lines = (mark.join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in ROWS)
        return "\r\n".join([f"image{mark}text", *lines]).encode()
    if name.endswith(".json"):
        return json.dumps(ROWS).encode()
    return "\n".join(map(json.dumps, ROWS)).encode()


NAMES = ["rows.csv", "rows.tsv", "rows.json", "rows.jsonl", "rows.ndjson", "ROWS.CSV"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("remote", [False, True])
def test_every_table_gives_the_same_rows(tmp_path: Path, memory: Any, name: str, remote: bool) -> None:
    path = f"memory://tables/{name}" if remote else str(tmp_path / name)
    if remote:
        memory.pipe(f"/tables/{name}", data_of(name))
    else:
        (tmp_path / name).write_bytes(data_of(name))
    found = open_table(path)
    assert [found.row(number) for number in range(len(found))] == ROWS
    assert found.columns == ("image", "text")
    assert (found.file, found.root) == (path, path.rpartition("/")[0])
    assert str(found.origin(1)) == f"{path}, row 2"
    assert pickle.loads(pickle.dumps(found)).row(1) == ROWS[1]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (CsvSource, {"delimiter": ";"}),
        (VqaSource, {"delimiter": ";"}),
        (PairsSource, {"delimiter": ";"}),
        (TextSource, {"delimiter": ";"}),
        (LlavaSource, {}),
        (MessagesSource, {}),
        (JsonSource, {}),
    ],
)
def test_each_kind_of_source_opens_its_table(
    tmp_path: Path, kind: type[Source], more: Mapping[str, str]
) -> None:
    name = kind.__name__.removesuffix("Source").lower()
    file = tmp_path / ("rows.csv" if more else "rows.jsonl")
    file.write_text("a;b\n1;2\n" if more else '{"a": "1", "b": "2"}')
    root = {"root": str(tmp_path.parent)} if "root" in kind.model_fields else {}
    found = open_source(kind(source=name, path=str(file), **more, **root))
    assert found.row(0) == {"a": "1", "b": "2"}
    assert found.root == str(tmp_path.parent if root else tmp_path)


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", "memory://rows.zip?x=.csv", "a/.csv"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="is no ending of a table's name") as caught:
        open_table(name)
    assert ".jsonl" in caught.value.faults[0].mend


def test_remote_rows_with_remote_pictures_are_samples(tmp_path: Path, memory: Any) -> None:
    """From an address to samples, and what was fetched is said."""
    table = write_csv(tmp_path / "rows.csv", rows(3))
    memory.pipe("/data/rows.csv", table.read_bytes())
    here, _ = read(CsvSource(source="csv", path=str(table)))
    notices = Notices()
    there, _ = read(CsvSource(source="csv", path="memory://data/rows.csv"), notices)
    assert [there[index].messages for index in range(3)] == [here[index].messages for index in range(3)]
    assert there[2].origin.file == "memory://data/rows.csv"
    said = "memory://data/rows.csv is read from a copy in the cache folder"
    assert {"kind": "fetched", "text": said, "count": 1} in notices.rows()


def test_pictures_at_an_address(tmp_path: Path, memory: Any) -> None:
    """Rows here, pictures there; and both there, the pictures beside the rows."""
    lines = [json.dumps({"image": f"{n}.png", "caption": f"number {n}"}) for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    memory.pipe(
        {"/data/rows.jsonl": "\n".join(lines).encode(), **{f"/data/{n}.png": png(n) for n in range(2)}}
    )
    for path, root in ((str(tmp_path / "rows.jsonl"), "memory://data"), ("memory://data/rows.jsonl", None)):
        samples, policy = read(JsonSource(source="json", path=path, root=root))
        assert [samples[index].images[0].data for index in range(2)] == [png(0), png(1)] and not policy.faults
