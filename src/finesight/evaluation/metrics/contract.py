"""What a metric is: statistics of each item, and the values that follow from their sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finesight.core.prediction import Prediction

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """Named values as a function of a prediction table, in two steps.

    `statistics(predictions)` gives a float64 array of shape (items, width), one row for each prediction in
    order. `reduce(sums, counts)` takes sums of rows, shape (..., width), and how many rows were summed, shape
    (...), at least 1; it gives the values in the order of `names`, shape (..., len(names)). It must be
    defined for every sum of rows and never give NaN. Every prediction has at least one reference; its text
    may be empty.
    """

    names: tuple[str, ...]
    width: int
    statistics: Callable[[Sequence[Prediction]], "Floats"]
    reduce: Callable[["Floats", "Floats"], "Floats"]

    def value(self, statistics: "Floats") -> "Floats":
        """The values over the items of these rows, at least one, in the order of `names`."""
        import numpy as np

        return self.reduce(statistics.sum(axis=0), np.asarray(float(len(statistics))))


def mean(sums: "Floats", counts: "Floats") -> "Floats":
    """The reduction of a mean over items: sums of shape (..., k) over counts of shape (...)."""
    return sums / counts[..., None]


def mean_of(name: str, value: Callable[[str, Sequence[str]], float]) -> Metric:
    """The metric `name`: the mean over items of `value(prediction, references)`."""

    def statistics(predictions: Sequence[Prediction]) -> "Floats":
        import numpy as np

        values = [[value(item.prediction, item.references)] for item in predictions]
        return np.array(values, dtype=np.float64).reshape(len(values), 1)

    return Metric((name,), 1, statistics, mean)


def joined(metrics: Sequence[Metric]) -> Metric:
    """Several metrics as one, in their order, so that one set of resamples serves them all."""

    def statistics(predictions: Sequence[Prediction]) -> "Floats":
        import numpy as np

        return np.concatenate([metric.statistics(predictions) for metric in metrics], axis=1)

    def reduce(sums: "Floats", counts: "Floats") -> "Floats":
        import numpy as np

        values, start = [], 0
        for metric in metrics:
            values.append(metric.reduce(sums[..., start : start + metric.width], counts))
            start += metric.width
        return np.concatenate(values, axis=-1)

    names = tuple(name for metric in metrics for name in metric.names)
    return Metric(names, sum(metric.width for metric in metrics), statistics, reduce)
