"""Which samples each step sees: a pure function of (data fingerprint, seed, step).

Nothing here has a state: a run is resumed by its step number alone, and neither workers nor prefetch change the order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def generator(*key: object) -> np.random.Generator:
    """A counter-based generator (Philox) keyed by a hash of `key`: equal keys draw equal numbers anywhere."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


@dataclass(frozen=True)
class Share:
    """What one of `world` ranks sees of each step: every `world`-th of its samples, the first being number `rank`."""

    rank: int = 0
    world: int = 1

    def of(self, samples: Sequence[T]) -> Sequence[T]:
        """What this rank sees of a step's samples; together the ranks see each of them once."""
        return samples[self.rank :: self.world]


class Order:
    """The order of a run over N samples.

    `lengths` are tokens per sample (N,). Within a window of `window` batches, samples of like length come
    together (0: no sorting); the batches of an epoch are then put in random order. Every sample is seen once an epoch;
    the last batch of an epoch may be smaller. With `overfit`, the first so many batches of the first epoch are all
    there is.
    """

    def __init__(
        self,
        fingerprint: str,
        seed: int,
        batch_size: int,
        lengths: Sequence[int],
        window: int = 0,
        overfit: int | None = None,
    ) -> None:
        self._key = ("order", fingerprint, seed)
        self._lengths = np.asarray(lengths)
        self._size, self._window, self._overfit = batch_size, window, overfit
        self._latest: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see each sample once."""
        whole = -(-len(self._lengths) // self._size)
        return min(whole, self._overfit) if self._overfit else whole

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """Epoch (from 0) and sample indices of step `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        drawn = 0 if self._overfit else epoch
        if self._latest[0] != drawn:
            self._latest = (drawn, self._batches(drawn))
        return drawn, self._latest[1][position]

    def epoch_of(self, step: int) -> float:
        """Passes over the data that `step` finished steps make."""
        return step / self.steps_per_epoch

    def _batches(self, epoch: int) -> list[np.ndarray]:
        draw = generator(*self._key, epoch)
        shuffled = draw.permutation(len(self._lengths))
        size = self._size
        if not self._window:
            return [shuffled[at : at + size] for at in range(0, len(shuffled), size)]
        batches: list[np.ndarray] = []
        span = size * self._window
        for at in range(0, len(shuffled), span):
            part = shuffled[at : at + span]
            by_length = part[np.argsort(self._lengths[part], kind="stable")]
            batches += [by_length[start : start + size] for start in range(0, len(by_length), size)]
        return [batches[index] for index in draw.permutation(len(batches))]
