"""Which ids were there before, among any number of them: 16 bytes an id, and no objects."""

import numpy as np

NEW = -1
"""The place of what was not there before."""
_SHIFT = 40
"""Bits of a place that number the row; those above number the source."""


def places(source: int, rows: np.ndarray) -> np.ndarray:
    """Places (N,) of rows of a source, both numbered from 0."""
    return rows.astype(np.int64) + (source << _SHIFT)


def source_and_row(place: int) -> tuple[int, int]:
    """What a place stands for."""
    return place >> _SHIFT, place & ((1 << _SHIFT) - 1)


class Seen:
    """Hashes of ids with their places, in sorted runs, each more than twice as long as the next."""

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def before(self, names: np.ndarray, at: np.ndarray) -> np.ndarray:
        """For each name (N,) the place that it was at before, in what was added or earlier in `names`; else NEW.

        `at` are the places of these names.
        """
        found = np.full(len(names), NEW, dtype=np.int64)
        if not len(names):
            return found
        _, first, number = np.unique(names, return_index=True, return_inverse=True)
        first = first[number]
        again = first != np.arange(len(names))
        found[again] = at[first[again]]
        for run, there in self._runs:
            nearest = np.minimum(np.searchsorted(run, names), len(run) - 1)
            known = run[nearest] == names
            found[known] = there[nearest[known]]
        return found

    def add(self, names: np.ndarray, at: np.ndarray) -> None:
        """Add names (N,) that are new, with their places."""
        if not len(names):
            return
        order = np.argsort(names)
        self._runs.append((names[order], at[order]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            last, before = self._runs.pop(), self._runs.pop()
            merged = np.concatenate([before[0], last[0]])
            order = np.argsort(merged, kind="stable")
            self._runs.append((merged[order], np.concatenate([before[1], last[1]])[order]))
