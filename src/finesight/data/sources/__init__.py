"""Readers, one for each data format, and the table of them.

A reader knows its file format alone: it gives rows (values by column name) in any order. What a row means is decided
in `finesight.data.samples`. To add a format: a file here, its class in `config/sources.py`, a row in `_READERS`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from finesight.config.sources import CsvSource, FolderSource, Source
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.sources.csv import open_csv
from finesight.data.sources.folder import open_folder

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

    def __len__(self) -> int:
        """Number of rows."""

    def row(self, index: int, columns: Collection[str] | None = None) -> Row:
        """Row `index` (from 0), or of it at least `columns`; raises DataError for a row that cannot be read."""

    def origin(self, index: int) -> Origin:
        """File (a shard, where there are several) and row number (from 1) of row `index`."""

    def identity(self) -> str:
        """Changes whenever the rows may have: made of what is known without reading them (sizes, times, hashes)."""


_READERS: dict[type, Callable[..., Reader]] = {CsvSource: open_csv, FolderSource: open_folder}


def open_source(source: Source) -> Reader:
    """The reader of a recipe's source; raises DataError where the file is missing or has no rows."""
    opener = _READERS.get(type(source))
    if opener is None:
        raise DataError(f"`{source.source}` sources cannot be read yet", source.path, "convert the data")
    return opener(source)
