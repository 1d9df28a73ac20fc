"""What a model answered, and the scores that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prediction:
    """What a model answered to one sample; a row of `predictions/<split>.jsonl`."""

    id: str
    origin: str
    prompt: str
    prediction: str
    references: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Score:
    """One number of `results.json` with its bootstrap interval; `slice` is `all` or `tag=value`."""

    split: str
    slice: str
    name: str
    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """A baseline's score on the same items, and the paired difference (model minus baseline) with its interval.

    `groups` is the number of units that the bootstrap resampled (items, or groups of items).
    """

    split: str
    slice: str
    name: str
    baseline: str
    value: float
    difference: float
    low: float
    high: float
    count: int
    groups: int
