"""The plan of a run: predicted from one timed pass over its own data, and measured at its end."""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch

from finesight.core.batch import Batch
from finesight.core.errors import FinesightError
from finesight.models.forward import SupervisedForward
from finesight.models.parts import parts_by_name
from finesight.models.points import part_points
from finesight.planner.estimate import Cost, predict_cost
from finesight.planner.flops import Counted, counting
from finesight.planner.memory import Activations, Memory, is_sliced, static_memory
from finesight.runtime.device import peak_bytes
from finesight.training.loop import LoopState
from finesight.training.memory import computed_in_memory
from finesight.training.meters import Point
from finesight.training.step import Loss, loss_sum
from finesight.workflows.course import Course
from finesight.workflows.prepare import Prepared

_AS_PARTS = {"vision": "vision_tower", "audio": "audio_tower"}
"""What tables of memory call the parts that those of times have shorter names for."""

_log = logging.getLogger("finesight")


def predicted_cost(
    prepared: Prepared,
    forward: SupervisedForward,
    course: Course,
    steps: int,
    state_bytes: float,
    processes: int = 1,
    loss: Loss | None = None,
) -> Cost:
    """Time a forward and backward pass over the run's first window and scale it. One before it warms up; its arithmetic
    is counted, and what it keeps.

    `state_bytes` are those of the optimizer's averages. `loss` measures a batch, where all logits are not to be made.

    Of several `processes` each is taken to compute its part of that in its part of the time.

    Raises OutOfMemory where the window does not fit.
    """
    window = course.first()
    flops, memory = _counted_pass(prepared, forward, window, state_bytes, loss)
    seconds = _timed_pass(prepared, forward, window, loss) / processes
    cost = predict_cost(
        pass_seconds=seconds,
        peak_bytes=peak_bytes(prepared.device),
        state_bytes=state_bytes,
        steps=steps,
        flops=None if flops is None else flops / sum(batch.positions for batch in window),
        memory=memory.document(),
        **course.counts(steps),
    )
    minutes, megabytes = cost.seconds / 60, cost.peak_bytes / 2**20
    _log.info(
        "plan: %d steps, about %.1f minutes of training, about %.0f MiB of memory", steps, minutes, megabytes
    )
    _log.info("of the positions that are computed, %.1f %% are padding", 100 * cost.padding)
    return cost


def _counted_pass(
    prepared: Prepared,
    forward: SupervisedForward,
    window: tuple[Batch, ...],
    state_bytes: float,
    loss: Loss | None,
) -> tuple[int | None, Memory]:
    """FLOPs of a forward and backward pass, and memory by part; what cannot be had is said, and left out."""
    model, sliced = prepared.model, is_sliced(prepared.model)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = static_memory(model, parts_by_name(model), state_bytes=state_bytes / max(1, learning))
    kept = Activations(model)
    points = [] if sliced else part_points(model)
    counted = Counted()
    try:
        with counting() as counted:
            _pass(prepared, forward, window, loss, None if sliced else kept, points)
    except FinesightError:
        raise
    except Exception as error:  # whatever an operator's own code raises where torch looks on
        told = str(error).partition("\n")[0]
        counted.why = f"{type(error).__name__}: {told}"
        prepared.model.zero_grad(set_to_none=True)
        kept = Activations(model)
        _pass(prepared, forward, window, loss)
    if counted.flops is None:
        prepared.notices.add("mfu", f"the arithmetic of a step could not be counted: {counted.why}")
    return counted.flops, memory if sliced or not kept.most else kept.found(memory, _AS_PARTS)


def _timed_pass(
    prepared: Prepared, forward: SupervisedForward, window: tuple[Batch, ...], loss: Loss | None
) -> float:
    began = time.perf_counter()
    _pass(prepared, forward, window, loss)
    return time.perf_counter() - began


def _pass(
    prepared: Prepared,
    forward: SupervisedForward,
    window: tuple[Batch, ...],
    loss: Loss | None,
    kept: Activations | None = None,
    points: Sequence[Point] = (),
) -> None:
    for batch in window:
        with computed_in_memory(batch, prepared.device, 1):
            moved = batch.to(prepared.device)
            with nullcontext() if kept is None else kept.watching(points), prepared.precision.autocast():
                if loss is not None:  # in chunks logits are never there together
                    summed = loss(moved, 0.0)
                else:
                    logits = forward(moved)
                    summed = loss_sum(logits, moved.targets)
                    if kept is not None:
                        kept.see_logits(logits)
            summed.backward()  # type: ignore[no-untyped-call]
            if kept is not None:
                kept.next_micro_batch()
    if prepared.device.type == "cuda":
        torch.cuda.synchronize(prepared.device)
    prepared.model.zero_grad(set_to_none=True)


def measured_cost(prepared: Prepared, state: LoopState, **more: Any) -> Cost:
    """What a finished run took; `more` of it is what the session has measured."""
    return Cost(
        peak_bytes=peak_bytes(prepared.device),
        seconds=state.seconds,
        seconds_per_step=state.seconds / max(1, state.step),
        steps=state.step,
        **asdict(state.seen),
        **more,
    )
