"""The plan of a run: predicted from one timed pass over its own data, and measured at its end."""

import logging
import time
from dataclasses import asdict

from finesight.core.batch import Batch
from finesight.models.forward import SupervisedForward
from finesight.planner.estimate import Cost, predict_cost
from finesight.runtime.device import peak_bytes
from finesight.training.loop import LoopState
from finesight.training.step import loss_sum
from finesight.workflows.course import Course
from finesight.workflows.prepare import Prepared

_log = logging.getLogger("finesight")


def predicted_cost(
    prepared: Prepared,
    forward: SupervisedForward,
    course: Course,
    steps: int,
    state_bytes: float,
    processes: int = 1,
) -> Cost:
    """Time a forward and backward pass over the run's first window (twice: the first one warms up) and scale it.

    `state_bytes` are those of the optimizer's averages.

    Of several `processes` each is taken to compute its part of that in its part of the time.
    """
    window = course.first()
    seconds = min(_timed_pass(prepared, forward, window) for _ in range(2)) / processes
    cost = predict_cost(
        pass_seconds=seconds,
        peak_bytes=peak_bytes(prepared.device),
        state_bytes=state_bytes,
        steps=steps,
        **course.counts(steps),
    )
    minutes, megabytes = cost.seconds / 60, cost.peak_bytes / 2**20
    _log.info(
        "plan: %d steps, about %.1f minutes of training, about %.0f MiB of memory", steps, minutes, megabytes
    )
    _log.info("of the positions that are computed, %.1f %% are padding", 100 * cost.padding)
    return cost


def _timed_pass(prepared: Prepared, forward: SupervisedForward, window: tuple[Batch, ...]) -> float:
    began = time.perf_counter()
    for batch in window:
        moved = batch.to(prepared.device)
        with prepared.precision.autocast():
            logits = forward(moved)
        loss_sum(logits, moved.targets).backward()  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - began
    prepared.model.zero_grad(set_to_none=True)
    return seconds


def measured_cost(prepared: Prepared, state: LoopState) -> Cost:
    """What a finished run took."""
    return Cost(
        peak_bytes=peak_bytes(prepared.device),
        seconds=state.seconds,
        seconds_per_step=state.seconds / max(1, state.step),
        steps=state.step,
        **asdict(state.seen),
    )
