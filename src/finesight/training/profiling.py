"""A trace of chosen steps by torch's profiler, as files that browsers (Perfetto) and people read."""

import logging
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from finesight.config.profile import Profile
from finesight.core.batch import Batch
from finesight.core.errors import RecipeError
from finesight.core.events import EvaluationReport, StepReport
from finesight.runtime.files import TEMPORARY, told_when_full, write_text

_log = logging.getLogger("finesight")

_ROWS = 50
"""Operators in the table."""
_DEEP = 5
"""Lines of Python by which the table tells operators apart where stacks are asked for."""


def check_profile(settings: Profile | None, steps: int) -> None:
    """Raise RecipeError where the chosen steps are not of a run of so many."""
    if settings is not None and settings.steps[1] > steps:
        raise RecipeError(
            f"`profile.steps` ends with step {settings.steps[1]}, and the run has {steps}",
            "profile.steps",
            f"choose steps from 1 to {steps}",
        )


@dataclass
class _Trace:
    """A trace that is being made."""

    first: int
    profiler: Any
    last: int = 0
    step: Any = None


class Profiler:
    """Traces the chosen steps of a run, and writes what it saw to `folder`.

    A step begins when its samples are asked for and ends with its report; what lies between two chosen steps
    (an evaluation, a checkpoint) is in the trace, too. Steps that were done before are not traced again: a run that was
    stopped within the chosen ones leaves the trace of what it did, and its continuation one of the rest.
    """

    def __init__(self, settings: Profile, folder: Path, device: torch.device) -> None:
        self._settings, self._folder, self._device = settings, folder, device
        self._trace: _Trace | None = None

    @contextmanager
    def over(
        self, windows: Generator[tuple[Batch, ...], None, None], start: int
    ) -> Iterator[Iterator[tuple[Batch, ...]]]:
        """The windows after `start` finished steps, watched; a trace that is not complete is written at the end."""
        with closing(self._watched(windows, start + 1)) as watched:
            try:
                yield watched
            finally:
                self._finish()

    def _watched(
        self, windows: Iterator[tuple[Batch, ...]], number: int
    ) -> Generator[tuple[Batch, ...], None, None]:
        first, last = self._settings.steps
        while True:
            if first <= number <= last:
                self._begin(number)
            try:
                window = next(windows)
            except StopIteration:
                return
            yield window
            number += 1

    def _begin(self, number: int) -> None:
        if self._trace is None:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
            settings = self._settings
            profiler = profile(
                activities=activities,
                record_shapes=settings.shapes,
                profile_memory=settings.memory,
                with_stack=settings.stacks,
            )
            profiler.__enter__()  # type: ignore[no-untyped-call]
            self._trace = _Trace(number, profiler)
        self._trace.step = record_function(f"step {number}")
        self._trace.step.__enter__()

    def on_step(self, report: StepReport) -> None:
        """The end of a step."""
        trace = self._trace
        if trace is None or trace.step is None:
            return
        trace.step.__exit__(None, None, None)
        trace.step, trace.last = None, report.step
        if report.step >= self._settings.steps[1]:
            self._finish()

    def _finish(self) -> None:
        """End the trace; write it, unless no step of it was finished."""
        trace, self._trace = self._trace, None
        if trace is None:
            return
        if trace.step is not None:
            trace.step.__exit__(None, None, None)
        trace.profiler.__exit__(None, None, None)
        if not trace.last:
            return
        settings, device = self._settings, self._device.type
        stem = f"steps-{trace.first}-{trace.last}"
        self._folder.mkdir(parents=True, exist_ok=True)
        _whole(self._folder / f"{stem}.json.gz", trace.profiler.export_chrome_trace)
        rows = trace.profiler.key_averages(
            group_by_input_shape=settings.shapes, group_by_stack_n=_DEEP if settings.stacks else 0
        )
        by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
        table = rows.table(sort_by=by, row_limit=_ROWS, max_name_column_width=60)
        head = f"Operators of steps {trace.first} to {trace.last} by the time that they took themselves\n"
        write_text(self._folder / f"{stem}.txt", head + table)
        _log.info("a trace of steps %d to %d is in %s", trace.first, trace.last, self._folder / stem)

    def on_evaluation(self, report: EvaluationReport) -> None:
        """Evaluations are in the trace by themselves."""

    def on_phase(self, name: str, total: int) -> None:
        """Phases say nothing."""

    def on_progress(self, done: int) -> None:
        """Nor does progress."""


def _whole(path: Path, write: Callable[[str], object]) -> None:
    """Let `write` make a whole file or none; the name that it gets ends as the file's does."""
    first, dot, endings = path.name.partition(".")
    temporary = path.with_name(f"{first}{TEMPORARY}{dot}{endings}")
    with told_when_full(path):
        try:
            write(str(temporary))
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
