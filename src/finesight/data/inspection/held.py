"""The first rows of a stream, held in memory so that they can be asked for by number."""

import itertools
from collections.abc import Callable, Collection

from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.sources import Reader, Row
from finesight.data.stream_rows import Sequential


class HeldRows:
    """A reader of the first `count` rows of one whose rows come one after another.

    `whole` tells whether the stream has no more. `tick` is called with the number of rows that are read.
    """

    def __init__(self, reader: Reader, count: int, tick: Callable[[int], object] = bool) -> None:
        assert isinstance(reader, Sequential)
        self.file, self.root, self.columns, self.notes = (
            reader.file,
            reader.root,
            reader.columns,
            reader.notes,
        )
        self._rows: list[Row | DataError] = []
        self._origins: list[Origin] = []
        for number, row in enumerate(itertools.islice(reader.iter_rows(), count)):
            self._rows.append(row)
            self._origins.append(reader.origin(number))
            tick(number + 1)
        self._identity = reader.identity()
        self.whole = len(self._rows) < count

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int, columns: Collection[str] | None = None) -> Row:
        """The row as it came, or its error."""
        found = self._rows[index]
        if isinstance(found, DataError):
            raise found
        return found

    def origin(self, index: int) -> Origin:
        """Where a row stands in the stream."""
        return self._origins[index]

    def identity(self) -> str:
        """That of the stream."""
        return self._identity
