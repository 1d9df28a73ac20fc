"""A progress bar that looks on a run: loss, samples a second and time left; plain lines where no terminal is."""

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from finesight.core.events import EvaluationReport, StepReport

LINE_EVERY = 10.0
"""Seconds between two plain lines."""
SMOOTHING = 0.9
"""Weight of the past in the shown loss and rate."""


class _Said(logging.Handler):
    """What finesight says while it works, above the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


class ProgressBar:
    """An observer that draws on standard error; leaves standard output alone."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._said = _Said(self._console)
        self._task: TaskID | None = None
        self._name, self._total = "", 0
        self._loss: float | None = None
        self._rate: float | None = None
        self._next_line = 0.0

    def __enter__(self) -> "ProgressBar":
        logger = logging.getLogger("finesight")
        logger.addHandler(self._said)
        logger.setLevel(logging.INFO)
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        logging.getLogger("finesight").removeHandler(self._said)

    def on_phase(self, name: str, total: int) -> None:
        """A new phase takes the place of the one before."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total or None, told="")
        self._name, self._total = name, total
        self._next_line = time.monotonic() + LINE_EVERY
        if not self._console.is_terminal:
            self._say(f"{name} …")

    def on_step(self, report: StepReport) -> None:
        """The bar moves by one step."""
        seconds = report.seconds.get("total", 0.0)
        if not report.skipped:
            self._loss = _smooth(self._loss, report.loss)
        if seconds > 0:
            self._rate = _smooth(self._rate, report.samples / seconds)
        loss = "" if self._loss is None else f"loss {self._loss:.4f}"
        told = loss + ("" if self._rate is None else f"  {self._rate:.1f} samples/s")
        self._advance(report.step, told)

    def on_evaluation(self, report: EvaluationReport) -> None:
        """A line that stays."""
        own = {name: value for name, value in report.values.items() if not name.startswith("picture_")}
        values = "  ".join(
            f"{name} {value:.4f}" for name, value in own.items()
        )  # those have a line of their own
        self._say(f"step {report.step}  {report.split}  {values}{'  (best)' if report.best else ''}")

    def on_progress(self, done: int) -> None:
        """The bar moves to `done`."""
        self._advance(done, "")

    def _advance(self, done: int, told: str) -> None:
        if self._task is None:
            return
        self._bar.update(self._task, completed=done, told=told)
        ended = self._total and done == self._total
        if not self._console.is_terminal and (ended or time.monotonic() >= self._next_line):
            self._next_line = time.monotonic() + LINE_EVERY
            of = (
                f"/{self._total}" if self._total else ""
            )  # nobody knows how many rows there are before they are read
            self._say(f"{self._name} {done}{of}  {told}".rstrip())

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
