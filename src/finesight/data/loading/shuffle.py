"""The order in which a buffer lets the rows of a stream out again: a pure function of (key, epoch, position).

A buffer of N slots holds the rows 0 … N - 1 at first. At position p (from 0) the row in slot s(p) goes out, and row
N + p takes its place; s(p) is drawn by a counter-based generator, so that any s(p) is known without those before it.
Once the stream has ended, the rows that are left go out in random order. So each row goes out once, never more than
N - 1 positions early, and how late depends on chance: half of them within 0.7 N positions, one in a thousand after 7 N.
"""

import numpy as np

from finesight.data.loading.order import generator

_CHUNK = 4096
"""Slots that are drawn at once. Part of the function: another number is another order."""


class ShuffleBuffer:
    """The order that a buffer of `size` slots gives; `key` names what is shuffled, and the seed."""

    def __init__(self, size: int, *key: object) -> None:
        self.size, self._key = size, ("buffer", *key, size)
        self._latest: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.empty(0, dtype=np.int64))

    def slot(self, epoch: int, position: int) -> int:
        """The slot s(p) whose row goes out at a position before the stream has ended."""
        chunk, at = divmod(position, _CHUNK)
        return int(self._chunk(epoch, chunk)[at])

    def held(self, epoch: int, position: int) -> np.ndarray:
        """The rows in the slots (N,) before the row of `position` goes out, where the stream has not ended by then.

        A slot holds what the latest draw of it brought, so this looks back no further than to the last draw of each.
        """
        rows = np.arange(self.size)
        unknown = np.ones(self.size, dtype=bool)
        for chunk in range((position - 1) // _CHUNK, -1, -1) if position else ():
            begin = chunk * _CHUNK
            drawn = self._chunk(epoch, chunk)[: position - begin]
            slots, back = np.unique(drawn[::-1], return_index=True)
            new = unknown[slots]
            rows[slots[new]] = self.size + begin + len(drawn) - 1 - back[new]
            unknown[slots] = False
            if not unknown.any():
                break
        return rows

    def last(self, epoch: int, count: int) -> np.ndarray:
        """The order in which `count` slots are emptied at the stream's end."""
        return generator(*self._key, epoch, "end").permutation(count)

    def order(self, epoch: int, length: int) -> np.ndarray:
        """All rows of a stream of `length` rows, in the order in which they go out."""
        steady = max(0, length - self.size)
        slots = [self.slot(epoch, position) for position in range(steady)]
        # row j comes into slot came[j], and goes out when the next row comes into that slot
        came = np.concatenate([np.arange(min(self.size, length)), np.array(slots, dtype=np.int64)])
        by_slot = np.argsort(came, kind="stable")
        follows = came[by_slot[:-1]] == came[by_slot[1:]]
        out = np.empty(length, dtype=np.int64)
        out[by_slot[1:][follows] - self.size] = by_slot[:-1][follows]
        held = (
            by_slot[np.append(~follows, True)] if length else by_slot
        )  # of each slot its latest row, by slot
        out[steady:] = held[self.last(epoch, len(held))]
        return out

    def _chunk(self, epoch: int, chunk: int) -> np.ndarray:
        if self._latest[0] != (epoch, chunk):
            drawn = generator(*self._key, epoch, chunk).integers(self.size, size=_CHUNK)
            self._latest = ((epoch, chunk), drawn)
        return self._latest[1]
