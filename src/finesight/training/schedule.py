"""The learning rate of each step, in closed form: nothing to save, nothing to resume."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run of `steps`: a linear rise over `warmup` steps, then constant, linear or cosine.

    The rate of the step that makes `step` finished steps out of `step` − 1 (so `step` counts from 1) is
    `peak` · step / warmup while step ≤ warmup. After it, with p = (step − warmup) / (steps − warmup) the share that is
    done, the decay runs from `peak` at p = 0 to `floor` · `peak` at p = 1: linearly, or as half a cosine
    (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5, without restarts).
    """

    peak: float
    steps: int
    warmup: int
    kind: Literal["constant", "linear", "cosine"]
    floor: float = 0.0

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, from 1 to `steps`."""
        if step <= self.warmup:
            return self.peak * step / self.warmup
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.peak * (self.floor + (1 - self.floor) * left)


def warmup_steps(warmup: int | float, steps: int) -> int:
    """Steps of warming up: a share of `steps` (rounded up) below 1, else a number of steps."""
    return math.ceil(warmup * steps) if isinstance(warmup, float) and warmup < 1 else int(warmup)
