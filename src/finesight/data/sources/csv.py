"""CSV and TSV files of any size: an index of byte offsets, then any row at once, and of it the wanted columns alone."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from finesight.config.sources import CsvSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.files.index import Broken, FileIndex
from finesight.data.files.store import Table, find_table
from finesight.data.sources.csv_scan import CsvScan

LARGEST_FIELD = 96 << 20
"""Bytes of the longest field: the base64 text of the largest picture file that is let in, and some more."""
LARGEST_ROW = 128 << 20
"""Bytes of the longest row."""
_LARGEST_HEADER = 1 << 20
_MOST_FIELDS = 100_000
"""Fields that are counted for the message about a row that has too many."""

_QUOTE, _LF, _CR = 34, 10, 13
_DOUBLED = re.compile(rb'(?:""[^"]*+)*+')
"""Doubled quotes and what stands between them."""
_Field = tuple[int, int, bool]
"""Where a field begins and ends in its row, without its quotes, and whether quotes in it are doubled."""


class CsvReader:
    """Rows of a CSV file, read by byte offset; quoted fields may hold line breaks, blank lines are no rows."""

    def __init__(self, path: Path, delimiter: str, root: str | Path, name: str = "") -> None:
        self.file, self.root = name or str(path), str(root)
        self._delimiter = delimiter.encode()
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
        self.columns = self._header()
        self._places = {column: place for place, column in enumerate(self.columns)}

    def _header(self) -> tuple[str, ...]:
        where, size = f"{self.file}, header", int(self._index.offsets[1] - self._index.offsets[0])
        if size > _LARGEST_HEADER:
            what = f"the first row has {size:,} bytes, which is too long for the names of columns"
            raise DataError(what, where, "put a row with the names of the columns first")
        data = self._bytes(0, where)
        names = [_text(data, field, where) for field in self._cut(data, where)]
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            what = f"two columns are named `{twice}`" if twice else "two columns have no name"
            raise DataError(what, self.file, "give each column its own name")
        return tuple(names)

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
        fields: list[_Field] = []
        for field in self._cut(data, where):
            fields.append(field)
            if len(fields) > len(self.columns):
                break
        if len(fields) != len(self.columns):
            raise self._miscounted(data, where)
        if columns is None:
            return {name: _text(data, field, where) for name, field in zip(self.columns, fields, strict=True)}
        places = self._places
        return {name: _text(data, fields[places[name]], where) for name in columns if name in places}

    def _bytes(self, number: int, where: str) -> bytes:
        """What stands from the beginning of row `number` (the header is 0) to that of the next."""
        start, end = int(self._index.offsets[number]), int(self._index.offsets[number + 1])
        if end - start > LARGEST_ROW:
            what = f"the row has {(end - start) >> 20:,} MiB; at most {LARGEST_ROW >> 20} are let in"
            raise DataError(what, where, "check whether a line break or a quote is missing in this row")
        data = self._index.read(start, end, where)
        if b"\0" in data:
            raise DataError("the row contains a null character", where, "save the file as UTF-8 text")
        return data

    def _cut(self, data: bytes, where: str) -> Iterator[_Field]:
        """The fields of a row: one that begins with a quote ends at a quote, every other at the next delimiter."""
        end, start = len(data), 0
        while end and data[end - 1] in (_LF, _CR):  # its line end, and blank lines below
            end -= 1
        while True:
            if start < end and data[start] == _QUOTE:
                stop, doubled = self._quoted(data, start + 1, end, where)
                yield start + 1, stop, doubled
                stop += 1
            else:
                stop = data.find(self._delimiter, start, end)
                if stop < 0:
                    stop = end
                if stop - start > LARGEST_FIELD:
                    raise _too_long(stop - start, where)
                yield start, stop, False
            if stop == end:
                return
            start = stop + 1

    def _quoted(self, data: bytes, start: int, end: int, where: str) -> tuple[int, bool]:
        """Where the quoted text that begins at `start` ends, and whether there are doubled quotes in it."""
        doubled, stop = False, data.find(b'"', start, end)
        if stop >= 0 and data[stop + 1 : stop + 2] == b'"' and stop + 1 < end:
            found = _DOUBLED.match(data, stop, end)
            doubled, stop = True, found.end() if found else -1
        if (
            not 0 <= stop < end
            or data[stop] != _QUOTE
            or (stop + 1 < end and data[stop + 1] != self._delimiter[0])
        ):
            # the index has seen the quotes in their places
            raise DataError(
                "the row changed while it was in use", where, "put the file back, and begin again"
            )
        if stop - start > LARGEST_FIELD:
            raise _too_long(stop - start, where)
        return stop, doubled

    def _miscounted(self, data: bytes, where: str) -> DataError:
        count = 0
        for count, _ in enumerate(self._cut(data, where), 1):
            if count > _MOST_FIELDS:
                break
        number = f"more than {_MOST_FIELDS:,}" if count > _MOST_FIELDS else str(count)
        what = f"the row has {number} fields, the header {len(self.columns)}"
        return DataError(what, where, "quote fields that contain the delimiter, or mend the row")


def _too_long(size: int, where: str) -> DataError:
    what = f"a field has {size >> 20:,} MiB; at most {LARGEST_FIELD >> 20} are let in"
    return DataError(what, where, "make the picture smaller, or check whether a quote is missing in this row")


def _text(data: bytes, field: _Field, where: str) -> str:
    start, end, doubled = field
    try:
        text = str(memoryview(data)[start:end], "utf-8")
    except UnicodeDecodeError as error:
        what = f"byte {start + error.start + 1} of the row is not UTF-8"
        raise DataError(what, where, "save the file as UTF-8") from error
    return text.replace('""', '"') if doubled else text


def read_csv(table: Table, delimiter: str | None) -> CsvReader:
    """The reader of a CSV or TSV file that was found."""
    separator = delimiter or ("\t" if table.suffix == ".tsv" else ",")
    reader = CsvReader(table.path, separator, table.root, table.name)
    reader.notes = (*table.notes, *reader.notes)
    return reader


def open_csv(source: CsvSource) -> CsvReader:
    """The reader of a `csv` source."""
    return read_csv(find_table(source.path, source.root), source.delimiter)
