"""The learning rate of each step, in closed form: nothing to save, nothing to resume."""

import math
from dataclasses import dataclass
from typing import Literal

from finesight.config.train import Train

Kind = Literal["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "wsd"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run of `steps`: a linear rise over `warmup` steps, then what `kind` says.

    The rate of the step that makes `step` finished steps out of `step` − 1 (so `step` counts from 1) is
    `peak` · step / warmup while step ≤ warmup. After it, with p = (step − warmup) / (steps − warmup) the share that is
    done, the rate is `peak` · (floor + (1 − floor) · left), where `left` falls from 1 at p = 0:

    constant:      1.
    linear:        1 − p.
    cosine:        (1 + cos πp) / 2 (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5, no restarts).
    polynomial:    (1 − p) to the `power`.
    inverse_sqrt:  √(warmup / step), where warmup is at least 1 (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762,
                   eq. 3, with the peak in place of its constant); it does not depend on `steps`.
    wsd:           1 up to the last `decay` steps, then in a line to 0: warm-up, stable, decay (Hu et al. 2024,
                   https://arxiv.org/abs/2404.06395, section 4).
    """

    peak: float
    steps: int
    warmup: int
    kind: Kind
    floor: float = 0.0
    power: float = 1.0
    decay: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, from 1 to `steps`."""
        if step <= self.warmup:
            return self.peak * step / self.warmup
        return self.peak * (self.floor + (1 - self.floor) * self._left(step))

    def _left(self, step: int) -> float:
        if self.kind == "constant":
            return 1.0
        if self.kind == "inverse_sqrt":
            return math.sqrt(max(1, self.warmup) / step)
        if self.kind == "wsd":
            falling = min(self.decay, self.steps - self.warmup)  # what warms up cannot fall
            return min(1.0, (self.steps - step) / falling) if falling else 1.0
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return float((1 - done) ** (self.power if self.kind == "polynomial" else 1.0))


def part_of_steps(part: int | float, steps: int) -> int:
    """Steps of a part of the run: a share of `steps` (rounded up) below 1, else a number of steps."""
    return math.ceil(part * steps) if isinstance(part, float) and part < 1 else int(part)


def schedule_of(train: Train, steps: int) -> Schedule:
    """The schedule of a recipe over a run of so many steps."""
    warmup, decay = (
        part_of_steps(part, steps) for part in (train.warmup, 0.2 if train.decay is None else train.decay)
    )
    return Schedule(train.lr, steps, warmup, train.schedule, train.min_lr, train.power or 2.0, decay)
