"""WebDataset shards read from front to back: for those far away, of which nothing is to be kept or read twice."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.sources.shards import Shard, folder_of, identity_of, open_bytes
from finesight.data.sources.tar_index import LARGEST_MEMBER, TarIndexBuilder, part_of_row
from finesight.data.sources.tar_rows import OneRow
from finesight.data.sources.tarfiles import Damage, Member, NoArchive, Scan

_LOOKED_AT = 20
"""Rows whose keys are the columns."""
_LARGEST_ROW = 2 * LARGEST_MEMBER
_MOST_MEMBERS = 1000

_Held = list[tuple[Member, bytes]]


class TarStream:
    """Rows of tar shards one after another. Members of a row must stand side by side, as WebDataset writes them."""

    def __init__(self, path: str, shards: Sequence[Shard]) -> None:
        self.file = shards[0].name if len(shards) == 1 else path
        self.root = folder_of(shards[0].name)
        self._shards = list(shards)
        self._ends: list[int] = []  # number of rows up to the end of each shard that was read
        first = list(islice(self.iter_rows(), _LOOKED_AT))
        if not first:
            raise DataError(
                "there is no row", self.file, "give shards with members such as 0001.jpg, 0001.txt"
            )
        rows = [row for row in first if not isinstance(row, DataError)]
        if not rows:
            raise next(row for row in first if isinstance(row, DataError))
        self.columns = tuple(dict.fromkeys(name for row in rows for name in row))
        self.notes = (("guess", f"{self.file}: the columns are those of the first {len(first)} rows"),)

    def origin(self, index: int) -> Origin:
        """Shard and row in it, once the shard was read so far."""
        for number, end in enumerate(self._ends):
            if index < end:
                return Origin(
                    self._shards[number].name, index + 1 - (self._ends[number - 1] if number else 0)
                )
        at = len(self._ends)
        if at >= len(self._shards):
            raise IndexError(index)
        return Origin(self._shards[at].name, index + 1 - (self._ends[-1] if self._ends else 0))

    def identity(self) -> str:
        """Names, sizes and times of the shards."""
        return identity_of(self._shards)

    def iter_rows(self, start: int = 0) -> Iterator[Mapping[str, Any] | DataError]:
        """Rows from number `start` on, with the error in place of one that cannot be used."""
        number = 0
        for at, shard in enumerate(self._shards):
            first = number
            for held in _rows_of(shard):
                if number >= start:
                    yield _row(held, shard, Origin(shard.name, number - first + 1))
                number += 1
            if at == len(self._ends):
                self._ends.append(number)


def _rows_of(shard: Shard) -> Iterator[_Held | Damage]:
    """The members of each row with their bytes."""
    held: _Held = []
    last = None
    with open_bytes(shard) as stream:
        scan = Scan(stream, shard.size, lambda name, size: size <= LARGEST_MEMBER)
        try:
            for found in scan:
                parts = "" if isinstance(found, Damage) else part_of_row(found)
                key = None if isinstance(parts, str) else parts[0]
                if held and (isinstance(found, Damage) or (key is not None and key != last)):
                    yield held
                    held = []
                if isinstance(found, Damage):
                    yield found
                elif key is not None:
                    held.append((found, scan.content or b""))
                    last = key
                    _check_size(held, shard)
        except NoArchive as error:
            raise DataError(error.what, shard.name, error.mend) from error
        except OSError as error:
            raise DataError(f"the shard cannot be read: {error}", shard.name, "try again") from error
    if held:
        yield held


def _check_size(held: _Held, shard: Shard) -> None:
    if len(held) > _MOST_MEMBERS or sum(len(content) for _, content in held) > _LARGEST_ROW:
        what = f"the row of `{held[0][0].name[:200]}` has too many members, or too large ones"
        raise DataError(what, shard.name, "write the shard with one stem for each row")


def _row(held: _Held | Damage, shard: Shard, origin: Origin) -> Mapping[str, Any] | DataError:
    builder = TarIndexBuilder()
    contents: dict[int, bytes] = {}
    try:
        if isinstance(held, Damage):
            builder.damage(held)
        else:
            for member, content in held:
                builder.member(member, content, shard)
                contents[member.start] = content
        index = builder.finish("")
        return OneRow(index, 0, str(origin), lambda start, size: contents[start]).values(None)
    except DataError as error:
        return error
