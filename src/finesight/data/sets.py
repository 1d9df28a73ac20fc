"""Checked samples of the recipe's splits: columns of numbers, and each sample read from its file when asked for."""

import bisect
import hashlib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar, overload

import numpy as np

from finesight.config.data import ByColumn, Data, Split
from finesight.config.sources import Source
from finesight.core.errors import DataError
from finesight.core.sample import Origin, Sample
from finesight.data.check import Checking, Part, check_source, hashed, stamp_of
from finesight.data.digest import sample_digest
from finesight.data.listening import listening
from finesight.data.passes.cache import forget
from finesight.data.passes.passing import Means
from finesight.data.policy import Policy
from finesight.data.samples import RowSource, open_rows
from finesight.data.seen import Seen
from finesight.data.shapes.values import has_column
from finesight.data.splits import split_groups
from finesight.runtime.notices import Notices

Tick = Callable[[int], object]
"""Called with the number of rows read so far; may raise to stop."""

T = TypeVar("T")

_AT_ONCE = 1 << 16
"""Samples whose ids are written out at once."""
_SHOWN = 20
"""Things of a set that its representation shows."""


class Each(Sequence[T]):
    """Something of each sample of a set, made when it is asked for. Equal to any sequence of equal things."""

    def __init__(self, count: int, get: Callable[[int], T]) -> None:
        self._count, self._get = count, get

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._get(at) for at in range(*index.indices(self._count))]
        return self._get(range(self._count)[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        few = ", ".join(map(repr, self[:_SHOWN]))
        return f"<{len(self):,}: {few}{', …' if len(self) > _SHOWN else ''}>"


class SampleSet(Sequence[Sample]):
    """Checked samples of one split, to be counted, indexed and looked at.

        samples = finesight.load_data("quickstart")["train"]
        samples[0].prompt, samples[0].references, samples[0].origin

    Each is read again from its file when it is asked for; `words` leaves its pictures out. What the set itself holds
    are a few numbers a sample.
    """

    def __init__(self, parts: Sequence[Part], at: np.ndarray) -> None:
        """`at` are the places (N,) of the samples in the parts, one part after another."""
        self.parts, self._at = tuple(parts), at
        self._begins = [0, *np.cumsum([len(part) for part in self.parts]).tolist()]

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> "SampleSet": ...

    def __getitem__(self, index: int | slice) -> "Sample | SampleSet":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._read(index, pictures=True)

    def __repr__(self) -> str:
        files = ", ".join(dict.fromkeys(part.opened.reader.file for part in self.parts))
        return f"<{len(self):,} samples of {files}>"

    @property
    def rows(self) -> int:
        """Rows that were looked at for this set and for those that were taken out of the same sources."""
        return sum(part.rows for part in self.parts)

    def words(self, index: int) -> Sample:
        """Sample `index` with its pictures empty: for what needs their number alone, and not their bytes."""
        return self._read(index, pictures=False)

    def take(self, indices: Sequence[int] | np.ndarray) -> "SampleSet":
        """Some of the samples, in the order given."""
        return SampleSet(self.parts, self._at[np.asarray(indices, dtype=np.int64)])

    def _place(self, index: int) -> tuple[Part, int]:
        at = int(self._at[index])
        number = bisect.bisect_right(self._begins, at) - 1
        return self.parts[number], at - self._begins[number]

    def _read(self, index: int, pictures: bool) -> Sample:
        part, at = self._place(index)
        opened, row = part.opened, int(part.found["rows"][at])
        sample = opened.sample(row, pictures)
        if sample is None:
            where = str(opened.reader.origin(row))
            raise DataError("the row changed while it was in use", where, "put it back, and begin again")
        if pictures:
            _check_files(part, at, sample)
        return sample

    def row(self, index: int) -> tuple[RowSource, int]:
        """The source of a sample, and the number of its row in it, from 0."""
        part, at = self._place(index)
        return part.opened, int(part.found["rows"][at])

    def origin(self, index: int) -> Origin:
        """Where a sample stands; its row is not read."""
        opened, row = self.row(index)
        return opened.reader.origin(row)

    def id(self, index: int) -> str:
        """The id of a sample; its row is not read."""
        part, at = self._place(index)
        return part.id(at)

    @property
    def ids(self) -> Sequence[str]:
        """The ids of all samples, each made when it is asked for."""
        return Each(len(self), self.id)

    @property
    def places(self) -> Sequence[tuple[RowSource, int]]:
        """The source and row of all samples, each looked up when it is asked for."""
        return Each(len(self), self.row)

    @property
    def sources(self) -> np.ndarray:
        """The number of the source of each sample (N,), in the order of the recipe."""
        found: np.ndarray = np.searchsorted(self._begins, self._at, side="right") - 1
        return found

    @property
    def digests(self) -> np.ndarray:
        """A hash of what each sample holds (N,), 16 bytes."""
        return self.column("digests")

    @property
    def groups(self) -> np.ndarray:
        """A hash of the group of each sample (N,), of its id where it has none."""
        return self.column("groups")

    def column(self, name: str) -> np.ndarray:
        """A column (N,) of what the check has found."""
        if len(self.parts) == 1:
            return np.asarray(self.parts[0].found[name][self._at])
        return np.asarray(np.concatenate([part.found[name] for part in self.parts])[self._at])

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever a word, a picture, a reference, an id or the order of the rows does, or the speech model."""
        digest = hashlib.blake2b(self.digests.tobytes(), digest_size=16)
        for part in self.parts:
            if part.opened.hearing is not None:
                digest.update(part.opened.hearing.identity.encode())
        for start in range(0, len(self), _AT_ONCE):
            text = "\0".join(self._some_ids(slice(start, start + _AT_ONCE))) + "\0"
            digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _some_ids(self, some: slice) -> list[str]:
        """Many ids at once: a hundred times as fast as one after another."""
        at, sources = self._at[some], self.sources[some]
        names = np.empty(len(at), dtype=object)
        for number in np.unique(sources).tolist():
            own = sources == number
            names[own] = self.parts[number].ids(at[own] - self._begins[number])
        return names.tolist()


def _check_files(part: Part, at: int, sample: Sample) -> None:
    """Raise DataError where a picture's file is not the one that was checked."""
    stamp = int(part.found["stamps"][at])
    if not stamp or stamp == stamp_of(sample):
        return
    if part.decoded and sample_digest(sample) == part.found["digests"][at].tobytes():
        return  # copied or touched: what is in it is the same
    forget(part.found)
    raise DataError(
        "a picture changed since it was checked",
        str(sample.origin),
        "put it back; or begin again: all of this source is then checked anew",
    )


def read_samples(
    sources: Source | tuple[Source, ...],
    policy: Policy,
    notices: Notices,
    purpose: str,
    tick: Tick | None = None,
    checking: Checking | None = None,
) -> SampleSet:
    """Read and check every row of one or more sources: its columns, words and picture.

    Raises DataError by the policy, and where no row of a source is left.
    """
    checking = checking or Checking()
    listed = sources if isinstance(sources, tuple) else (sources,)
    opened: list[RowSource] = []
    parts: list[Part] = []
    places: list[np.ndarray] = []
    seen, begin = Seen(), 0
    means = Means(checking.jobs, checking.timeout, tick or (lambda rows: None), notices)
    for number, source in enumerate(listed):
        opened.append(open_rows(source, source_name(source, number, len(listed)), checking.access))
        for column, split in checking.marks:
            _check_column(opened[-1], column, split)
        for kind, text in opened[-1].said:
            notices.add(kind, text)
        opened[-1] = listening(opened[-1], checking.ears)
        part, kept, bad = check_source(opened, checking, seen, policy, means, purpose)
        opened[-1] = part.opened
        if not len(kept):
            raise _nothing_left(opened[-1], bad, purpose, policy)
        parts.append(part)
        places.append(kept + begin)
        begin += len(part)
    return SampleSet(parts, np.concatenate(places))


def _check_column(opened: RowSource, column: str, purpose: str) -> None:
    """Raise DataError where a column to split by is missing."""
    reader = opened.reader
    if not has_column(reader.columns, column):
        have = ", ".join(f"`{name}`" for name in reader.columns)
        where = f"{reader.file}, `data.{purpose}` of the recipe"
        raise DataError(f"there is no column `{column}`", where, f"it has {have}")


def _nothing_left(opened: RowSource, bad: int, purpose: str, policy: Policy) -> DataError:
    why = []
    if bad:
        why.append(f"{bad} are bad ({policy.examples()})")
    if opened.source.where:
        kept = ", ".join(f"{column}: {value}" for column, value in opened.source.where.items())
        why.append(f"`where` ({kept}) keeps none of the others")
    what = f"no rows are left for `data.{purpose}`{': ' if why else ''}{'; '.join(why)}"
    return DataError(what, opened.reader.file, "check this source: its file, its columns and its `where`")


def source_name(source: Source, number: int, sources: int) -> str:
    """Prefix of row-number ids: the file's stem, with the source's number where there are several."""
    stem = re.split(r"[/:]", source.path.rstrip("/"))[-1].split(".")[0] or "row"
    return stem if sources == 1 else f"{stem}-{number + 1}"


def read_splits(
    data: Data, seed: int, policy: Policy, notices: Notices, tick: Tick | None = None, jobs: int | None = None
) -> dict[str, SampleSet]:
    """The samples of `train`, `val` and `test`, those that the recipe has, checked by `jobs` worker processes.

    Training samples that are a stream are not among them.
    """
    checking = Checking.of(data)
    checking = checking if jobs is None else replace(checking, jobs=jobs)
    asked = {"val": data.val, "test": data.test}
    if data.streams:
        return {
            purpose: read_samples(wanted, policy, notices, purpose, tick, checking)
            for purpose, wanted in asked.items()
            if wanted is not None and not isinstance(wanted, Split)
        }
    parts = {purpose: split for purpose, split in asked.items() if isinstance(split, Split)}
    named = {purpose: _column_of(split) for purpose, split in parts.items()}
    marks = tuple((column, purpose) for purpose, column in named.items() if column is not None)
    train = read_samples(data.train, policy, notices, "train", tick, replace(checking, marks=marks))
    splits, whole = {}, len(train)
    for purpose, wanted in asked.items():
        if isinstance(wanted, Split):
            mark = next((f"mark-{at}" for at, (_, owner) in enumerate(marks) if owner == purpose), None)
            taken = _taken(wanted, train, mark, whole, seed, purpose)
            if not taken.any() or taken.all():
                empty = "train" if taken.all() else purpose
                mend = f"choose another share, group or column in `data.{purpose}.split`"
                raise DataError(f"the split `{empty}` is empty", f"data.{purpose}", mend)
            splits[purpose] = train.take(np.flatnonzero(taken))
            train = train.take(np.flatnonzero(~taken))
        elif wanted is not None:
            splits[purpose] = read_samples(wanted, policy, notices, purpose, tick, checking)
    for purpose, samples in splits.items():
        shared = in_both(samples.digests, train.digests)
        if shared:
            notices.add("leak", f"samples of `{purpose}` that are also in `train`, word for word", shared)
    return {"train": train, **splits}


def _column_of(split: Split) -> str | None:
    return split.split.column if isinstance(split.split, ByColumn) else split.group


def _taken(
    split: Split, train: SampleSet, mark: str | None, whole: int, seed: int, purpose: str
) -> np.ndarray:
    """Mask over the training samples of those that this split takes out.

    A share is one of the `whole` number of samples before any split. `mark` names the hashes of the split's column.
    """
    if isinstance(split.split, ByColumn):
        assert mark is not None
        values = np.array([hashed(value) for value in split.split.values], dtype=np.uint64)
        return np.isin(train.column(mark), values)
    groups = train.groups
    if mark is not None:  # a sample without a value is a group of its own
        found = train.column(mark)
        groups = np.where(found == np.uint64(hashed("")), train.column("names"), found)
    return split_groups(groups, split.split * whole / len(train), seed, purpose)


def in_both(some: np.ndarray, others: np.ndarray) -> int:
    """How many of `some` digests (N,) are among `others` (M,)."""
    if not len(others):
        return 0
    halves, known = _halves(some), np.sort(_halves(others))
    nearest = np.minimum(np.searchsorted(known, halves), len(known) - 1)
    maybe = known[nearest] == halves
    if not maybe.any():
        return 0
    those = set(others[np.isin(_halves(others), halves[maybe])].tolist())
    return sum(digest in those for digest in some[maybe].tolist())


def twice(digests: np.ndarray) -> int:
    """How many digests (N,) came before."""
    halves = _halves(digests)
    ordered = np.sort(halves)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    some = digests[np.isin(halves, again)].tolist() if len(again) else []
    return len(some) - len(set(some))


def _halves(digests: np.ndarray) -> np.ndarray:
    """The first 64 bits of each digest (N,): rarely equal where the digests are not."""
    return np.ascontiguousarray(digests).view(np.uint64)[::2]
