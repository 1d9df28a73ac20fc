"""How long a run needs to stop, so that it is asked to in time."""

from finesight.core.events import EvaluationReport, StepReport
from finesight.runtime.signals import StopFlag

_BYTES_A_SECOND = 50e6
"""Of a disk that nothing is known of yet."""


class Pace:
    """An observer that tells the flag what stopping takes: a step and a save, each twice as long as the longest so far.

    `size` is that of a checkpoint in bytes, from which the first save is guessed.
    """

    def __init__(self, asked: StopFlag, size: int) -> None:
        self._asked, self._step, self._save = asked, 0.0, size / _BYTES_A_SECOND
        self._tell()

    def on_step(self, report: StepReport) -> None:
        """Take note of a step."""
        self._step = max(self._step, report.seconds["total"])
        self._tell()

    def on_save(self, seconds: float) -> None:
        """Take note of a save."""
        self._save = max(self._save, seconds)
        self._tell()

    def _tell(self) -> None:
        self._asked.need(2 * (self._step + self._save))

    def on_evaluation(self, report: EvaluationReport) -> None:
        """Evaluations are left between two batches."""

    def on_phase(self, name: str, total: int) -> None:
        """Phases say nothing."""

    def on_progress(self, done: int) -> None:
        """Nor does progress."""
