"""CSV and JSON Lines at addresses, read from front to back: nothing is copied, kept or read twice."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from finesight.config.place import is_address, resolve_path
from finesight.config.sources import TableForm
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.files.index import Broken, Scan
from finesight.data.sources.csv_cells import LARGEST_ROW, Cells
from finesight.data.sources.csv_scan import BOM, CsvScan
from finesight.data.sources.json import checked_row, parse_json
from finesight.data.sources.json_scan import LineScan
from finesight.data.sources.shards import Shard, find_shards, folder_of, identity_of, open_bytes

TABLES: Final = (".csv", ".tsv")
LINES: Final = (".jsonl", ".ndjson")

_BLOCK: Final = 1 << 20
_LOOKED_AT: Final = 100
"""Rows whose keys are the columns of JSON Lines."""

Values = Mapping[str, Any]


def can_be_streamed(path: str) -> bool:
    """Whether the files that a path names have a form that can be read from front to back."""
    return _ending(path) in (*TABLES, *LINES)


def _ending(path: str) -> str:
    return PurePosixPath(path.split("?")[0]).suffix.lower()


class TableStream:
    """Rows of tables one after another; the rows are those that a reader by number has of the same files."""

    def __init__(self, path: str, root: str | None = None, form: TableForm | None = None) -> None:
        ending = _ending(path)
        self._shards = find_shards(path, (ending,))
        self.file = self._shards[0].name if len(self._shards) == 1 else path
        self.root = _root(root) if root else folder_of(self._shards[0].name)
        form = form or TableForm()
        self._encoding = form.encoding
        self._delimiter = form.delimiter or ("\t" if ending == ".tsv" else ",") if ending in TABLES else None
        self._ends: list[int] = []  # number of rows up to the end of each file that was read
        first = list(islice(self.iter_rows(), _LOOKED_AT))
        if not first:
            raise DataError("there is no row", self.file, "give files with rows")
        rows = [row for row in first if not isinstance(row, DataError)]
        if not rows:
            raise next(row for row in first if isinstance(row, DataError))
        self.columns = tuple(dict.fromkeys(name for row in rows for name in row))
        told = f"{self.file}: the columns are those of the first {len(first)} rows"
        self.notes = () if self._delimiter else (("guess", told),)

    def origin(self, index: int) -> Origin:
        """File and row in it, once the file was read so far."""
        at = next((number for number, end in enumerate(self._ends) if index < end), len(self._ends))
        if at >= len(self._shards):
            raise IndexError(index)
        return Origin(self._shards[at].name, index + 1 - (self._ends[at - 1] if at else 0))

    def identity(self) -> str:
        """Names, sizes and times of the files."""
        return identity_of(self._shards)

    def iter_rows(self, start: int = 0) -> Iterator[Values | DataError]:
        """Rows from number `start` on, with the error in place of one that cannot be used."""
        number = 0
        for at, shard in enumerate(self._shards):
            first, rows = number, _pieces(shard, self._scan())
            values = _json_row if self._delimiter is None else self._csv_row(shard, rows)
            for piece in rows:
                if number >= start:
                    yield _row(values, piece, Origin(shard.name, number - first + 1))
                number += 1
            if at == len(self._ends):
                self._ends.append(number)

    def _scan(self) -> Scan:
        return LineScan() if self._delimiter is None else CsvScan(self._delimiter)

    def _csv_row(self, shard: Shard, rows: Iterator[bytes]) -> Callable[[bytes, str], Values]:
        """How a row of this file is read, whose header comes first."""
        cells, header = Cells(self._delimiter or ",", self._encoding), next(rows, None)
        if header is None:
            raise DataError(
                "the file is empty", shard.name, "give a file with a header row and rows below it"
            )
        return partial(cells.values, names=cells.names(header, shard.name))


def _root(root: str) -> str:
    return root if is_address(root) else str(resolve_path(root, "root"))


def _row(values: Callable[[bytes, str], Values], piece: bytes, origin: Origin) -> Values | DataError:
    try:
        return values(piece, str(origin))
    except DataError as error:
        return error


def _json_row(data: bytes, where: str) -> Values:
    try:
        return checked_row(parse_json(data), data, where)
    except ValueError as error:
        raise DataError(
            f"the line is not JSON: {error}", where, "write one JSON object for each row"
        ) from error


def _pieces(shard: Shard, scan: Scan) -> Iterator[bytes]:
    """The bytes of each row: from where it begins to where the next one does."""
    held, at, rows = bytearray(), 0, 0  # what is not handed out yet, its place in the file
    begin: int | None = None  # of the row that is not whole yet
    try:
        for block in _blocks(shard):
            found = scan.block(block)
            held += block
            for place in found.tolist():
                if begin is not None:
                    yield bytes(held[begin - at : place - at])
                    rows += 1
                begin = place
            if begin is not None:
                del held[: begin - at]
                at = begin
            if len(held) > LARGEST_ROW:
                what = f"a row has more than {LARGEST_ROW >> 20} MiB"
                raise DataError(what, f"{shard.name}, row {rows + 1}", "check its quotes and line breaks")
        end = int(np.asarray(scan.end())[-1])
    except Broken as error:
        place = f"row {error.row}" if error.row > 0 else "header"
        raise DataError(error.what, f"{shard.name}, {place}", error.mend) from error
    if begin is not None:
        yield bytes(held[begin - at : end - at])


def _blocks(shard: Shard) -> Iterator[bytes]:
    """A file from front to back; raises DataError where it cannot be read, or ends too early."""
    count, begun = 0, b""
    with open_bytes(shard) as stream:
        while True:
            try:
                block = stream.read(_BLOCK)
            except Exception as error:  # every file system has errors of its own
                what = f"the file cannot be read any further ({type(error).__name__}: {error})"
                raise DataError(what, shard.name, "check the connection, and continue") from error
            if not block:
                break
            count += len(block)
            begun += block if len(begun) < len(BOM) else b""
            if count >= len(BOM):  # a scan is to see a whole byte order mark
                yield begun if count == len(begun) else block
    if 0 < count < len(BOM):
        yield begun
    if shard.size > count:
        raise DataError(
            f"{count:,} of {shard.size:,} bytes came", shard.name, "continue, or put the file back"
        )
