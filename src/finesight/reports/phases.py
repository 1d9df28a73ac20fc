"""The phases of a step as timing_logs.csv has them: four in all runs, finer ones where they were measured."""

import math
from collections.abc import Mapping, Sequence

from finesight.reports.tables import Row

PARTS = ("inputs", "vision", "audio", "projector", "language_model", "head")
"""What the forward pass is made of."""
PHASES = ("data", *PARTS, "forward", "backward", "communication", "optimizer")
"""All of a step, in its order. Of `forward` what is told of no part: all of it, in runs that had none."""

NAMES = {
    "data": "waiting for data",
    "inputs": "inputs to the device",
    "vision": "vision tower",
    "audio": "audio tower",
    "language_model": "language model",
    "head": "head and loss",
}
"""What people read, where it is not the phase's own name."""

_ROUNDING = 1e-5
"""Seconds that a table's rounding may leave between a phase and its parts."""


def name(phase: str) -> str:
    """A phase in words."""
    return NAMES.get(phase, phase.replace("_", " "))


def seconds(value: float | None) -> float:
    """Of a cell; 0 where it says nothing that is a time."""
    return value if value is not None and math.isfinite(value) and value > 0 else 0.0


def split(row: Row) -> dict[str, float]:
    """Seconds of each phase of a step; they add up to its phases."""
    found = {phase: seconds(row.get(phase)) for phase in PHASES}
    rest = found["forward"] - sum(found[part] for part in PARTS)
    return found | {"forward": rest if rest > _ROUNDING else 0.0}


def shown(rows: Sequence[Row]) -> list[str]:
    """The phases that took any time; the four of all runs where none did."""
    took = [phase for phase in PHASES if any(split(row)[phase] for row in rows)]
    return took or ["data", "forward", "backward", "optimizer"]


def totals(rows: Sequence[Row]) -> Mapping[str, float]:
    """Seconds of each phase over all rows."""
    found = dict.fromkeys(PHASES, 0.0)
    for row in rows:
        for phase, value in split(row).items():
            found[phase] += value
    return found
