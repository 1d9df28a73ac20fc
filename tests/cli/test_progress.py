"""The progress bar tells loss, rate and time left, and leaves standard output alone."""

import io
import logging

import pytest
from rich.console import Console

from finesight.cli.progress import ProgressBar
from finesight.core.events import EvaluationReport, StepReport


def step(number: int) -> StepReport:
    return StepReport(
        step=number,
        steps=20,
        epoch=0.1,
        loss=2.0,
        lr=1e-3,
        grad_norm=1.0,
        samples=32,
        tokens=320,
        supervised_tokens=64,
        seconds={"total": 0.5},
    )


def watched(*, terminal: bool) -> str:
    stream = io.StringIO()
    with ProgressBar(Console(file=stream, force_terminal=terminal, width=100)) as bar:
        bar.on_progress(3)  # before any phase: nothing to show yet
        bar.on_phase("train", 20)
        for number in range(1, 21):
            bar.on_step(step(number))
        bar._bar.refresh()  # else redrawn ten times a second
        logging.getLogger("finesight").info("[said] meanwhile")
        bar.on_evaluation(EvaluationReport(step=20, split="val", values={"val_loss": 1.25}, best=True))
        bar.on_phase("evaluate test", 4)
        bar.on_progress(4)
    logging.getLogger("finesight").info("said afterwards")
    return stream.getvalue()


def test_plain_lines_where_no_terminal_is() -> None:
    lines = watched(terminal=False).splitlines()
    assert lines == [
        "train …",
        "train 20/20  loss 2.0000  64.0 samples/s",
        "[said] meanwhile",
        "step 20  val  val_loss 1.2500  (best)",
        "evaluate test …",
        "evaluate test 4/4",
    ]


def test_a_phase_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finesight.cli.progress.LINE_EVERY", -1.0)
    stream = io.StringIO()
    with ProgressBar(Console(file=stream, force_terminal=False, width=100)) as bar:
        bar.on_phase("check data", 0)
        bar.on_progress(0)
        bar.on_progress(1200)
    assert stream.getvalue().splitlines() == ["check data …", "check data 0", "check data 1200"]


def test_a_bar_in_a_terminal() -> None:
    text = watched(terminal=True)
    for piece in ("20/20", "loss 2.0000", "64.0 samples/s", "val_loss 1.2500", "evaluate test"):
        assert piece in text
