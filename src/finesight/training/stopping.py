"""What the best is so far, and when to stop waiting for better."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from finesight.config.train import Stop

LOWER_IS_BETTER = frozenset({"val_loss"})
"""Every other measure of `evaluation.best_by` is better when higher."""


def gain(measure: str, value: float, over: float | None) -> float:
    """By how much `value` is better than `over`: positive is better.

    What is no number is never better; any number is better than none.
    """
    if not math.isfinite(value):
        return -math.inf
    if over is None:
        return math.inf
    return over - value if measure in LOWER_IS_BETTER else value - over


@dataclass
class Best:
    """The best `value` of a run so far and the `step` that it came from; an equal value does not replace it.

    `progress` is the last value that was better by more than the patience's threshold, `progress_step` its step, and
    `waited` counts evaluations since then.
    """

    value: float | None = None
    step: int = 0
    progress: float | None = None
    progress_step: int = 0
    waited: int = 0

    def update(self, measure: str, value: float, step: int, threshold: float = 0.0) -> bool:
        """Take note of an evaluation; whether it is the best so far."""
        if gain(measure, value, self.progress) > threshold:
            self.progress, self.progress_step, self.waited = value, step, 0
        else:
            self.waited += 1
        if gain(measure, value, self.value) <= 0:
            return False
        self.value, self.step = value, step
        return True

    def exhausted(self, stop: Stop | None, step: int, steps: int) -> bool:
        """Whether patience has ended at `step` of `steps`."""
        if stop is None:
            return False
        if isinstance(stop.patience, int):
            return self.waited >= stop.patience
        return step - self.progress_step >= stop.patience * steps

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: `Best(**state)` is equal to this."""
        return asdict(self)
