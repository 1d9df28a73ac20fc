"""Every row looked at once, before anything is learned: its columns, words and pictures, and whether its id is new.

What is found is kept as columns, and found again by the next run as long as neither the rows nor the recipe of their
source change. N rows that are samples.
"""

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finesight.config.data import Data
from finesight.core.errors import DataError
from finesight.core.sample import Audio, Image, Origin, Sample
from finesight.data.digest import sample_digest
from finesight.data.listening import FEW_SOUNDS, as_heard, said_of_sounds, stamp_of_files
from finesight.data.passes.cache import Arrays, key_of
from finesight.data.passes.parallel import CHUNK, cores
from finesight.data.passes.passing import Means, Pass, Piece
from finesight.data.pictures.load import load_picture
from finesight.data.policy import Policy
from finesight.data.samples import Access, Counts, RowSource
from finesight.data.seen import NEW, Seen, places, source_and_row
from finesight.data.sounds.ears import Ears
from finesight.data.sounds.hearing import Heard, Listening, columns_of

_log = logging.getLogger("finesight")

_ALL = 20_000
"""Rows up to which `check: auto` decodes all pictures."""
_PATIENCE = 6.0
"""Seconds of work that are not worth the start of worker processes."""
_DIGEST = np.dtype("V16")


@dataclass(frozen=True)
class Checking:
    """What is looked at, and how; see the recipe's `data`. `jobs` are worker processes for what takes long."""

    check: Literal["auto", "all", "quick"] = "auto"
    access: Access = field(default_factory=Access)
    marks: tuple[tuple[str, str], ...] = ()
    """Columns whose values are wanted by row, each with the split that it decides on."""
    ears: Ears | None = None
    """What transcribes the sounds of rows, where the recipe wants that."""
    jobs: int = field(default_factory=cores)
    timeout: float = 300.0

    @classmethod
    def of(cls, data: Data) -> "Checking":
        """As a recipe says."""
        access = Access(data.allow_urls, data.allow_outside)
        ears = None if data.speech is None else Ears(data.speech)
        return cls(data.check, access, ears=ears, timeout=data.timeout)


def hashed(text: str) -> int:
    """64 bits of a text."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Part:
    """The samples of one source. By sample (N,), in `found`:

    `rows` (from 0), `digests` of all that the sample holds, hashes of its id (`names`), of its group (or else its id)
    and of its columns `mark-0`, … , and `stamps` of the files that its pictures are in (0: in none). `id_sizes` are the
    bytes of its id in `ids`; 0 where the id is the row's number. Where sounds were transcribed, `sound_stamps` of the
    files that they are in, and the columns of `hearing.columns_of`.
    """

    opened: RowSource
    found: Arrays
    decoded: bool
    rows: int = 0
    """Rows that were looked at."""

    def __len__(self) -> int:
        return len(self.found["rows"])

    def id(self, at: int) -> str:
        """The id of a sample."""
        size = int(self.found["id_sizes"][at])
        if not size:
            return _numbered(self.opened, int(self.found["rows"][at]))
        end = int(self._ends[at])
        return self.found["ids"][end - size : end].tobytes().decode("utf-8", "surrogatepass")

    def ids(self, at: np.ndarray) -> list[str]:
        """The ids of some samples (N,)."""
        if self.has_own_ids:
            return [self.id(one) for one in at.tolist()]
        name = self.opened.name
        return [f"{name}-{row + 1}" for row in self.found["rows"][at].tolist()]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.found["id_sizes"], dtype=np.int64)

    @cached_property
    def has_own_ids(self) -> bool:
        """Whether some ids are not the numbers of rows."""
        return len(self.found["ids"]) > 0


def _numbered(opened: RowSource, row: int) -> str:
    return f"{opened.name}-{row + 1}"


@dataclass(frozen=True)
class _Look:
    """The task: some rows read as samples."""

    opened: RowSource
    decode: bool
    marks: tuple[str, ...]

    def __call__(self, rows: range) -> Piece:
        opened, found = self.opened, _Found(self.opened, self.marks)
        for row in rows:
            counts: Counts = Counter()
            try:
                sample = opened.sample(row, counts=counts, look=not self.decode)
                if sample is None:
                    continue
                if self.decode:
                    counts.update(("picture", note) for note in _decoded(sample, opened.picture_column))
                counts.update(said_of_sounds(opened, row))
                marks = [hashed(opened.text(row, column)) for column in self.marks]
            except DataError as error:
                found.faults.append(fault_of(row, opened.reader.origin(row), error))
                continue
            found.add(row, sample, marks)
            found.counts.update(counts)
        return found.piece(rows)


def _decoded(sample: Sample, column: str) -> Iterator[str]:
    """Decode the pictures of a sample; what was done to read them."""
    for image in sample.images:
        try:
            picture = load_picture(image.data, where=f"{sample.origin}, column `{column}`")
        except DataError as error:
            error.column = column
            raise
        yield from (note.replace("_", " ") for note in picture.notes)


def stamp_of(sample: Sample) -> int:
    """64 bits of the names, sizes and times of the files that the pictures and sounds of a sample are in, or 0."""
    media: tuple[Image | Audio, ...] = (*sample.images, *sample.sounds)
    return stamp_of_files(part.file for part in media)


class _Found:
    """What is found in some rows."""

    def __init__(self, opened: RowSource, marks: tuple[str, ...]) -> None:
        self._opened, self._marks = opened, marks
        self._rows: list[int] = []
        self._digests: list[bytes] = []
        self._hashes: dict[str, list[int]] = {
            name: [] for name in ("names", "groups", "stamps", *_named(marks))
        }
        self._ids: list[bytes] = []
        self._listening = opened.hearing if isinstance(opened.hearing, Listening) else None
        self._heard: list[tuple[str, ...]] = []
        self._sound_stamps: list[int] = []
        self.faults: list[list[Any]] = []
        self.counts: Counts = Counter()

    def add(self, row: int, sample: Sample, marks: Sequence[int]) -> None:
        self._rows.append(row)
        self._digests.append(sample_digest(sample))
        own = sample.id != _numbered(self._opened, row)
        self._ids.append(sample.id.encode("utf-8", "surrogatepass") if own else b"")
        values = (hashed(sample.id), hashed(sample.group or sample.id), stamp_of(sample), *marks)
        for column, value in zip(self._hashes.values(), values, strict=True):
            column.append(value)
        if self._listening is not None:
            words, files = self._listening.of(row)
            self._listening.forget(row)
            self._heard.append(words)
            self._sound_stamps.append(stamp_of_files(files))

    def piece(self, rows: range) -> Piece:
        columns = {
            "rows": np.array(self._rows, dtype=np.int64),
            "digests": np.frombuffer(b"".join(self._digests), dtype=_DIGEST),
            "id_sizes": np.array([len(name) for name in self._ids], dtype=np.int32),
            "ids": np.frombuffer(b"".join(self._ids), dtype=np.uint8),
            **{name: np.array(values, dtype=np.uint64) for name, values in self._hashes.items()},
        }
        if self._listening is not None:
            columns |= columns_of(self._heard)
            columns["sound_stamps"] = np.array(self._sound_stamps, dtype=np.uint64)
        notes = [["note", kind, text, count] for (kind, text), count in self.counts.items()]
        return Piece(rows.start, rows.stop, columns, [*self.faults, *notes])


def _named(marks: Sequence[str]) -> list[str]:
    return [f"mark-{number}" for number in range(len(marks))]


def fault_of(number: int, origin: Origin, error: DataError) -> list[Any]:
    """A fault as it is kept: what it is number of, its file and row, the column, and the words."""
    fault = error.faults[0]
    return ["fault", number, origin.file, origin.row, error.column, fault.what, fault.where, fault.mend]


def error_of(event: Sequence[Any]) -> tuple[str, int, DataError]:
    """File, line and error of a fault that was kept."""
    _, _, file, line, column, what, where, mend = event
    return file, line, DataError(what, where, mend, column)


def check_source(
    opened: Sequence[RowSource],
    checking: Checking,
    seen: Seen,
    policy: Policy,
    means: Means,
    purpose: str,
) -> tuple[Part, np.ndarray, int]:
    """Look at all rows of the last of the `opened` sources: what is found, the places (N,) in it of samples with new
    ids, and how many rows are bad.

    `seen` holds the ids of the sources before it. Raises DataError for the first bad row, unless the policy skips it.
    """
    own = opened[-1]
    listening = own.hearing if isinstance(own.hearing, Listening) else None
    reader, most = own.reader, own.source.max_samples
    rows = len(reader) if most is None else min(len(reader), most)
    decode = checking.check == "all" or (checking.check == "auto" and rows <= _ALL)
    if not decode and own.columns.image:
        told = (
            f"the pictures of {rows:,} rows of {reader.file} are looked for, and decoded when they are used"
        )
        means.notices.add("quick", f"{told} (`data.check`)")
    marks = tuple(column for column, _ in checking.marks)
    key = key_of(str(Path(reader.file).absolute()), own.name, own.identity(), decode, marks)
    merge = _Merge(opened, seen, policy)
    look = _Look(own, decode, marks)
    trust, chunk, held = None, CHUNK, contextlib.ExitStack()
    if listening is not None:  # the speech model is loaded once, here
        trust, chunk = partial(as_heard, own, means), FEW_SOUNDS
        held.enter_context(listening.ears.at_work(means.tick, means.notices))
        means = replace(means, jobs=0)
    with held, Pass("check", key, f"{reader.file} {purpose}", look, len(reader), means) as checked:
        for piece in checked.pieces(_PATIENCE, lambda row: str(reader.origin(row)), trust, chunk):
            if merge.take(piece, checked.cut):
                break
        found = checked.finish()
    for (kind, text), count in merge.counts.items():
        means.notices.add(kind, f"{purpose}: {text}", count)
    if listening is not None:
        own = replace(own, hearing=Heard(listening.identity, found))
    return Part(own, found, decode, found.facts["stop"]), merge.kept, merge.bad


class _Merge:
    """Pieces of one source in order: faults are told to the policy, among them ids that were there before."""

    def __init__(self, opened: Sequence[RowSource], seen: Seen, policy: Policy) -> None:
        self._opened, self._own, self._seen, self._policy = opened, opened[-1], seen, policy
        self._kept: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        self._count = self._length = self.bad = 0
        self.counts: Counts = Counter()

    @property
    def kept(self) -> np.ndarray:
        """Places (N,) of the samples whose id is new, among all that were found."""
        return np.concatenate(self._kept)

    def take(self, piece: Piece, cut: Callable[[Piece, int], Piece]) -> bool:
        """Merge a piece, cut where `max_samples` ends it; whether it does. Raises DataError by the policy."""
        before = self._before(piece)
        end = self._end(piece, np.flatnonzero(before == NEW))
        if end is not None and end < piece.stop:
            piece = cut(piece, end)
            before = before[: len(piece.columns["rows"])]
        faults = [event for event in piece.events if event[0] == "fault"]
        faults += [self._twice(piece, at, int(before[at])) for at in np.flatnonzero(before != NEW).tolist()]
        for event in sorted(faults, key=lambda fault: fault[1]):
            self._policy.bad_row(*error_of(event))
            self.bad += 1
        for _, kind, text, count in (event for event in piece.events if event[0] == "note"):
            self.counts[kind, text] += count
        new = np.flatnonzero(before == NEW)
        if self._tells_apart:
            self._seen.add(piece.columns["names"][new], self._places(piece)[new])
        self._kept.append(new + self._length)
        self._count, self._length = self._count + len(new), self._length + len(before)
        return end is not None

    @property
    def _tells_apart(self) -> bool:
        """Whether an id may come twice: numbers of rows of one source do not."""
        return len(self._opened) > 1 or self._own.columns.id is not None

    def _end(self, piece: Piece, new: np.ndarray) -> int | None:
        most = self._own.source.max_samples
        if most is None or len(new) < most - self._count:
            return None
        return int(piece.columns["rows"][new[most - self._count - 1]]) + 1

    def _places(self, piece: Piece) -> np.ndarray:
        return places(len(self._opened) - 1, piece.columns["rows"])

    def _before(self, piece: Piece) -> np.ndarray:
        """For each sample of the piece (N,) the place of the one before it that has its id, or NEW."""
        names = piece.columns["names"]
        if not self._tells_apart:
            return np.full(len(names), NEW, dtype=np.int64)
        before = self._seen.before(names, self._places(piece))
        for at in np.flatnonzero(before != NEW).tolist():
            number, row = source_and_row(int(before[at]))
            other = self._opened[number].sample(row, pictures=False)
            if other is None or other.id != self._id(piece, at):
                before[at] = NEW  # two names of one hash
        return before

    def _id(self, piece: Piece, at: int) -> str:
        return Part(self._own, Arrays(piece.columns, {}), decoded=False).id(at)

    def _twice(self, piece: Piece, at: int, other: int) -> list[Any]:
        number, row = source_and_row(other)
        what = f"the id `{self._id(piece, at)}` is that of {self._opened[number].reader.origin(row)} too"
        here = int(piece.columns["rows"][at])
        origin, column = self._own.reader.origin(here), self._own.columns.id or ""
        return fault_of(here, origin, DataError(what, str(origin), "give each sample its own id", column))
