"""A look at every row before anything is learned: what each holds, and what is wrong with it.

What is found is kept as columns, never as an object a row. A row that cannot be used never ends the look: all of
them are listed. N samples, P pictures in the order of their samples.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Sample
from finesight.data.check import hashed
from finesight.data.digest import sample_digest
from finesight.data.encode import encode
from finesight.data.lengths import Limit, TooLong
from finesight.data.listening import said_of_sounds
from finesight.data.pictures.load import load_picture
from finesight.data.pictures.phash import signature
from finesight.data.samples import Counts, RowSource

_OF_SAMPLE: Final = {
    "source": np.int32,
    "row": np.int64,
    "name": np.uint64,
    "group": np.uint64,
    "digest": np.uint64,
    "pictures": np.int32,
}
_OF_PICTURE: Final = {"widths": np.int32, "heights": np.int32, "structures": np.uint64, "colours": np.uint64}


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used: `source` and `row` (from 0) find it again, the others are its line in `faults.csv`.

    `wished` tells that it is left out, or made shorter and used, because the recipe says so of long samples: such a row
    stops nothing.
    """

    source: int
    row: int
    file: str
    line: int
    column: str
    reason: str
    wished: bool = False


@dataclass(frozen=True)
class Survey:
    """What was found in rows.

    By sample (N,): `source` and `row` (from 0), hashes of its id (`name`), of its group and of all that it holds, and
    its number of `pictures`. By picture (P,): `widths` and `heights` in pixels, `structures` and `colours` of its
    signature. `bad` are the rows that cannot be used; `notes` counts what was done to rows and pictures, by kind and
    text of a notice.
    """

    source: np.ndarray
    row: np.ndarray
    name: np.ndarray
    group: np.ndarray
    digest: np.ndarray
    pictures: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    structures: np.ndarray
    colours: np.ndarray
    bad: tuple[Bad, ...] = ()
    notes: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def owner(self) -> np.ndarray:
        """The sample that each picture belongs to, (P,)."""
        return np.repeat(np.arange(len(self)), self.pictures)

    @property
    def signatures(self) -> np.ndarray:
        """Of the pictures, (P, 2), as `phash` compares them."""
        return np.stack([self.structures, self.colours], axis=1)

    def take(self, chosen: np.ndarray) -> "Survey":
        """Some of the samples, by a mask (N,); bad rows and notes stay behind."""
        columns = {name: getattr(self, name)[chosen] for name in _OF_SAMPLE}
        seen = np.repeat(chosen, self.pictures)
        return Survey(**columns, **{name: getattr(self, name)[seen] for name in _OF_PICTURE})


def joined(parts: Iterable[Survey]) -> Survey:
    """Surveys of consecutive rows as one."""
    listed = list(parts)
    columns = {
        name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in listed)])
        for name, kind in (_OF_SAMPLE | _OF_PICTURE).items()
    }
    notes: Counts = Counter()
    for part in listed:
        notes.update(part.notes)
    return Survey(**columns, bad=tuple(bad for part in listed for bad in part.bad), notes=notes)


def spread(total: int, most: int | None) -> np.ndarray:
    """`most` of `total` places, evenly spread; all of them where it is absent or they are fewer."""
    if most is None or most >= total:
        return np.arange(total)
    return np.arange(most) * total // most


@dataclass(frozen=True)
class LookAtRows:
    """The first task: `rows` of a source read as samples, and their pictures decoded."""

    opened: RowSource
    source: int
    rows: np.ndarray

    def __call__(self, part: Sequence[int]) -> Survey:
        """What is in the rows of a part."""
        columns: dict[str, list[Any]] = {name: [] for name in _OF_SAMPLE | _OF_PICTURE}
        bad: list[Bad] = []
        notes: Counts = Counter()
        for at in part:
            row = int(self.rows[at])
            counts: Counts = Counter()
            try:
                sample = self.opened.sample(row, counts=counts)
                if sample is None:
                    continue
                seen = look(sample, self.opened)
            except DataError as error:
                bad.append(bad_row(self.opened, self.source, row, error))
                continue
            notes.update(counts)
            notes.update(said_of_sounds(self.opened, row))
            for said, values in seen:
                notes.update(("picture", note.replace("_", " ")) for note in said)
                _append(columns, _OF_PICTURE, values)
            _append(columns, _OF_SAMPLE, (self.source, row, *_hashes(sample), len(sample.images)))
        arrays = {name: np.array(columns[name], kind) for name, kind in (_OF_SAMPLE | _OF_PICTURE).items()}
        return Survey(**arrays, bad=tuple(bad), notes=notes)


def _append(columns: Mapping[str, list[Any]], names: Iterable[str], values: Iterable[int]) -> None:
    for name, value in zip(names, values, strict=True):
        columns[name].append(value)


def _hashes(sample: Sample) -> tuple[int, int, int]:
    """Of its id, its group and all that it holds."""
    digest = int.from_bytes(sample_digest(sample)[:8], "little")
    return hashed(sample.id), hashed(sample.group or sample.id), digest


def look(sample: Sample, opened: RowSource) -> list[tuple[tuple[str, ...], tuple[int, int, int, int]]]:
    """Notes, width, height and signature of each picture of a sample."""
    column = opened.picture_column
    found = []
    for image in sample.images:
        try:
            picture = load_picture(image.data, where=f"{sample.origin}, column `{column}`")
        except DataError as error:
            error.column = error.column or column
            raise
        found.append((picture.notes, (*picture.image.size, *signature(picture.image))))
    return found


def bad_row(opened: RowSource, source: int, row: int, error: DataError) -> Bad:
    """A row that cannot be used, and why."""
    origin = opened.reader.origin(row)
    return Bad(source, row, origin.file, origin.row, error.column, error.faults[0].what)


def without_repeated_names(survey: Survey, sources: Sequence[RowSource]) -> Survey:
    """The survey with those samples counted as bad rows whose id one before them has."""
    first = first_places(survey.name)
    again = first != np.arange(len(first))
    if not again.any():
        return survey
    bad = []
    for at in np.flatnonzero(again).tolist():
        number, row = int(survey.source[at]), int(survey.row[at])
        before = int(first[at])
        other = sources[survey.source[before]].reader.origin(int(survey.row[before]))
        sample = sources[number].sample(row, pictures=False)
        what = f"the id `{sample.id if sample else ''}` is that of {other} too"
        error = DataError(what, "", "", sources[number].columns.id or "")
        bad.append(bad_row(sources[number], number, row, error))
    return replace(survey.take(~again), bad=(*survey.bad, *bad), notes=survey.notes)


def first_places(keys: np.ndarray) -> np.ndarray:
    """For each place (N,) the first one with an equal key: itself where there is none before it."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    places: np.ndarray = first[group.reshape(-1)]
    return places


@dataclass(frozen=True)
class Measured:
    """Tokens of samples (N,), and how many of them are learned from; 0 for those that turned out to be bad.

    `long` are samples that were made shorter, and are used.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    bad: tuple[Bad, ...] = ()
    long: tuple[Bad, ...] = ()


@dataclass(frozen=True)
class MeasureSamples:
    """The second task: samples encoded for one model."""

    sources: Sequence[RowSource]
    source: np.ndarray
    row: np.ndarray
    ports: Ports
    limit: Limit

    def __call__(self, part: Sequence[int]) -> Measured:
        """Tokens of the samples of a part."""
        counts = np.zeros((2, len(part)), dtype=np.int64)
        bad: list[Bad] = []
        long: list[Bad] = []
        for place, at in enumerate(part):
            number, row = int(self.source[at]), int(self.row[at])
            opened = self.sources[number]
            try:
                sample = opened.sample(row, pictures=self.ports.sized)
                if sample is None:
                    raise DataError("the row changed while it was in use", "", "")
                encoded = encode(sample, self.ports, self.limit)
                learned = int((encoded.targets != IGNORE).sum())
                if not learned:
                    raise DataError("no token of it is learned from", "", "")
            except DataError as error:
                wished = isinstance(error, TooLong) and self.limit.on_long == "skip"
                bad.append(replace(bad_row(opened, number, row, error), wished=wished))
                continue
            counts[:, place] = len(encoded.tokens), learned
            if encoded.note:
                note = DataError(encoded.note, "", "")
                long.append(replace(bad_row(opened, number, row, note), wished=True))
        return Measured(counts[0], counts[1], tuple(bad), tuple(long))


def measured(parts: Iterable[Measured]) -> Measured:
    """Consecutive parts as one."""
    listed = list(parts)
    empty = np.empty(0, dtype=np.int64)
    return Measured(
        np.concatenate([empty, *(part.tokens for part in listed)]),
        np.concatenate([empty, *(part.supervised for part in listed)]),
        tuple(bad for part in listed for bad in part.bad),
        tuple(long for part in listed for long in part.long),
    )
