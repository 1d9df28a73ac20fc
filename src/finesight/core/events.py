"""What a run tells to those who look on: they see, they cannot touch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StepReport:
    """One finished optimizer step. `seconds` has the keys `data`, `forward`, `backward`, `optimizer`, `total`.

    `loss` is the mean over the step's supervised tokens, `grad_norm` the norm before clipping. `samples`, `tokens`
    (padding excluded), `supervised_tokens` and `positions` (padding included) count this step alone; `step` starts at
    1, `epoch` is a fraction of passes over the training data. A `skipped` step has a loss or norm that is no
    number, and changed nothing.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    samples: int
    tokens: int
    supervised_tokens: int
    seconds: Mapping[str, float]
    ids: tuple[str, ...] = ()
    positions: int = 0
    skipped: bool = False


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of one evaluation while training: `values` holds `val_loss`, the losses with other pictures
    (`picture_true`, `picture_blank`, `picture_shuffled`) and the metrics by name.

    `epoch` and `train_loss` are those of the step that was finished before it.
    """

    step: int
    split: str
    values: Mapping[str, float]
    best: bool
    epoch: float = 0.0
    train_loss: float | None = None


class Observer(Protocol):
    """Somebody who looks on: a progress bar, a log file, a tracker."""

    def on_step(self, report: StepReport) -> None:
        """After each optimizer step."""

    def on_evaluation(self, report: EvaluationReport) -> None:
        """After each evaluation."""

    def on_phase(self, name: str, total: int) -> None:
        """A new phase begins (`train`, `evaluate test`, ...) with `total` units of work."""

    def on_progress(self, done: int) -> None:
        """`done` units of the present phase are finished (phases other than training)."""
