"""Bootstrap intervals: how far a score moves when the evaluated items are drawn anew.

What is drawn is groups of items, with replacement, as many as there are: items of one group (questions about
one picture) are not independent, and drawing them singly would give intervals that are too narrow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finesight.core.prediction import Prediction
from finesight.evaluation.metrics.contract import Metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

LEVEL = 0.95
_DRAWS_AT_ONCE = 1 << 20  # bounds memory: 8 MB of draws and 8 MB of weights, however large the table


@dataclass(frozen=True)
class Interval:
    """The values of a metric and the ends of their intervals; `groups` says how many were resampled."""

    value: "Floats"
    low: "Floats"
    high: "Floats"
    groups: int


def group_numbers(predictions: Sequence[Prediction]) -> "Integers":
    """The number of each item's group; an item without one is a group of its own, named by its id.

    Groups are numbered in order of their names, so that the order of the rows changes no resample.
    """
    import numpy as np

    names = [item.group or item.id for item in predictions]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def weights(groups: int, resamples: int, seed: int) -> Iterator["Floats"]:
    """How often each group is drawn in each resample: blocks of rows, shape (resamples in the block, groups).

    Each row sums to `groups`; the rows of all blocks are `resamples` in number. The same arguments give the
    same weights.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // groups)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = generator.integers(groups, size=(rows, groups))
        drawn += np.arange(rows)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)


def interval(metric: Metric, statistics: "Floats", groups: "Integers", seed: int, resamples: int) -> Interval:
    """The metric of these items, with its percentile bootstrap interval at 95 % (Efron, 1979).

    `statistics` is (items, metric.width), at least one item; `groups` the number of each item's group. A
    single group gives an interval of no width: nothing can be learned about the spread from it.
    """
    sums, counts = _by_group(statistics, groups)
    drawn = [
        metric.reduce(weight @ sums, weight @ counts) for weight in weights(len(counts), resamples, seed)
    ]
    value = metric.reduce(sums.sum(axis=0), counts.sum())
    return _percentiles(value, drawn, len(counts))


def paired_interval(
    metric: Metric, ours: "Floats", theirs: "Floats", groups: "Integers", seed: int, resamples: int
) -> Interval:
    """The difference of the metric, ours minus theirs, over the same items, with its interval.

    Both tables are drawn by the same weights, so what makes an item hard for both cancels out (Koehn, 2004,
    https://aclanthology.org/W04-3250). Rows of `ours` and `theirs` belong to the same items in the same
    order.
    """
    sums, counts = _by_group(ours, groups)
    their_sums, _ = _by_group(theirs, groups)

    def difference(weight: "Floats") -> "Floats":
        drawn = weight @ counts
        return metric.reduce(weight @ sums, drawn) - metric.reduce(weight @ their_sums, drawn)

    drawn = [difference(weight) for weight in weights(len(counts), resamples, seed)]
    total = counts.sum()
    value = metric.reduce(sums.sum(axis=0), total) - metric.reduce(their_sums.sum(axis=0), total)
    return _percentiles(value, drawn, len(counts))


def _by_group(statistics: "Floats", groups: "Integers") -> tuple["Floats", "Floats"]:
    """Sums of statistics and numbers of items, one row for each group that has items."""
    import numpy as np

    _, number = np.unique(groups, return_inverse=True)
    counts = np.bincount(number).astype(np.float64)
    columns = [np.bincount(number, column, minlength=len(counts)) for column in statistics.T]
    return np.stack(columns, axis=1), counts


def _percentiles(value: "Floats", drawn: list["Floats"], groups: int) -> Interval:
    import numpy as np

    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(drawn), (tail, 1 - tail), axis=0)
    return Interval(value, low, high, groups)
