"""The plan of a run: predicted from one timed pass over its own data, and measured at its end."""

import logging
import time

import numpy as np

from finesight.config.recipe import Recipe
from finesight.core.batch import Batch
from finesight.data.dataset import ExampleSet
from finesight.data.loader import windows
from finesight.data.order import Order
from finesight.models.forward import SupervisedForward
from finesight.planner.estimate import Cost, predict_cost
from finesight.runtime.device import peak_bytes
from finesight.training.step import loss_sum
from finesight.workflows.prepare import Prepared, order_of

_log = logging.getLogger("finesight")


def predicted_cost(
    prepared: Prepared, forward: SupervisedForward, order: Order, steps: int, micro_batch: int
) -> Cost:
    """Time a forward and backward pass over the run's first window (twice: the first one warms up) and scale it."""
    window = next(windows(prepared.splits["train"], order, 0, 1, micro_batch, workers=0))
    seconds = min(_timed_pass(prepared, forward, window) for _ in range(2))
    counts = _counts(prepared.splits["train"], order, steps)
    cost = predict_cost(
        pass_seconds=seconds,
        peak_bytes=peak_bytes(prepared.device),
        trainable=sum(p.numel() for p in prepared.model.parameters() if p.requires_grad),
        steps=steps,
        **counts,
    )
    minutes, megabytes = cost.seconds / 60, cost.peak_bytes / 2**20
    _log.info(
        "plan: %d steps, about %.1f minutes of training, about %.0f MiB of memory", steps, minutes, megabytes
    )
    return cost


def _counts(examples: ExampleSet, order: Order, steps: int) -> dict[str, int]:
    """Samples, tokens and supervised tokens that the first `steps` steps see; equal passes are counted once."""
    passes, left = divmod(steps, order.steps_per_epoch)
    lengths, supervised = examples.lengths, examples.supervised_lengths

    def of(first: int, count: int) -> np.ndarray:
        seen = [order.batch(step)[1] for step in range(first, first + count)]
        chosen = np.concatenate([np.empty(0, dtype=np.int64), *seen])
        return np.array([len(chosen), lengths[chosen].sum(), supervised[chosen].sum()])

    whole = order.steps_per_epoch
    if order.varies:
        total = sum((of(number * whole, whole) for number in range(passes)), of(passes * whole, left))
    else:
        total = passes * of(0, whole) + of(passes * whole, left)
    return dict(zip(("samples", "tokens", "supervised_tokens"), total.tolist(), strict=True))


def _timed_pass(prepared: Prepared, forward: SupervisedForward, window: tuple[Batch, ...]) -> float:
    began = time.perf_counter()
    for batch in window:
        moved = batch.to(prepared.device)
        with prepared.precision.autocast():
            logits = forward(moved)
        loss_sum(logits, moved.targets).backward()  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - began
    unreached = [name for name, p in prepared.model.named_parameters() if p.requires_grad and p.grad is None]
    if unreached:
        told = ", ".join(unreached[:8])
        prepared.notices.add(
            "unused", f"no gradient reached {len(unreached)} tensors that are to learn: {told}"
        )
    prepared.model.zero_grad(set_to_none=True)
    return seconds


def measured_cost(recipe: Recipe, prepared: Prepared, steps: int, seconds: float) -> Cost:
    """What a run of so many steps and seconds of training took."""
    examples = prepared.splits["train"]
    return Cost(
        peak_bytes=peak_bytes(prepared.device),
        seconds=seconds,
        seconds_per_step=seconds / max(1, steps),
        steps=steps,
        **_counts(examples, order_of(recipe, examples), steps),
    )
