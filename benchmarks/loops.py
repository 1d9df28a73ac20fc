"""The same training under finesight's loop, with and without kept features, and under one written by hand.

Those of others are in `peers`. All learn from the same examples in the same order, with the same weights at the
start, the same groups of parameters in fused AdamW, the same learning rates and the same clipping; none logs, evaluates
or saves. Each tells `ticks` the loss of every finished step, which is where it is paused between chunks.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count

import torch
from torch import nn

from benchmarks.ticks import Ticks
from benchmarks.workloads import SEED, Workload
from finesight.core.batch import IGNORE, Batch
from finesight.core.events import EvaluationReport, StepReport
from finesight.data.loading.feed import fed
from finesight.data.loading.loader import Window
from finesight.data.loading.workers import At, Workers
from finesight.models.features import encode, picture_keys, use_features
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.training.loop import Loop, LoopState, Timetable
from finesight.training.optim import build_optimizer
from finesight.training.precision import Precision
from finesight.training.step import Step

_ENDLESS = 10**9


def _batches(work: Workload) -> Iterator[Batch]:
    while True:
        for examples in work.steps:
            yield work.layout.collate(examples, work.pad_id)


class _Watch:
    """An observer that tells of each step."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks

    def on_step(self, report: StepReport) -> None:
        self._ticks.step(report.loss)

    def on_evaluation(self, report: EvaluationReport) -> None: ...

    def on_phase(self, name: str, total: int) -> None: ...

    def on_progress(self, done: int) -> None: ...


class _Steps:
    """The job of putting the steps' examples together, without end."""

    reads = False

    def __init__(self, work: Workload) -> None:
        self._work = work

    def tasks(self, at: At) -> Iterator[int]:
        return count()

    def do(self, step: int, at: At) -> Window:
        work = self._work
        return Window((work.layout.collate(work.steps[step % len(work.steps)], work.pad_id),))

    def place(self, item: int) -> str:
        return f"sample {item}"


def finesight(work: Workload, ticks: Ticks) -> None:
    """The loop and the step that `finesight train` runs; on a GPU also what brings batches there."""
    device = torch.device(work.device)
    work.model.to(device)
    step = Step(
        work.model,
        SupervisedForward(work.model, work.image),
        build_optimizer(work.model, work.train),
        Precision(work.precision, device.type),
        work.train.clip,
        SEED,
        device,
    )
    times = Timetable(_ENDLESS, len(work.steps), _ENDLESS, _ENDLESS, "val_loss")
    work.model.train()
    loop = Loop(step, work.schedule, times, None, lambda *_: None, [_Watch(ticks)], lambda: False)
    with closing(fed(_Steps(work), _ENDLESS, Workers(device=device))) as windows:
        loop.run((window.batches for window in windows), LoopState())


def cached(work: Workload, ticks: Ticks) -> None:
    """The same, with what the frozen encoder sees of each picture kept, as `model.cache: features` does."""
    known = {}
    for examples in work.steps:
        inputs = work.layout.collate(examples, work.pad_id).inputs
        pixels = float_pictures(inputs, work.image)["pixel_values"]
        known |= dict(zip(picture_keys(pixels), encode(work.model, pixels).numpy(), strict=True))
    use_features(work.model, known)
    finesight(work, ticks)


def bare(work: Workload, ticks: Ticks) -> None:
    """What one would write by hand around the same forward pass."""
    forward = SupervisedForward(work.model, work.image)
    optimizer = build_optimizer(work.model, work.train)
    parameters = [p for p in work.model.parameters() if p.requires_grad]
    work.model.train()
    for number, batch in enumerate(_batches(work), start=1):
        logits = forward(batch)
        loss = nn.functional.cross_entropy(logits, batch.targets[batch.targets != IGNORE])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, work.train.clip)
        for group in optimizer.param_groups:
            group["lr"] = work.schedule.rate(number)
        optimizer.step()
        optimizer.zero_grad()
        ticks.step(loss.detach())


LOOPS: dict[str, Callable[[Workload, Ticks], None]] = {
    "finesight": finesight,
    "cached": cached,
    "bare": bare,
}


def loop_of(name: str) -> Callable[[Workload, Ticks], None]:
    """A loop by its name. Those of others are imported where they are wanted: their memory is not ours."""
    if name in LOOPS:
        return LOOPS[name]
    from benchmarks.peers import PEERS

    return PEERS[name]
