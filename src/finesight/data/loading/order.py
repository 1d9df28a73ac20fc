"""Which samples each step sees: a pure function of (data fingerprint, seed, step).

Nothing here has a state: a run is resumed by its step number alone, and neither workers nor prefetch change the order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

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


WHOLE = Share()
"""All of each step."""


class Looks(Protocol):
    """What an epoch sees where that is not each sample once."""

    varies: bool
    """Whether epochs differ in what they see, and not in its order alone."""

    def __len__(self) -> int:
        """Looks of an epoch."""

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples of an epoch, one for each look, and how many looks at the same sample came before."""


class Order:
    """The order of a run over N samples.

    `lengths` are tokens per sample (N,). Within a window of `window` batches, samples of like length come
    together (0: no sorting); the batches of an epoch are then put in random order. Every sample is seen once an epoch,
    or as `looks` say; the last batch of an epoch may be smaller. With `overfit`, the first so many batches of the
    first epoch are all there is.
    """

    def __init__(
        self,
        fingerprint: str,
        seed: int,
        batch_size: int,
        lengths: Sequence[int] | np.ndarray,
        window: int = 0,
        overfit: int | None = None,
        looks: Looks | None = None,
    ) -> None:
        self._key = ("order", fingerprint, seed)
        self._lengths, self._looks = np.asarray(lengths), looks
        self._count = len(self._lengths) if looks is None else len(looks)
        self._size, self._window, self._overfit = batch_size, window, overfit
        self._latest: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that make an epoch."""
        whole = -(-self._count // self._size)
        return min(whole, self._overfit) if self._overfit else whole

    @property
    def varies(self) -> bool:
        """Whether epochs differ in what they see, and not in its order alone."""
        return self._looks is not None and self._looks.varies and not self._overfit

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """Epoch (from 0) and sample indices (B,) of step `step` (from 0)."""
        epoch, indices, _ = self._step(step)
        return epoch, indices

    def draws(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample indices (B,) of a step, and how many looks at the same sample came before (B,)."""
        return self._step(step)[1:]

    def epoch_of(self, step: int) -> float:
        """Passes over the data that `step` finished steps make."""
        return step / self.steps_per_epoch

    def _step(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        epoch, position = divmod(step, self.steps_per_epoch)
        drawn = 0 if self._overfit else epoch
        if self._latest is None or self._latest[0] != drawn:
            self._latest = (drawn, *self._arranged(drawn))
        _, indices, looks, turns = self._latest
        begin = int(turns[position]) * self._size
        return drawn, indices[begin : begin + self._size], looks[begin : begin + self._size]

    def _arranged(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The samples of an epoch, batch after batch, their looks, and which batch comes at which turn."""
        draw = generator(*self._key, epoch)
        places = draw.permutation(self._count)
        if self._looks is None:  # each sample once: its place is its number
            samples, looks = places, np.broadcast_to(np.int64(epoch), self._count)
            self._sort(samples, samples)
        else:
            samples, looks = self._looks.epoch(epoch)
            self._sort(places, samples[places])
            samples, looks = samples[places], looks[places]
        batches = -(-self._count // self._size)
        return samples, looks, draw.permutation(batches) if self._window else np.arange(batches)

    def _sort(self, places: np.ndarray, samples: np.ndarray) -> None:
        """Bring samples of like length together within each window of `places`, which are those of `samples`."""
        span = self._size * self._window
        for at in range(0, self._count, span) if span else ():
            part = slice(at, at + span)
            places[part] = places[part][np.argsort(self._lengths[samples[part]], kind="stable")]
