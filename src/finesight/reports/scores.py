"""Scores in words and as rows of a dot plot: value, interval, baselines, and by how much it leads them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finesight.core.prediction import Comparison, Score
from finesight.reports.words import Metric, decimal, interval, metric, named, percent, score, sentence

MOST_ROWS = 14
"""Slices in the dot plot; the table below it has them all."""


@dataclass(frozen=True)
class Mark:
    """A baseline in a dot-plot row; `at` is its place along the track in percent."""

    baseline: str
    name: str
    value: str
    at: float


@dataclass(frozen=True)
class Dot:
    """A row of the dot plot; places along the track in percent."""

    slice: str
    count: int
    value: str
    interval: str
    at: float
    low: float
    high: float
    marks: Sequence[Mark]
    lead: str
    certain: bool


@dataclass(frozen=True)
class Board:
    """All scores of one split: the main metric as dots along `ticks`, every metric as a table."""

    split: str
    metric: Metric
    dots: Sequence[Dot]
    more: int
    ticks: Sequence[tuple[str, float]]
    baselines: Sequence[tuple[str, str]]
    names: Sequence[Metric]
    table: Sequence[tuple[str, int, Sequence[tuple[str, str]]]]


def main_metric(scores: Sequence[Score], best_by: str) -> str:
    """The metric that the run is about: what chose the best model if it is a score of answers, else exact match."""
    names = [entry.name for entry in scores]
    wanted = [name for name in (best_by, "exact_match") if name in names and name != "val_loss"]
    return (wanted + names)[0]


def splits(scores: Sequence[Score]) -> list[str]:
    """The splits that have scores, the test first."""
    names = list(dict.fromkeys(entry.split for entry in scores))
    return sorted(names, key=lambda name: name != "test")


def best_baseline(comparisons: Sequence[Comparison], wanted: Score) -> Comparison | None:
    """The strongest baseline on the same answers."""
    rivals = [rival for rival in comparisons if _same(rival, wanted)]
    sign = -1 if metric(wanted.name).lower_is_better else 1
    return max(rivals, key=lambda rival: sign * rival.value, default=None)


def _same(rival: Comparison, wanted: Score) -> bool:
    return (rival.split, rival.slice, rival.name) == (wanted.split, wanted.slice, wanted.name)


def standing(rival: Comparison, how: Metric) -> int:
    """1 where the model is better than the baseline beyond doubt, −1 where worse, 0 where it cannot be told."""
    sign = -1 if how.lower_is_better else 1
    if rival.low > 0:
        return sign
    return -sign if rival.high < 0 else 0


def headline(
    scores: Sequence[Score], comparisons: Sequence[Comparison], name: str, labels: Mapping[str, str]
) -> str:
    """How good it is, in one sentence: on the first slice that the recipe names in words, else on all answers."""
    first = _told(scores, name, labels)[0]
    how, value = metric(name), score(first.value, metric(name))
    about = f" on {labels[first.slice]}" if first.slice in labels else ""
    if name in ("exact_match", "exact_match_strict"):
        claim = f"{value} of its answers{about} are exactly right"
    else:
        label = sentence(how.label)
        claim = f"{label}{about} is {value}"
    rival = best_baseline(comparisons, first)
    if rival is None:
        return claim + "."
    guess = score(rival.value, how)
    return (
        claim
        + {
            1: f"; the best guess without learning gets {guess}.",
            0: f"; the best guess without learning gets {guess}, too close to tell them apart.",
            -1: f": worse than the {guess} of the best guess without learning.",
        }[standing(rival, how)]
    )


def others(
    scores: Sequence[Score], comparisons: Sequence[Comparison], name: str, labels: Mapping[str, str]
) -> str:
    """The same for the other named slices, one short sentence each."""
    sentences = []
    for entry in _told(scores, name, labels)[1:]:
        rival = best_baseline(comparisons, entry)
        against = f", against {score(rival.value, metric(name))}" if rival else ""
        sentences.append(f"On {labels[entry.slice]} it gets {score(entry.value, metric(name))}{against}.")
    return " ".join(sentences)


def _told(scores: Sequence[Score], name: str, labels: Mapping[str, str]) -> list[Score]:
    """The scores that the page's head tells: those of the slices with a label, in the recipe's order."""
    split = splits(scores)[0]
    found = {entry.slice: entry for entry in scores if (entry.split, entry.name) == (split, name)}
    return [found[part] for part in labels if part in found] or list(found.values())[:1]


def board(
    scores: Sequence[Score],
    comparisons: Sequence[Comparison],
    split: str,
    main: str,
    labels: Mapping[str, str],
) -> Board:
    """The scores of `split` as the page shows them."""
    here = [entry for entry in scores if entry.split == split]
    names = list(dict.fromkeys(entry.name for entry in here))
    main = main if main in names else names[0]
    rows = [entry for entry in here if entry.name == main]
    rivals = [rival for rival in comparisons if (rival.split, rival.name) == (split, main)]
    how, top = metric(main), _top(rows, rivals, metric(main))
    known = {(entry.slice, entry.name): entry for entry in here}
    parts = {entry.slice: entry.count for entry in here}
    table = [
        (
            labels.get(part, named(part)),
            count,
            [_cell(known.get((part, name)), metric(name)) for name in names],
        )
        for part, count in parts.items()
    ]
    return Board(
        split=split,
        metric=how,
        dots=[
            _dot(entry, [rival for rival in rivals if _same(rival, entry)], top, labels)
            for entry in rows[:MOST_ROWS]
        ],
        more=max(0, len(rows) - MOST_ROWS),
        ticks=[
            (score(share * top, how) if how.kind == "share" else decimal(share * top), 100 * share)
            for share in (0, 0.25, 0.5, 0.75, 1)
        ],
        baselines=[(rival, named(rival)) for rival in dict.fromkeys(rival.baseline for rival in rivals)],
        names=[metric(name) for name in names],
        table=table,
    )


def _cell(entry: Score | None, how: Metric) -> tuple[str, str]:
    return (score(entry.value, how), interval(entry.low, entry.high, how)) if entry else ("–", "")


def _top(rows: Sequence[Score], rivals: Sequence[Comparison], how: Metric) -> float:
    """The right end of the track: 1 for shares, else a round number above all values."""
    most = max([entry.high for entry in rows] + [rival.value for rival in rivals])
    if how.kind == "share" and most <= 1:
        return 1.0
    return next(
        (step * 10**power for power in range(-3, 9) for step in (1, 2, 4, 8) if step * 10**power >= most),
        most,
    )


def _dot(entry: Score, rivals: Sequence[Comparison], top: float, labels: Mapping[str, str]) -> Dot:
    how, best = metric(entry.name), best_baseline(rivals, entry)
    return Dot(
        slice=labels.get(entry.slice, named(entry.slice)),
        count=entry.count,
        value=score(entry.value, how),
        interval=interval(entry.low, entry.high, how),
        at=_place(entry.value, top),
        low=_place(entry.low, top),
        high=_place(entry.high, top),
        marks=[
            Mark(rival.baseline, named(rival.baseline), score(rival.value, how), _place(rival.value, top))
            for rival in rivals
        ],
        lead=_lead(best, how) if best else "",
        certain=best is not None and standing(best, how) != 0,
    )


def _place(value: float, top: float) -> float:
    return round(100 * min(1.0, max(0.0, value / top)), 2) if math.isfinite(value) else 0.0


def _lead(rival: Comparison, how: Metric) -> str:
    """The difference to the best baseline with its interval."""
    if how.kind == "share":
        ends = [
            f"{100 * value:+.0f}".replace("-", "−") for value in (rival.difference, rival.low, rival.high)
        ]
        unit = " points"
    else:
        ends, unit = (
            [f"{value:+.2f}".replace("-", "−") for value in (rival.difference, rival.low, rival.high)],
            "",
        )
    return f"{ends[0]}{unit} ({ends[1]} to {ends[2]})"


def share_right(right: int, total: int) -> str:
    """201 of 335 (60 %)."""
    return f"{right:,} of {total:,} ({percent(right / total)})"
