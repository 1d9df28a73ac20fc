"""CSV and TSV files of any size: an index of byte offsets, then any row at once, and of it the wanted columns alone."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from finesight.config.sources import CsvSource, TableForm
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.files.index import Broken, FileIndex
from finesight.data.files.store import Table, find_table
from finesight.data.sources.csv_cells import LARGEST_HEADER, LARGEST_ROW, Cells
from finesight.data.sources.csv_scan import CsvScan


class CsvReader:
    """Rows of a CSV file, read by byte offset; quoted fields may hold line breaks, blank lines are no rows."""

    def __init__(
        self, path: Path, delimiter: str, root: str | Path, name: str = "", encoding: str = "utf-8"
    ) -> None:
        self.file, self.root = name or str(path), str(root)
        self._cells = Cells(delimiter, encoding)
        try:
            self._index = FileIndex(path, self.file, f"csv {delimiter!r}", partial(CsvScan, delimiter))
        except Broken as error:
            place = f"row {error.row}" if error.row > 0 else "header"
            raise DataError(error.what, f"{self.file}, {place}", error.mend) from error
        self.notes = self._index.notes
        if len(self._index.offsets) == 1:
            raise DataError("the file is empty", self.file, "give a file with a header row and rows below it")
        if len(self._index.offsets) == 2:
            raise DataError("there is no row below the header", self.file, "give a file with rows")
        self.columns = self._cells.names(self._header(), self.file)

    def _header(self) -> bytes:
        """The bytes of the header, no more than are needed to see that they are too many."""
        start, end = int(self._index.offsets[0]), int(self._index.offsets[1])
        return self._index.read(start, min(end, start + LARGEST_HEADER + 1), f"{self.file}, header")

    def __len__(self) -> int:
        return len(self._index.offsets) - 2

    def origin(self, index: int) -> Origin:
        """Where row `index` stands."""
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        """Size and time of the file."""
        return self._index.identity()

    def verify(self) -> bool:
        """Whether the file still holds what was indexed; reads it whole."""
        return self._index.verify()

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, str]:
        """Text by column of row `index`; with `columns`, of these alone: the others are neither decoded nor copied."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.file} has no row {index + 1}")
        where = f"{self.file}, row {index + 1}"
        data = self._bytes(index + 1, where)
        return self._cells.values(data, where, self.columns, columns)

    def _bytes(self, number: int, where: str) -> bytes:
        """What stands from the beginning of row `number` (the header is 0) to that of the next."""
        start, end = int(self._index.offsets[number]), int(self._index.offsets[number + 1])
        if end - start > LARGEST_ROW:
            what = f"the row has {(end - start) >> 20:,} MiB; at most {LARGEST_ROW >> 20} are let in"
            raise DataError(what, where, "check whether a line break or a quote is missing in this row")
        return self._index.read(start, end, where)


def read_csv(table: Table, form: TableForm) -> CsvReader:
    """The reader of a CSV or TSV file that was found."""
    separator = form.delimiter or ("\t" if table.suffix == ".tsv" else ",")
    reader = CsvReader(table.path, separator, table.root, table.name, form.encoding)
    reader.notes = (*table.notes, *reader.notes)
    return reader


def open_csv(source: CsvSource) -> CsvReader:
    """The reader of a `csv` source."""
    return read_csv(find_table(source.path, source.root), source)
