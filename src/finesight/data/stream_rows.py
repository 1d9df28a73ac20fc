"""Rows that come one after another and are never asked for by number; and a look at the first of them."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from finesight.core.errors import DataError
from finesight.core.sample import Origin, Sample
from finesight.data.pictures.load import load_picture
from finesight.data.policy import Policy
from finesight.data.samples import Counts, RowSource
from finesight.data.sources import Reader, Row
from finesight.runtime.notices import Notices

_DECODED = 100
"""Rows whose pictures are decoded before step 1: enough to see that the columns are the right ones."""


@dataclass(frozen=True)
class Numbered:
    """A row as it was read: its number in the stream (from 0), where it stands, its values or why there are none."""

    number: int
    origin: Origin
    values: Row | DataError


@runtime_checkable
class Sequential(Protocol):
    """What a reader has whose rows come one after another."""

    def iter_rows(self, start: int = 0) -> Iterator[Row | DataError]:
        """The rows from number `start` on."""


def one_by_one(reader: Reader, start: int, needed: Collection[str]) -> Iterator[Numbered]:
    """The rows of a reader from number `start` on, one after another, with the `needed` ones of their columns."""
    rows = reader.iter_rows(start) if isinstance(reader, Sequential) else _by_number(reader, start, needed)
    for number, values in enumerate(rows, start):
        if not isinstance(values, DataError):
            values = {name: value for name, value in values.items() if name in needed}
        yield Numbered(number, reader.origin(number), values)


def _by_number(reader: Reader, start: int, needed: Collection[str]) -> Iterator[Row | DataError]:
    for index in range(start, len(reader)):
        try:
            yield reader.row(index, needed)
        except DataError as error:
            yield error


class _OneRow:
    """A reader of the row that is at hand."""

    def __init__(self, reader: Reader, row: Numbered) -> None:
        self._reader, self._row = reader, row
        self.file, self.root, self.columns, self.notes = (
            reader.file,
            reader.root,
            reader.columns,
            reader.notes,
        )

    def __len__(self) -> int:
        return 1

    def row(self, index: int, columns: Collection[str] | None = None) -> Row:
        if isinstance(self._row.values, DataError):
            raise self._row.values
        return self._row.values

    def origin(self, index: int) -> Origin:
        return self._row.origin

    def identity(self) -> str:
        return self._reader.identity()


@dataclass(frozen=True)
class StreamRows:
    """The rows of a source that is a stream."""

    source: RowSource

    @property
    def length(self) -> int | None:
        """How many rows `where` and `max_samples` leave; None where nobody knows before the stream has ended."""
        settings, reader = self.source.source, self.source.reader
        if settings.where or not isinstance(reader, Sized):
            return None
        return len(reader) if settings.max_samples is None else min(len(reader), settings.max_samples)

    @property
    def numbered(self) -> bool:
        """Whether the n-th row that is kept is row n of the reader, so that one may begin anywhere."""
        return not self.source.source.where

    def kept(self, start: int, tell: Callable[[int], object] = int) -> Iterator[Numbered]:
        """The rows that `where` leaves, no more than `max_samples`, from row `start` of the reader on.

        `tell` is called with the number of each row before it is read.
        """
        most = self.source.source.max_samples
        return itertools.islice(self._wanted(start, tell), None if most is None else max(0, most - start))

    def _wanted(self, start: int, tell: Callable[[int], object]) -> Iterator[Numbered]:
        tell(start)
        for row in one_by_one(self.source.reader, start, self.source.layout.needed):
            tell(row.number + 1)
            if self.numbered or self._keeps(row):
                yield row

    def _keeps(self, row: Numbered) -> bool:
        try:
            return self.sample(row, pictures=False) is not None
        except DataError:
            return True  # told when it is drawn

    def sample(self, row: Numbered, pictures: bool = True, counts: Counts | None = None) -> Sample | None:
        """The sample of a row, None where `where` leaves it out; raises DataError where it is bad."""
        reader = _OneRow(self.source.reader, row)
        return replace(self.source, reader=reader).sample(row.number, pictures, counts)


@dataclass(frozen=True)
class Head:
    """The first rows of a stream: their samples, pictures left empty, and the `rows` of the first few of them."""

    samples: Sequence[Sample]
    rows: Sequence[Numbered]


def look_ahead(
    stream: StreamRows,
    count: int,
    kept: int,
    decode: bool,
    policy: Policy,
    notices: Notices,
    tick: Callable[[int], object],
) -> Head:
    """Read and check the words of the first `count` rows, and the pictures of some; hold the first `kept` good ones.

    `tick` is called with the number of each row, and may raise to stop. Raises DataError by the policy, and where no
    row is good.
    """
    samples: list[Sample] = []
    rows: list[Numbered] = []
    counts: Counts = Counter()
    for number, row in enumerate(itertools.islice(stream.kept(0, tick), count)):
        try:
            seen = decode and number < _DECODED
            sample = stream.sample(row, pictures=seen, counts=counts)
            for image in sample.images if sample is not None and seen else ():
                picture = load_picture(
                    image.data, where=f"{row.origin}, column `{stream.source.picture_column}`"
                )
                counts.update(("picture", note.replace("_", " ")) for note in picture.notes)
        except DataError as error:
            error.column = error.column or stream.source.picture_column
            policy.bad_row(row.origin.file, row.origin.row, error)
            continue
        if sample is not None:
            samples.append(sample)
            rows += [row] if len(rows) < kept else []
    for (kind, text), times in counts.items():
        notices.add(kind, f"the first {count:,} rows of train: {text}", times)
    if not samples:
        file = stream.source.reader.file
        raise DataError(
            f"none of the first {count:,} rows of the stream can be used: {policy.examples()}",
            file,
            "check this source: its file, its columns and its `where`",
        )
    return Head(samples, rows)
