"""Readers, one for each data format, and the table of them.

A reader knows its file format alone: it gives rows (values by column name) in any order. What a row means is decided
in `finesight.data.samples`. To add a format: a file here, its class in `config/sources.py`, a row in `_READERS`.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol, cast, runtime_checkable

from finesight.config.place import is_address
from finesight.config.sources import (
    CocoSource,
    CsvSource,
    FolderSource,
    HubSource,
    JsonSource,
    LlavaSource,
    MessagesSource,
    PairsSource,
    ParquetSource,
    Source,
    TableForm,
    TarSource,
    TextSource,
    VqaSource,
)
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.files.store import find_table
from finesight.data.sources.coco import open_coco
from finesight.data.sources.csv import open_csv, read_csv
from finesight.data.sources.folder import open_folder
from finesight.data.sources.hub import open_hub
from finesight.data.sources.json import open_json, read_json
from finesight.data.sources.parquet import SUFFIXES, open_parquet, open_tables
from finesight.data.sources.table_stream import TableStream, can_be_streamed
from finesight.data.sources.tar import open_tar, open_tars

Row = Mapping[str, Any]
"""Values by column: what JSON knows (text, numbers, truth values, None, lists, mappings), and bytes."""


class Reader(Protocol):
    """Rows of one source, any at once. Can be sent to another process, and be used by several threads."""

    file: str
    """What messages name: the file, folder or address."""
    root: str
    """Folder or address that paths in the rows are relative to."""
    columns: tuple[str, ...]
    """All keys that rows may have; a row leaves out those that it has no value for."""
    notes: tuple[tuple[str, str], ...]
    """What a person should be told of how the rows were found: kind and text of a notice."""

    def __len__(self) -> int:
        """Number of rows."""

    def row(self, index: int, columns: Collection[str] | None = None) -> Row:
        """Row `index` (from 0), or of it at least `columns`; raises DataError for a row that cannot be read."""

    def origin(self, index: int) -> Origin:
        """File (a shard, where there are several) and row number (from 1) of row `index`."""

    def identity(self) -> str:
        """Changes whenever the rows may have: made of what is known without reading them (sizes, times, hashes)."""


@runtime_checkable
class Indexed(Protocol):
    """What a reader has whose rows were found by reading a file once."""

    file: str
    """What messages name."""

    def verify(self) -> bool:
        """Whether the file still holds what was indexed; reads it whole."""


def open_table(path: str, root: str | None = None, form: TableForm | None = None) -> Reader:
    """The reader of a file of rows, chosen by the ending of its name; `path` and `root` may be addresses.

    `root` is the folder of the pictures, the file's own where absent; `form` is that of a CSV. Raises DataError.
    """
    ending = PurePosixPath(path.split("?")[0]).suffix.lower()
    opener = _TABLES.get(ending)
    if opener is None:
        known = ", ".join(_TABLES)
        raise DataError(
            f"`{ending or path[-50:]}` is no ending of a table's name",
            path,
            f"name a file that ends in {known}",
        )
    return opener(path, root, form or TableForm())


_TABLES: dict[str, Callable[[str, str | None, TableForm], Reader]] = {
    ".csv": lambda path, root, form: read_csv(find_table(path, root), form),
    ".tsv": lambda path, root, form: read_csv(find_table(path, root), form),
    ".json": lambda path, root, form: read_json(find_table(path, root)),
    ".jsonl": lambda path, root, form: read_json(find_table(path, root)),
    ".ndjson": lambda path, root, form: read_json(find_table(path, root)),
    ".tar": lambda path, root, form: open_tars(path),
    **dict.fromkeys(SUFFIXES, lambda path, root, form: open_tables(path, root)),
}

_READERS: dict[type, Callable[..., Any]] = {
    CocoSource: open_coco,
    CsvSource: open_csv,
    FolderSource: open_folder,
    HubSource: open_hub,
    JsonSource: open_json,
    ParquetSource: open_parquet,
    TarSource: open_tar,
    VqaSource: lambda source: open_table(source.path, source.root, source),
    LlavaSource: lambda source: open_table(source.path, source.root),
    MessagesSource: lambda source: open_table(source.path, source.root),
    PairsSource: lambda source: open_table(source.path, None, source),
    TextSource: lambda source: open_table(source.path, None, source),
}


def open_source(source: Source) -> Reader:
    """The reader of a recipe's source; raises DataError where the file is missing or has no rows.

    One with `stream: true` may have a reader whose rows are not asked for by number: it has `iter_rows` alone.
    """
    if source.stream and is_address(source.path) and can_be_streamed(source.path):
        match source:
            case CsvSource() | VqaSource():
                return cast(Reader, TableStream(source.path, source.root, source))
            case JsonSource() | LlavaSource() | MessagesSource():
                return cast(Reader, TableStream(source.path, source.root))
            case PairsSource() | TextSource():
                return cast(Reader, TableStream(source.path, None, source))
    opener = _READERS.get(type(source))
    if opener is None:
        raise DataError(f"`{source.source}` sources cannot be read yet", source.path, "convert the data")
    reader: Reader = opener(source)
    return reader
