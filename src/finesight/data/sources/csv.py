"""CSV and TSV files of any size: an index of byte offsets, then any row at once."""

import csv
import io
import os
import weakref
from array import array
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from finesight.config.place import resolve_path
from finesight.config.sources import CsvSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin

_LARGEST_FIELD = 96 << 20
"""Characters of the longest field: the base64 text of the largest picture file that is let in, and some more."""

_BOM = b"\xef\xbb\xbf"


class CsvReader:
    """Rows of a CSV file, read by byte offset; quoted fields may hold line breaks, blank lines are no rows."""

    def __init__(self, path: Path, delimiter: str, root: Path) -> None:
        self.file, self.root = str(path), str(root)
        self._delimiter = delimiter
        self._open()
        self._offsets = self._index()  # of the header, of each row, and of the file's end
        self.columns = self._header()

    def _open(self) -> None:
        csv.field_size_limit(_LARGEST_FIELD)
        try:
            self._descriptor = os.open(self.file, os.O_RDONLY)
        except OSError as error:
            raise DataError(
                f"the file cannot be opened: {error.strerror}", self.file, "make it readable"
            ) from error
        weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()  # a descriptor is good in one process alone

    def _index(self) -> np.ndarray:
        starts, end = array("q"), 0
        try:
            with open(self.file, "rb") as stream:
                lines = _CountedLines(stream)
                end = lines.position
                for fields in csv.reader(lines, delimiter=self._delimiter, strict=True):
                    if fields:
                        starts.append(end)
                    end = lines.position
        except csv.Error as error:
            ended = "unexpected end" in str(error)
            raise DataError(
                "a quote is opened and not closed" if ended else f"the file is not valid CSV: {error}",
                f"{self.file}, {f'row {len(starts)}' if starts else 'header'}",
                "check the quotes, line ends and delimiter in and around this row",
            ) from error
        if not starts:
            raise DataError("the file is empty", self.file, "give a file with a header row and rows below it")
        if len(starts) == 1:
            raise DataError("there is no row below the header", self.file, "give a file with rows")
        starts.append(end)
        return np.array(starts, dtype=np.int64)

    def _header(self) -> tuple[str, ...]:
        names = self._fields(0, f"{self.file}, header")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            what = f"two columns are named `{twice}`" if twice else "two columns have no name"
            raise DataError(what, self.file, "give each column its own name")
        return tuple(names)

    def __len__(self) -> int:
        return len(self._offsets) - 2

    def origin(self, index: int) -> Origin:
        """Where row `index` stands."""
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        """Size and time of the file."""
        found = os.stat(self._descriptor)
        return f"{found.st_size} {found.st_mtime_ns}"

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, str]:
        """Text by column of row `index`."""
        where = f"{self.file}, row {index + 1}"
        fields = self._fields(index + 1, where)
        if len(fields) != len(self.columns):
            raise DataError(
                f"the row has {len(fields)} fields, the header {len(self.columns)}",
                where,
                "quote fields that contain the delimiter, or mend the row",
            )
        return dict(zip(self.columns, fields, strict=True))

    def _fields(self, number: int, where: str) -> list[str]:
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        # pread moves no file position, so forked workers and threads can share the descriptor
        data = os.pread(self._descriptor, end - start, start)
        if len(data) < end - start:
            raise DataError(
                "the file became shorter while it was in use", where, "put it back, and begin again"
            )
        if b"\0" in data:
            raise DataError("the row contains a null character", where, "save the file as UTF-8 text")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte {error.start + 1} of the row is not UTF-8", where, "save the file as UTF-8"
            ) from error
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter))


class _CountedLines:
    """Lines of a binary stream as text, counting the bytes that were handed out; a byte order mark is skipped."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self.position = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
        stream.seek(self.position)

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.position += len(line)
            # Latin-1 keeps one character a byte: quotes and line breaks are found whatever the encoding of the rest
            yield line.decode("latin-1")


def open_csv(source: CsvSource) -> CsvReader:
    """The reader of a `csv` source."""
    path = resolve_path(source.path)
    if not path.is_file():
        raise DataError("this is not a file", str(path), "give the file itself in `path` of this source")
    root = resolve_path(source.root, "root") if source.root else path.parent
    if not root.is_dir():
        raise DataError(
            "this is not a folder", str(root), "give the folder of the pictures in `root` of this source"
        )
    delimiter = source.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    return CsvReader(path, delimiter, root)
