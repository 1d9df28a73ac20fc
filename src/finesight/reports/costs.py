"""What a run used: time by phase, parameters by part, data by split, plan against measurement."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finesight.reports import phases
from finesight.reports.tables import Rows, Tables
from finesight.reports.words import (
    count,
    decimal,
    duration,
    energy,
    large,
    listed,
    named,
    percent,
    quantity,
    size,
)


@dataclass(frozen=True)
class Share:
    """A part of a whole: `key` names its colour, `width` is in percent of the whole."""

    key: str
    name: str
    value: str
    width: float
    percent: str
    more: str = ""


def number(value: Any) -> float | None:
    """A finite number out of a JSON file, else None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def mapping(value: Any) -> Mapping[str, Any]:
    """An object out of a JSON file, else an empty one."""
    return value if isinstance(value, dict) else {}


def seconds(tables: Tables) -> dict[str, float]:
    """Where the time went: the phases of the steps, evaluations and saves, and what is left of the measured time.

    If not every step was timed, the timed ones stand for the others.
    """
    rows = tables.timings
    if not rows:
        return {}
    last = max((row.get("step") or 0 for row in rows), default=0)
    scale = max(1.0, last / len(rows))
    spent = {phase: scale * value for phase, value in phases.totals(rows).items()}
    training = max(scale * sum(number(row.get("total")) or 0 for row in rows), sum(spent.values()))
    beside = {
        "validation": number(tables.seconds.get("validation")) or _sum(rows, "evaluation"),
        "saving": number(tables.seconds.get("saving")) or _sum(rows, "saving"),
        "evaluation": number(tables.seconds.get("evaluate")) or 0.0,
    }
    spent |= beside
    measured = tables.seconds.get("train") or mapping(tables.plan.get("measured")).get("seconds")
    whole = max(number(measured) or 0.0, training) + sum(beside.values())
    rest = whole - sum(spent.values())
    return {**spent, "rest": rest} if rest > 0.005 * whole else spent


def _sum(rows: Rows, column: str) -> float:
    return sum(phases.seconds(row.get(column)) for row in rows)


def time_shares(spent: Mapping[str, float]) -> list[Share]:
    """The phases that took time, as parts of a bar."""
    whole = sum(spent.values()) or 1.0
    known = spent.get("validation") or spent.get("saving")
    words = {phase: phases.name(phase) for phase in spent} | {
        "evaluation": "final evaluation",
        "validation": "validation along the way",
        "rest": "the rest" if known else "validation along the way, saving and the rest",
    }
    return [
        Share(phase, words[phase], duration(value), 100 * value / whole, percent(value / whole))
        for phase, value in spent.items()
        if value > 0
    ]


def speed(tables: Tables) -> str:
    """How fast a step was and what it learned from, in words."""
    totals = [value for row in tables.timings if (value := number(row.get("total")))]
    if not totals:
        return ""
    step = statistics.median(totals)
    text = f"A step took {duration(step)} (median)"
    samples, tokens, learned = (
        _mean(tables.steps, key) for key in ("samples", "tokens", "supervised_tokens")
    )
    if samples and tokens:
        text += (
            f": {decimal(round(samples / step))} samples and {decimal(round(tokens / step))} tokens a second"
        )
    if tokens and learned:
        text += f". {percent(learned / tokens)} of the tokens were learned from"
    spent = seconds(tables)
    longest = max(spent, key=lambda phase: spent[phase])
    share = percent(spent[longest] / (sum(spent.values()) or 1))
    return f"{text}. The largest share of the time, {share}, went into {_PHASE_NAMES.get(longest, longest)}."


_PHASE_NAMES = {
    **{phase: f"the {phases.name(phase)}" for phase in phases.PHASES},
    "data": "waiting for data",
    "inputs": "bringing inputs to the device",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "communication": "waiting for other processes",
    "evaluation": "the final evaluation",
    "validation": "validation along the way",
    "saving": "saving",
    "rest": "all that is no step",
}


def effort(tables: Tables) -> str:
    """How much of what its devices could do a run has done, and the energy that it took, in words."""
    measured, device = mapping(tables.plan.get("measured")), mapping(tables.plan.get("device"))
    peak, used = number(device.get("peak_flops")), number(measured.get("mfu"))
    if used is None:
        known = [value for row in tables.steps if (value := number(row.get("mfu"))) is not None]
        used = statistics.median(known) if known else None
    said = []
    if used is not None and peak:
        processes = number(device.get("processes")) or 1
        source = str(device.get("source") or "")
        each = " each" if processes > 1 else ""
        said.append(
            f"It did {percent(used)} of the arithmetic that its devices could do (MFU): their peak is "
            f"{flops(peak)} a second{each} ({source})."
        )
    joules = number(tables.energy.get("joules"))
    if joules is not None:
        said.append(f"Training took {energy(joules)} ({tables.energy.get('source') or 'measured before'}).")
    return " ".join(said)


def flops(value: float) -> str:
    """Floating-point operations."""
    for power, unit in ((15, "PFLOP"), (12, "TFLOP"), (9, "GFLOP"), (6, "MFLOP")):
        if value >= 10**power:
            return f"{decimal(float(f'{value / 10**power:.3g}'))} {unit}"
    return f"{decimal(value)} FLOP"


_MEMORY = ("weights", "gradients", "optimizer", "activations")


def memory_table(plan: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]], str]:
    """Head and rows of bytes by part, and a sentence about the logits; what was measured before what was predicted."""
    predicted, measured = (
        mapping(mapping(plan.get(side)).get("memory")) for side in ("predicted", "measured")
    )
    columns = {kind: mapping(measured.get(kind)) or mapping(predicted.get(kind)) for kind in _MEMORY}
    kinds = [kind for kind in _MEMORY if columns[kind]]
    parts = dict.fromkeys(part for kind in kinds for part in columns[kind])
    rows = [(phases.name(part), [_size(columns[kind].get(part)) for kind in kinds]) for part in parts]
    if rows:
        sums = [sum(number(value) or 0 for value in columns[kind].values()) for kind in kinds]
        rows.append(("in all", [size(value) for value in sums]))
    logits = number(predicted.get("logits"))
    told = f"The logits of a micro-batch are {size(logits)}." if logits else ""
    return [named(kind) for kind in kinds], rows, told


def _size(value: Any) -> str:
    known = number(value)
    return "–" if known is None else size(known)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [value for row in rows if (value := number(row.get(key))) is not None]
    return statistics.fmean(values) if values else 0.0


def part_shares(parameters: Mapping[str, Any]) -> list[Share]:
    """The model's parts by their number of parameters."""
    parts = {name: _sizes(part) for name, part in parameters.items() if _sizes(part)[0]}
    whole = sum(total for total, _ in parts.values()) or 1
    shares = []
    for name, (total, learned) in parts.items():
        more = "all of it learns" if learned == total else f"{count(learned)} learn" if learned else "frozen"
        shares.append(
            Share("part", named(name), count(total), 100 * total / whole, percent(total / whole), more)
        )
    return shares


def totals(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """All parameters, and those that learn."""
    parts = [_sizes(part) for part in parameters.values()]
    return sum(total for total, _ in parts), sum(learned for _, learned in parts)


def _sizes(part: Any) -> tuple[int, int]:
    """Parameters of a part, and those of them that learn."""
    return int(number(mapping(part).get("total")) or 0), int(number(mapping(part).get("trainable")) or 0)


def data_table(data: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Head and rows of what each split holds."""
    parts = {split: values for split, values in data.items() if isinstance(values, dict)}
    keys = list(
        dict.fromkeys(
            key for values in parts.values() for key, value in values.items() if number(value) is not None
        )
    )
    rows = [
        (named(split), [quantity(key, values.get(key)) for key in keys]) for split, values in parts.items()
    ]
    return [named(key) for key in keys], rows


def plan_table(plan: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What was predicted, what was measured, and how far apart they are."""
    predicted, measured = mapping(plan.get("predicted")), mapping(plan.get("measured"))
    rows = []
    for key in dict.fromkeys([*predicted, *measured]):
        first, second = predicted.get(key), measured.get(key)
        if isinstance(first, dict) or isinstance(second, dict):  # memory by part has a table of its own
            continue
        rows.append(
            (named(key), quantity(key, first), quantity(key, second), _apart(number(first), number(second)))
        )
    return rows


def _apart(predicted: float | None, measured: float | None) -> str:
    if not predicted or measured is None:
        return ""
    ratio = measured / predicted - 1
    if abs(ratio) < 0.005:
        return "as predicted"
    return f"{percent(abs(ratio))} {'above' if ratio > 0 else 'below'}"


def summary(tables: Tables, spent: Mapping[str, float]) -> str:
    """What was learned from and in what time, in one sentence."""
    environment = tables.environment
    samples = number(mapping(mapping(environment.get("data")).get("train")).get("samples"))
    whole, learned = totals(mapping(environment.get("parameters")))
    said = []
    if tables.steps:
        said.append(
            f"in {count(tables.steps[-1]['step'], 'step')}"
            + (f" over {count(samples, 'sample')}" if samples else "")
        )
    if whole:
        said.append(f"with {_learning(whole, learned)} parameters learning")
    device = mapping(environment.get("compute")).get("device")
    if spent:
        said.append(f"in {duration(sum(spent.values()))}" + (f" on {_device(str(device))}" if device else ""))
    return f"It learned {listed(said)}." if len(said) > 1 else f"It learned {said[0]}." if said else ""


def _learning(whole: int, learned: int) -> str:
    if whole == learned:
        return f"all {large(whole)}"
    return (
        f"nearly all {large(whole)}" if learned > 0.99 * whole else f"{large(learned)} of its {large(whole)}"
    )


def _device(name: str) -> str:
    return {"cpu": "a CPU", "cuda": "a GPU", "mps": "an Apple GPU"}.get(name.split(":")[0], name)
