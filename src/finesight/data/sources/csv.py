"""CSV and TSV files of any size: an index of byte offsets, then any row at once."""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from finesight.config.data import CsvSource
from finesight.config.place import resolve_path
from finesight.core.errors import DataError

_LARGEST_FIELD = 2**31 - 1
"""Bytes of the longest field: pictures in base64 pass the standard library's default of 131,072 by far."""


class CsvReader:
    """Rows of a CSV file, read by byte offset; quoted fields may hold line breaks."""

    def __init__(self, path: Path, delimiter: str, root: Path) -> None:
        self.file, self.root = str(path), root
        self._delimiter = delimiter
        self._open()
        self.columns, self._offsets = self._index()

    def _open(self) -> None:
        csv.field_size_limit(_LARGEST_FIELD)
        self._descriptor = os.open(self.file, os.O_RDONLY)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()  # a descriptor is good in one process alone

    def _index(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Column names, and byte offsets of each row's beginning with the file's end last."""
        ends: list[int] = [0]
        try:
            with open(self.file, "rb") as stream:
                counted = _CountedLines(stream)
                rows = csv.reader(counted, delimiter=self._delimiter, strict=True)
                header = next(rows, None)
                if not header or not any(header):
                    raise DataError("the file is empty", self.file, "give a file with a header row and rows below it")
                ends.append(counted.position)
                starts = []
                for row in rows:
                    if row:  # a blank line between rows is no row
                        starts.append(ends[-1])
                    ends.append(counted.position)
        except csv.Error as error:
            raise DataError(
                f"the file is not valid CSV: {error}",
                f"{self.file}, row {len(ends)}",
                "check the quotes and the delimiter around this row",
            ) from error
        twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
        if twice:
            raise DataError(f"two columns are named `{twice[0]}`", self.file, "give each column its own name")
        if not starts:
            raise DataError("there is no row below the header", self.file, "give a file with rows")
        return tuple(header), np.array([*starts, ends[-1]], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def row(self, index: int) -> Mapping[str, str]:
        """Text by column of row `index`."""
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        # pread moves no file position, so forked workers and threads can share the descriptor
        data = os.pread(self._descriptor, end - start, start)
        where = f"{self.file}, row {index + 1}"
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"byte {error.start} of the row is not UTF-8", where, "save the file as UTF-8") from error
        fields = next(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter))
        if len(fields) != len(self.columns):
            raise DataError(
                f"the row has {len(fields)} fields, the header {len(self.columns)}",
                where,
                "quote fields that contain the delimiter, or mend the row",
            )
        return dict(zip(self.columns, fields, strict=True))


class _CountedLines:
    """Lines of a binary stream as text, counting the bytes that were handed out."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self.position = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.position += len(line)
            # Latin-1 keeps one character a byte: quotes and line breaks are found whatever the encoding of the rest
            yield (line[3:] if self.position == len(line) and line.startswith(b"\xef\xbb\xbf") else line).decode("latin-1")


def open_csv(source: CsvSource) -> CsvReader:
    """The reader of a `csv` source."""
    path = resolve_path(source.path)
    if not path.is_file():
        raise DataError("there is no such file", str(path), "correct `path` of this source, relative to where you are")
    delimiter = source.delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    return CsvReader(path, delimiter, Path(source.root) if source.root else path.parent)
