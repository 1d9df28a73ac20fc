"""What a run tells to those who look on: they see, they cannot touch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StepReport:
    """One finished optimizer step.

    `loss` is the mean over the step's supervised tokens, `grad_norm` the norm before clipping. `samples`, `tokens`
    (padding excluded), `supervised_tokens` and `positions` (padding included) count this step alone; `step` starts at
    1, `epoch` is a fraction of passes over the training data. A `skipped` step has a loss or norm that is no
    number, and changed nothing. `broken_off` counts how often it was begun before, in larger micro-batches, for which
    memory did not suffice.

    `seconds` always has `data` (waiting for samples), `forward`, `backward`, `optimizer` and `total`; of the forward
    pass, where its parts are known, `inputs`, `vision`, `audio`, `projector`, `language_model` and `head` (a part that
    did not compute is not there); `communication`, of several processes; `decode`, in which the samples were prepared,
    beside the step where workers do it; `evaluation` and `saving`, which came right before this step and are not in
    its `total`. `mfu` is the share of the devices' peak arithmetic, `joules` the energy since the report before;
    both are None where not measured. docs/explaining.md defines all of them.
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
    mfu: float | None = None
    joules: float | None = None

    def per_second(self, count: int) -> float:
        """So many samples or tokens of this step as a rate, in 1/s; 0 where no time was taken."""
        total = self.seconds["total"]
        return count / total if total > 0 else 0.0

    broken_off: int = 0


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of one evaluation while training: `values` holds `val_loss`, the losses with other pictures
    (`picture_true`, `picture_blank`, `picture_shuffled`) and the metrics by name.

    `epoch` and `train_loss` are those of the step that was finished before it; it took `seconds`.
    """

    step: int
    split: str
    values: Mapping[str, float]
    best: bool
    epoch: float = 0.0
    train_loss: float | None = None
    seconds: float = 0.0


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
