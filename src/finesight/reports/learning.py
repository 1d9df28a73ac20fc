"""What a run says of its learning: whether the pictures matter, and which groups had gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finesight.reports.costs import mapping, number
from finesight.reports.words import count, decimal, listed, named


@dataclass(frozen=True)
class Looks:
    """A sentence on whether a model looks at its pictures; names and losses; and what could not be measured."""

    sentence: str
    losses: Sequence[tuple[str, str]]
    why: str


def looks(effect: Mapping[str, Any]) -> Looks | None:
    """What `results.json` says of pictures, in words; None where it says nothing."""
    true, blank = number(effect.get("true")), number(effect.get("blank"))
    if true is None or blank is None:
        return None
    losses = [("its own pictures", true), ("blank pictures", blank)]
    shuffled = number(effect.get("shuffled"))
    if shuffled is not None:
        losses.append(("other samples’ pictures", shuffled))
    gains = {
        "blank pictures": effect.get("over_blank"),
        "other samples’ pictures": effect.get("over_shuffled"),
    }
    told = [
        f"{_signed(value)} over {name} (95 % interval {_signed(low)} to {_signed(high)})"
        for name, gain in gains.items()
        if (value := number(mapping(gain).get("value"))) is not None
        and (low := number(mapping(gain).get("low"))) is not None
        and (high := number(mapping(gain).get("high"))) is not None
    ]
    begin = (
        "It looks at its pictures: they are worth"
        if effect.get("matters")
        else "The pictures make no difference that can be told: they are worth"
    )
    many = count(number(effect.get("samples")) or 0, "sample")
    split = named(str(effect.get("split") or ""))
    return Looks(
        f"{begin} {listed(told)}, in loss per learned token on {many} of the {split} set.",
        [(name, decimal(value)) for name, value in losses],
        str(effect.get("why") or ""),
    )


def _items(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    return value if isinstance(value := values.get(key), list) else []


def _signed(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def audited(audit: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of a table of gradients: group, tensors with a gradient, norm, and the step that it is of."""
    rows = []
    for entry in _items(audit, "groups"):
        row = mapping(entry)
        tensors, reached, zero = (int(number(row.get(key)) or 0) for key in ("tensors", "reached", "zero"))
        if not row.get("learns"):
            rows.append((str(row.get("group")), count(tensors), "none, as it should be", ""))
            continue
        norm = number(row.get("norm"))
        met = f"{count(reached)} of {count(tensors)}" + (f", {count(zero)} exactly zero" if zero else "")
        rows.append(
            (
                str(row.get("group")),
                met,
                "–" if norm is None else f"{norm:.3g}",
                f"step {count(number(row.get('step')) or 0)}",
            )
        )
    waiting = [str(name) for name in _items(audit, "waiting")]
    known = {row[0] for row in rows}
    return rows + [(name, "its inputs were in no step", "–", "") for name in waiting if name not in known]
