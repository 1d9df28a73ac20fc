"""Sources whose sounds are transcribed as their rows are looked at, and whether what was heard still holds."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from finesight.core.errors import DataError
from finesight.core.sample import FileMark
from finesight.data.passes.parallel import over_rows
from finesight.data.passes.passing import Means, Piece
from finesight.data.samples import Counts, RowSource
from finesight.data.sounds.ears import Ears
from finesight.data.sounds.hearing import Listening

FEW_SOUNDS = 16
"""Rows with sounds that are handed out at once: each may take seconds, and none after `max_samples` is wanted."""
_PATIENCE = 6.0
"""Seconds of work that are not worth the start of worker processes."""


def listening(opened: RowSource, ears: Ears | None) -> RowSource:
    """The source with its sounds transcribed as its rows are looked at, where it may have some."""
    return replace(opened, hearing=Listening(ears)) if ears is not None and opened.sound_column else opened


def said_of_sounds(opened: RowSource, row: int) -> Counts:
    """A notice of the sounds of a row that were transcribed."""
    if not isinstance(opened.hearing, Listening):
        return Counter()
    told = f"sounds are read as the words that {opened.hearing.ears.name} hears in them"
    return Counter({("speech", told): len(opened.hearing.of(row)[0])})


def stamp_of_files(marks: Iterable[FileMark | None]) -> int:
    """64 bits of the names, sizes and times of files, or 0 for none."""
    files = [file for file in marks if file is not None]
    if not files:
        return 0
    told = repr([(file.name, file.size, file.version) for file in files]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")


def as_heard(own: RowSource, means: Means, piece: Piece) -> bool:
    """Whether the sounds of rows are those that were transcribed: the same files, and none that has become better."""
    stamps = np.asarray(piece.columns["sound_stamps"])
    rows = np.asarray(piece.columns["rows"])[stamps != 0]
    look = _StampSounds(replace(own, hearing=None), rows)
    tick: Callable[[int], object] = lambda done: means.tick(0)  # noqa: E731
    found = over_rows(look, len(rows), means.jobs, tick, patience=_PATIENCE, timeout=means.timeout)
    if not np.array_equal(np.concatenate([stamps[:0], *found]), stamps[stamps != 0]):
        return False
    bad = [event for event in piece.events if event[0] == "fault" and event[4] == own.sound_column]
    return not any(map(partial(_is_good, own), (event[1] for event in bad)))


def _is_good(own: RowSource, row: int) -> bool:
    try:
        own.sample(row, pictures=False)
    except DataError:
        return False
    return True


@dataclass(frozen=True)
class _StampSounds:
    """The task: the stamps of the files that the sounds of some of the `rows` are in."""

    opened: RowSource
    rows: np.ndarray

    def __call__(self, part: Sequence[int]) -> np.ndarray:
        found = []
        for at in part:
            try:
                sample = self.opened.sample(int(self.rows[at]), look=True)
            except DataError:
                sample = None
            found.append(0 if sample is None else stamp_of_files(sound.file for sound in sample.sounds))
        return np.array(found, dtype=np.uint64)
