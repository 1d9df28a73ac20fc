"""How often an epoch sees each sample, where sources are repeated or weighted: a pure function of (key, epoch).

N samples of all sources. A look is one appearance of a sample: its first look is number 0.
"""

from collections.abc import Sequence

import numpy as np

from finesight.config.sources import Source
from finesight.data.loading.order import generator


class Mixture:
    """The looks of each epoch.

    `sources` (N,) is the number of each sample's source; `key` names what is mixed, and the seed. With `weights` each
    source fills its share of an epoch, which has as many looks as there are samples: taken from the source's samples in
    random order, one order after another without end, so that none is seen a second time before all were seen once.
    Without, each sample is seen `repeats` times an epoch.
    """

    def __init__(
        self,
        sources: np.ndarray,
        repeats: Sequence[int],
        weights: Sequence[float] | None,
        key: Sequence[object] = (),
    ) -> None:
        self._members = [np.flatnonzero(sources == number) for number in range(len(repeats))]
        self._repeats, self._key = tuple(repeats), ("mixture", *key)
        self.counts = _shares([len(members) for members in self._members], repeats, weights)
        self.varies = weights is not None

    @classmethod
    def of(cls, listed: Source | tuple[Source, ...], sources: np.ndarray, *key: object) -> "Mixture | None":
        """The mixture that a recipe's sources ask for; None where each sample is seen once an epoch."""
        several = listed if isinstance(listed, tuple) else (listed,)
        weights = [source.weight for source in several if source.weight is not None]
        repeats = [source.repeat for source in several]
        if len(several) == 1:
            weights = []  # the whole of an epoch
        if not weights and set(repeats) == {1}:
            return None
        return cls(sources, repeats, weights or None, key)

    def __len__(self) -> int:
        """Looks of an epoch."""
        return sum(self.counts)

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples that an epoch (from 0) sees and the number of each look, both (len(self),), in no order."""
        parts = [self._of(number, epoch) for number, count in enumerate(self.counts) if count]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _of(self, source: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        members, count, repeat = self._members[source], self.counts[source], self._repeats[source]
        if not self.varies:
            looks = np.arange(epoch * repeat, (epoch + 1) * repeat)
            return np.tile(members, repeat), np.repeat(looks, len(members))
        passes, places = np.divmod(np.arange(epoch * count, (epoch + 1) * count), len(members))
        drawn = np.empty(count, dtype=np.int64)
        for number in np.unique(passes).tolist():
            order = generator(*self._key, source, number).permutation(len(members))
            here = passes == number
            drawn[here] = members[order[places[here]]]
        return drawn, passes


def _shares(sizes: Sequence[int], repeats: Sequence[int], weights: Sequence[float] | None) -> tuple[int, ...]:
    """Looks of an epoch at each source; with weights they add up to the number of samples, one at least for each."""
    if weights is None:
        return tuple(size * repeat for size, repeat in zip(sizes, repeats, strict=True))
    held = [weight if size else 0.0 for size, weight in zip(sizes, weights, strict=True)]
    exact = np.array(held) * (sum(sizes) / sum(held))
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")  # the largest rests are rounded up
    counts[largest[: sum(sizes) - counts.sum()]] += 1
    return tuple(max(count, int(size > 0)) for count, size in zip(counts.tolist(), sizes, strict=True))
