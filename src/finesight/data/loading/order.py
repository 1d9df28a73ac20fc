"""Which samples each step sees: a pure function of (data fingerprint, seed, step).

Nothing here has a state: a run is resumed by its step number alone, and neither workers nor prefetch change the order.
"""

import bisect
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


class Steps(Protocol):
    """How an epoch is cut into steps where these are not of equally many samples."""

    def steps(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of `samples` (M,), step after step, and where each step begins and the last one ends."""


class Order:
    """The order of a run over N samples.

    `lengths` are tokens per sample (N,). Within a window of `window` batches, samples of like length come
    together (0: no sorting); the batches of an epoch are then put in random order. Every sample is seen once an epoch,
    or as `looks` say; the last batch of an epoch may be smaller. With `overfit`, the first so many batches of the
    first epoch are all there is. Where there is a `budget`, it says which samples make a batch in place of `batch_size`
    and `window`; epochs may then have unlike numbers of batches.
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
        budget: Steps | None = None,
    ) -> None:
        self._key = ("order", fingerprint, seed)
        self._lengths, self._looks = np.asarray(lengths), looks
        self._count = len(self._lengths) if looks is None else len(looks)
        self._size, self._window, self._overfit = batch_size, window, overfit
        self._budget = budget
        self._ends: list[int] = []  # steps that are made by the end of each epoch, of a budget's
        self._latest: _Epoch | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that make an epoch; the first one, where they are unlike."""
        whole = -(-self._count // self._size) if self._budget is None else len(self._epoch(0).turns)
        return min(whole, self._overfit) if self._overfit else whole

    @property
    def budgeted(self) -> bool:
        """Whether steps are of unlike numbers of samples."""
        return self._budget is not None

    @property
    def varies(self) -> bool:
        """Whether epochs differ in what they see, and not in its order alone."""
        several = self._budget is not None or (self._looks is not None and self._looks.varies)
        return several and not self._overfit

    def steps_in(self, epochs: int) -> int:
        """Optimizer steps of the first so many epochs."""
        if self._budget is None or self._overfit:
            return epochs * self.steps_per_epoch
        while len(self._ends) < epochs:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._epoch(len(self._ends)).turns))
        return self._ends[epochs - 1] if epochs else 0

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """Epoch (from 0) and sample indices (B,) of step `step` (from 0)."""
        epoch, indices, _ = self._step(step)
        return epoch, indices

    def draws(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample indices (B,) of a step, and how many looks at the same sample came before (B,)."""
        return self._step(step)[1:]

    def epoch_of(self, step: int) -> float:
        """Passes over the data that `step` finished steps make."""
        if self._budget is None or self._overfit:
            return step / self.steps_per_epoch
        epoch, position = self._place(step)
        return epoch + position / (self.steps_in(epoch + 1) - self.steps_in(epoch))

    def _place(self, step: int) -> tuple[int, int]:
        """Epoch of a step, and its number within it."""
        if self._budget is None or self._overfit:
            return divmod(step, self.steps_per_epoch)
        while not self._ends or self._ends[-1] <= step:
            self.steps_in(len(self._ends) + 1)
        epoch = bisect.bisect_right(self._ends, step)
        return epoch, step - self.steps_in(epoch)

    def _step(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        epoch, position = self._place(step)
        found = self._epoch(0 if self._overfit else epoch)
        turn = int(found.turns[position])
        place = slice(int(found.bounds[turn]), int(found.bounds[turn + 1]))
        return found.number, found.samples[place], found.looks[place]

    def _epoch(self, number: int) -> "_Epoch":
        if self._latest is None or self._latest.number != number:
            self._latest = self._arranged(number)
        return self._latest

    def _arranged(self, epoch: int) -> "_Epoch":
        draw = generator(*self._key, epoch)
        places = draw.permutation(self._count)
        if self._budget is not None:
            return self._budgeted(epoch, places, draw)
        if self._looks is None:  # each sample once: its place is its number
            samples, looks = places, np.broadcast_to(np.int64(epoch), self._count)
            self._sort(samples, samples)
        else:
            samples, looks = self._looks.epoch(epoch)
            self._sort(places, samples[places])
            samples, looks = samples[places], looks[places]
        batches = -(-self._count // self._size)
        bounds = np.minimum(np.arange(batches + 1) * self._size, self._count)
        return _Epoch(
            epoch, samples, looks, bounds, draw.permutation(batches) if self._window else np.arange(batches)
        )

    def _budgeted(self, epoch: int, places: np.ndarray, draw: np.random.Generator) -> "_Epoch":
        assert self._budget is not None
        if self._looks is None:
            samples, looks = places, np.full(self._count, epoch, dtype=np.int64)
        else:
            samples, looks = self._looks.epoch(epoch)
            samples, looks = samples[places], looks[places]
        chosen, bounds = self._budget.steps(samples)
        return _Epoch(epoch, samples[chosen], looks[chosen], bounds, draw.permutation(len(bounds) - 1))

    def _sort(self, places: np.ndarray, samples: np.ndarray) -> None:
        """Bring samples of like length together within each window of `places`, which are those of `samples`."""
        span = self._size * self._window
        for at in range(0, self._count, span) if span else ():
            part = slice(at, at + span)
            places[part] = places[part][np.argsort(self._lengths[samples[part]], kind="stable")]


@dataclass(frozen=True)
class _Epoch:
    """One epoch: its samples, batch after batch, how often each was looked at before, where batches begin (the last
    number: where the last one ends), and which batch comes at which turn."""

    number: int
    samples: np.ndarray
    looks: np.ndarray
    bounds: np.ndarray
    turns: np.ndarray
