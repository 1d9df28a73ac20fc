"""Readers, one for each data format, and the table of them.

A reader knows its file format alone: it gives rows (text by column name) in any order. What a row means is decided
in `finesight.data.samples`. To add a format: a file here, its class in `config/data.py`, a row in `_READERS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from finesight.config.data import CsvSource, FolderSource
from finesight.data.sources.csv import open_csv
from finesight.data.sources.folder import open_folder


class Reader(Protocol):
    """Rows of one file. `root` is the folder that paths in the rows are relative to."""

    file: str
    root: Path
    columns: tuple[str, ...]

    def __len__(self) -> int:
        """Number of rows."""

    def row(self, index: int) -> Mapping[str, str]:
        """Text by column of row `index` (from 0); raises DataError for a row that cannot be read."""


_READERS: dict[type, Callable[..., Reader]] = {CsvSource: open_csv, FolderSource: open_folder}


def open_source(source: CsvSource | FolderSource) -> Reader:
    """The reader of a recipe's source; raises DataError where the file is missing or has no rows."""
    return _READERS[type(source)](source)
