"""Scores of a prediction table, over all of it and its slices."""

from collections.abc import Sequence

from finesight.core.errors import DataError
from finesight.core.prediction import Prediction, Score
from finesight.evaluation.intervals import group_numbers, interval
from finesight.evaluation.metrics import select
from finesight.evaluation.slices import slices


def score(
    predictions: Sequence[Prediction],
    metrics: Sequence[str],
    split: str,
    seed: int = 0,
    resamples: int = 1000,
) -> list[Score]:
    """Every value of the metrics (keys of `metrics.METRICS`) over every slice, with intervals.

    `low` and `high` end the percentile bootstrap interval at 95 % of `resamples` (at least 1) draws of
    groups; `count` is the number of items. The order of rows, and of references within a row, changes
    nothing. Raises DataError for an empty table and for rows without references, RecipeError for an unknown
    metric.
    """
    metric = select(metrics)
    check_scorable(predictions, split)
    statistics, groups = metric.statistics(predictions), group_numbers(predictions)
    scores = []
    for part in slices(predictions):
        rows = list(part.rows)
        found = interval(metric, statistics[rows], groups[rows], seed, resamples)
        ends = zip(metric.names, found.value, found.low, found.high, strict=True)
        for name, value, low, high in ends:
            scores.append(Score(split, part.name, name, float(value), float(low), float(high), len(rows)))
    return scores


def check_scorable(predictions: Sequence[Prediction], split: str) -> None:
    """Raise DataError where a table has no rows, or rows that have nothing to compare with."""
    if not predictions:
        raise DataError(
            "There is no prediction to score.",
            f"split {split}",
            "Check that the split has rows and that they were not all skipped as faulty.",
        )
    bare = [item for item in predictions if not item.references]
    if bare:
        others = f" {len(bare)} of {len(predictions)} predictions lack them." if len(bare) > 1 else ""
        raise DataError(
            f"Prediction {bare[0].id} has no references to compare with.{others}",
            bare[0].origin or f"split {split}, id {bare[0].id}",
            "Give its row at least one reference, or leave the row out of the evaluated data.",
        )
