"""Two prediction tables over the same items: what one scores above the other."""

from collections import Counter
from collections.abc import Sequence

from finesight.core.errors import DataError
from finesight.core.prediction import Comparison, Prediction
from finesight.evaluation.intervals import group_numbers, paired_interval
from finesight.evaluation.metrics import select
from finesight.evaluation.score import check_scorable
from finesight.evaluation.slices import slices


def compare(
    predictions: Sequence[Prediction],
    baseline: Sequence[Prediction],
    metrics: Sequence[str],
    split: str,
    name: str,
    seed: int = 0,
    resamples: int = 1000,
) -> list[Comparison]:
    """The baseline's scores, and how far the predictions are above them, over every slice.

    `name` names the baseline; `value` is its score, `difference` predictions minus baseline, `low` and `high`
    the paired bootstrap interval at 95 % of the difference. Rows are matched by id; slices and groups are
    those of `predictions`. Two equal tables differ by exactly 0. Raises DataError where a table is empty or
    lacks references, where an id stands twice or in one table only, and where the references of an id differ;
    RecipeError for an unknown metric.
    """
    metric = select(metrics)
    check_scorable(predictions, split)
    theirs = _matched(predictions, baseline, split, name)
    our_statistics, their_statistics = metric.statistics(predictions), metric.statistics(theirs)
    groups = group_numbers(predictions)
    comparisons = []
    for part in slices(predictions):
        rows = list(part.rows)
        values = metric.value(their_statistics[rows])
        found = paired_interval(
            metric, our_statistics[rows], their_statistics[rows], groups[rows], seed, resamples
        )
        ends = zip(values, found.value, found.low, found.high, strict=True)
        for key, numbers in zip(metric.names, ends, strict=True):
            value, difference, low, high = map(float, numbers)
            comparisons.append(
                Comparison(split, part.name, key, name, value, difference, low, high, len(rows), found.groups)
            )
    return comparisons


def _matched(
    predictions: Sequence[Prediction], baseline: Sequence[Prediction], split: str, name: str
) -> list[Prediction]:
    """The rows of the baseline in the order of the predictions' ids."""
    _check_ids(predictions, "the predictions", split)
    _check_ids(baseline, name, split)
    theirs = {item.id: item for item in baseline}
    missing = [item.id for item in predictions if item.id not in theirs]
    extra = sorted(theirs.keys() - {item.id for item in predictions})
    if missing or extra:
        raise DataError(
            f"The predictions and {name} are not about the same items: only the predictions have "
            f"{_some(missing)}, only {name} has {_some(extra)}.",
            f"split {split}",
            "Compare tables that were made from the same rows.",
        )
    for item in predictions:
        if sorted(item.references) != sorted(theirs[item.id].references):
            raise DataError(
                f"The references of id {item.id} differ between the predictions and {name}.",
                item.origin or f"split {split}",
                "Compare tables that were made from the same version of the data.",
            )
    return [theirs[item.id] for item in predictions]


def _check_ids(table: Sequence[Prediction], title: str, split: str) -> None:
    """Raise DataError where an id stands twice."""
    twice = [identity for identity, times in Counter(item.id for item in table).items() if times > 1]
    if twice:
        raise DataError(
            f"Ids stand more than once in {title}: {_some(twice)}.",
            f"split {split}",
            "Give every row an id of its own: rows of two tables are matched by it.",
        )


def _some(ids: Sequence[str]) -> str:
    """How many ids, and the first three."""
    shown = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
    return f"{len(ids)} ids ({shown})" if len(ids) > 1 else f"id {shown}" if ids else "none"
