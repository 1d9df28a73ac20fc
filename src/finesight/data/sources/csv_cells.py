"""What stands in the rows of a CSV file: its cells, cut out of the bytes of a row that a scan has found whole."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from finesight.core.errors import DataError

LARGEST_FIELD = 96 << 20
"""Bytes of the longest field: the base64 text of the largest picture file that is let in, and some more."""
LARGEST_ROW = 128 << 20
"""Bytes of the longest row."""
LARGEST_HEADER = 1 << 20
"""Bytes of the longest header."""
_MOST_FIELDS = 100_000
"""Fields that are counted for the message about a row that has too many."""

_QUOTE, _LF, _CR = 34, 10, 13
_DOUBLED = re.compile(rb'(?:""[^"]*+)*+')
"""Doubled quotes and what stands between them."""
_WRITTEN = "save the file as UTF-8, or set `encoding: cp1252` if Windows wrote it"
_ANY = "save the file as UTF-8; `encoding: latin-1` takes any bytes, but damaged letters stay damaged"
_Field = tuple[int, int, bool]
"""Where a field begins and ends in its row, without its quotes, and whether quotes in it are doubled."""


class Cells:
    """Cuts rows whose fields are parted by one delimiter, and decodes their letters."""

    def __init__(self, delimiter: str, encoding: str = "utf-8") -> None:
        self._delimiter, self._encoding = delimiter.encode(), encoding

    def names(self, data: bytes, file: str) -> tuple[str, ...]:
        """The names of the columns, from the bytes of the header."""
        where = f"{file}, header"
        if len(data) > LARGEST_HEADER:
            what = f"the first row has more than {LARGEST_HEADER:,} bytes, too long for the names of columns"
            raise DataError(what, where, "put a row with the names of the columns first")
        names = [self._text(data, field, where) for field in self._cut(data, where)]
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            what = f"two columns are named `{twice}`" if twice else "two columns have no name"
            raise DataError(what, file, "give each column its own name")
        return tuple(names)

    def values(
        self, data: bytes, where: str, names: Sequence[str], columns: Collection[str] | None = None
    ) -> Mapping[str, str]:
        """Text by column; with `columns`, of these alone: the others are neither decoded nor copied."""
        fields: list[_Field] = []
        for field in self._cut(data, where):
            fields.append(field)
            if len(fields) > len(names):
                break
        if len(fields) != len(names):
            raise self._miscounted(data, where, len(names))
        return {
            name: self._text(data, field, where)
            for name, field in zip(names, fields, strict=True)
            if columns is None or name in columns
        }

    def _cut(self, data: bytes, where: str) -> Iterator[_Field]:
        """The fields of a row: one that begins with a quote ends at a quote, every other at the next delimiter."""
        if b"\0" in data:
            raise DataError("the row contains a null character", where, "save the file as UTF-8 text")
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

    def _text(self, data: bytes, field: _Field, where: str) -> str:
        start, end, doubled = field
        try:
            text = str(memoryview(data)[start:end], self._encoding)
        except UnicodeDecodeError as error:
            what = f"byte {start + error.start + 1} of the row is not {self._encoding.upper()}"
            raise DataError(what, where, _WRITTEN if self._encoding == "utf-8" else _ANY) from error
        return text.replace('""', '"') if doubled else text

    def _miscounted(self, data: bytes, where: str, wanted: int) -> DataError:
        count = 0
        for count, _ in enumerate(self._cut(data, where), 1):
            if count > _MOST_FIELDS:
                break
        number = f"more than {_MOST_FIELDS:,}" if count > _MOST_FIELDS else str(count)
        what = f"the row has {number} fields, the header {wanted}"
        return DataError(what, where, "quote fields that contain the delimiter, or mend the row")


def _too_long(size: int, where: str) -> DataError:
    what = f"a field has {size >> 20:,} MiB; at most {LARGEST_FIELD >> 20} are let in"
    return DataError(what, where, "make the picture smaller, or check whether a quote is missing in this row")
