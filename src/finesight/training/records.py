"""The files that a run writes step by step: `metrics.jsonl`, `losses_log.csv`, `timing_logs.csv`, `samples.jsonl`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finesight.core.events import EvaluationReport, StepReport
from finesight.core.rundir import RunDirectory
from finesight.runtime.files import append_line, to_json, write_text

_LOSSES = "epoch,step,train_loss,val_loss"
_TIMING = (
    "step,data,forward,backward,optimizer,total,decode,inputs,vision,audio,projector,language_model,head,communication,"
    "evaluation,saving,joules"
)
"""The first six have always been there; the others are seconds, too, but for `joules`. An empty cell: not measured."""


def is_logged(report: StepReport, every: int) -> bool:
    """Whether `metrics.jsonl` has a line of a step: one in so many, the first, the last, and all that were skipped
    or broken off."""
    return (
        report.step % every == 0
        or report.step in (1, report.steps)
        or report.skipped
        or bool(report.broken_off)
    )


class Records:
    """An observer that writes the run's tables. On resuming, what was written after the checkpoint is cut off."""

    def __init__(self, run: RunDirectory, every: int, samples: bool) -> None:
        self._run, self._every, self._samples = run, every, samples
        for path, header in ((run.losses, _LOSSES), (run.timing, _TIMING)):
            if not path.exists():
                write_text(path, header + "\n")

    def rewind(self, step: int, evaluated: bool) -> None:
        """Keep the lines up to `step`; its own evaluation only where it was finished (`evaluated`)."""

        def keeps(at: int, is_evaluation: bool) -> bool:
            return at < step or (at == step and (evaluated or not is_evaluation))

        def json_line(line: str) -> bool:
            row = json.loads(line)
            return keeps(row["step"], "name" in row)

        def table_row(column: int, evaluation: int | None) -> Callable[[str], bool]:
            def row(line: str) -> bool:
                cells = line.split(",")
                return keeps(int(cells[column]), evaluation is not None and bool(cells[evaluation]))

            return row

        _filter(self._run.metrics, 0, json_line)
        _filter(self._run.samples, 0, json_line)
        _filter(self._run.losses, 1, table_row(1, 3))
        _filter(self._run.timing, 1, table_row(0, None))
        _widen(self._run.timing, _TIMING)

    def on_step(self, report: StepReport) -> None:
        """Timing of every step; losses and counts every `log.every` steps, and of each that was skipped or
        broken off."""
        known = {**report.seconds, "joules": report.joules}
        cells = (known.get(name) for name in _TIMING.split(",")[1:])
        append_line(
            self._run.timing,
            ",".join([str(report.step), *("" if cell is None else f"{cell:.6f}" for cell in cells)]),
        )
        if self._samples:
            append_line(self._run.samples, to_json({"step": report.step, "ids": report.ids}))
        if is_logged(report, self._every):
            append_line(self._run.losses, f"{report.epoch:.6g},{report.step},{report.loss!r},")
            append_line(self._run.metrics, to_json(metrics_row(report)))

    def on_evaluation(self, report: EvaluationReport) -> None:
        """One line a score; the validation loss also beside the training loss of its step."""
        for name, value in report.values.items():
            row = {"step": report.step, "split": report.split, "name": name, "value": value}
            append_line(self._run.metrics, to_json(row))
        if "val_loss" in report.values:
            losses = f"{report.train_loss!r},{report.values['val_loss']!r}"
            append_line(self._run.losses, f"{report.epoch:.6g},{report.step},{losses}")

    def on_phase(self, name: str, total: int) -> None:
        """Phases leave no trace in the tables."""

    def on_progress(self, done: int) -> None:
        """Nor does progress."""


def metrics_row(report: StepReport) -> dict[str, Any]:
    """What `metrics.jsonl` says of a step."""
    return {
        "step": report.step,
        "epoch": report.epoch,
        "loss": report.loss,
        "lr": report.lr,
        "grad_norm": report.grad_norm,
        "samples": report.samples,
        "tokens": report.tokens,
        "supervised_tokens": report.supervised_tokens,
        "padding": 1 - report.tokens / report.positions if report.positions else 0.0,
        "seconds": report.seconds["total"],
        "samples_per_second": report.per_second(report.samples),
        "tokens_per_second": report.per_second(report.tokens),
        "supervised_tokens_per_second": report.per_second(report.supervised_tokens),
        **({} if report.mfu is None else {"mfu": report.mfu}),
        **({} if report.joules is None else {"joules": report.joules}),
        **({"sampling_seconds": report.seconds["sampling"]} if "sampling" in report.seconds else {}),
        **({"skipped": True} if report.skipped else {}),
        **({"broken_off": report.broken_off} if report.broken_off else {}),
    }


def _filter(path: Path, header: int, keeps: Callable[[str], bool]) -> None:
    """Rewrite a table with its header and the rows that are kept; an unfinished last line (a kill) is dropped."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")[:-1]
    whole = [line for line in lines[header:] if keeps(line)]
    write_text(path, "".join(line + "\n" for line in [*lines[:header], *whole]))


def _widen(path: Path, header: str) -> None:
    """Give a table the columns that it did not have when it was begun, empty in its rows."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    if lines[0] == header or not header.startswith(lines[0]):
        return
    empty = "," * (header.count(",") - lines[0].count(","))
    write_text(path, "".join(line + "\n" for line in [header, *(line + empty for line in lines[1:])]))
