"""One optimizer update: the mathematics of training, without time, files or data.

A window is the micro-batches of one step. Every supervised token of it weighs the same, whichever micro-batch it is in:
the loss is the sum of cross-entropies over the windows of all processes, divided once by their number of supervised
tokens.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finesight.core.batch import IGNORE, Batch
from finesight.core.errors import FinesightError, TrainingError
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.signals import StopAsked
from finesight.training.agreement import Agreed, agreed, facts_of
from finesight.training.memory import measured_in_memory, sizes
from finesight.training.meters import Meter, clock_of
from finesight.training.parallel import Engine, Measure, Single
from finesight.training.precision import Precision

Forward = Callable[[Batch], Tensor]
"""Gives logits (N, V) of a batch's N supervised positions, in row-major order."""

Loss = Callable[[Batch, float], Tensor]
"""Gives the summed cross-entropies of a batch, with a label smoothing, in place of all logits (`chunks`)."""


class Feed(Protocol):
    """Gives what a batch is learned from in the step of a number, in place of the batch (`sampling`)."""

    def due(self, number: int) -> bool:
        """Whether this step replaces anything."""

    def __call__(self, batch: Batch, number: int) -> Batch:
        """The batch that is learned from."""


@dataclass(frozen=True)
class StepResult:
    """Mean loss per supervised token, gradient norm before clipping, and seconds by the names of `meters`.

    A step that was `skipped`, because one of the two is no number, changed nothing.
    """

    loss: float
    grad_norm: float
    seconds: Mapping[str, float]
    skipped: bool = False

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        names = ("sampling", "forward", "backward", "communication", "optimizer")
        return sum(self.seconds.get(name, 0.0) for name in names)


def loss_sum(logits_NV: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum of cross-entropies over the supervised positions, in nats, computed in at least fp32.

    With `smoothing` s a target is 1 − s of itself and s of all V tokens alike (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567, section 7).
    """
    return entropy_sum(logits_NV, targets[targets != IGNORE], smoothing)


def entropy_sum(logits_NV: Tensor, wanted: Tensor, smoothing: float = 0.0) -> Tensor:
    """The same of targets (N,) that are all supervised."""
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return cross_entropy(logits_NV, wanted, reduction="sum", label_smoothing=smoothing)


class Step:
    """One update of the parameters in `optimizer` from one window.

    `seed` makes the step's random draws (dropout) a function of (seed, step number, process), so that a resumed run
    needs no saved generator state. `engine` does what concerns the other processes; `meter` takes the time. `loss`,
    where it is there, measures a batch in place of `forward`, and `feed` gives the batch that is learned from.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        clip: float,
        seed: int,
        device: torch.device,
        engine: Engine | None = None,
        smoothing: float = 0.0,
        skips: bool = False,
        loss: Loss | None = None,
        feed: Feed | None = None,
    ) -> None:
        self.module, self.optimizer, self.scaler = module, optimizer, precision.scaler()
        self._forward, self._precision, self._clip, self._seed, self.device = (
            forward,
            precision,
            clip,
            seed,
            device,
        )
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._engine: Engine = engine or Single()
        self._smoothing, self._skips = smoothing, skips
        self._summed, self._feed = loss, feed
        self._measure: Measure | None = None
        self.audit: Callable[[int, Agreed], bool] | None = None
        """Looks at the gradients of a step before they are clipped, until it says that it has seen all."""
        self.computing: Batch | None = None
        """The micro-batch that is computed, or was when an error came."""
        self.updating = False
        """Whether the weights are being changed, or were when an error came."""
        self.meter = Meter(clock_of(device))

    def __call__(
        self, window: Sequence[Batch], number: int, lr: float, step: Agreed | None = None
    ) -> StepResult:
        """Learn from one window as step `number` (from 1). Where the loss or a gradient is not finite the weights stay
        as they are: the step is skipped, or TrainingError is raised.

        `window` is this process's share of the `step` that all of them make together (None: all of it).
        """
        step = step or agreed([facts_of(window)])
        engine = self._engine
        if self._measure is None:
            self._measure = engine.begin(self._loss)
        seed = hash_seed(self._seed, number)
        torch.manual_seed(hash_seed(seed, engine.rank) if engine.rank else seed)
        total = torch.zeros((), device=self.device)
        meter = self.meter
        meter.begin()
        slots = engine.slots(window, step)
        for place, (batch, counts) in enumerate(slots, 1):
            self.computing = batch
            with engine.micro_batch(last=place == len(slots)):
                fed = self._fed(batch, number)
                meter.forward()
                loss = self._measure(fed.to(self.device)) / step.supervised
                if counts:
                    total = total + loss.detach()
                weight = engine.factor if counts else 0.0
                meter.enter("backward")
                self.scaler.scale(loss if weight == 1 else weight * loss).backward()  # type: ignore[no-untyped-call]
        self.computing = None
        meter.enter("communication" if engine.several else "optimizer")
        mean = engine.total(total)
        meter.enter("optimizer")
        norm, skipped = self._update(lr, mean, number, step)
        return StepResult(mean, norm, meter.seconds(), skipped)

    def forget(self) -> None:
        """Drop the gradients of a step that was broken off."""
        self.optimizer.zero_grad(set_to_none=True)
        self.computing = None

    def _fed(self, batch: Batch, number: int) -> Batch:
        """What is learned from in place of a batch; the time that it takes to make is that of `sampling`."""
        if self._feed is None or not self._feed.due(number):
            return batch
        self.meter.enter("sampling")
        return self._feed(batch.to(self.device), number)

    def _loss(self, batch: Batch) -> Tensor:
        """Summed loss of a batch on the device."""
        with self._precision.autocast():
            if self._summed is not None:
                return self._summed(batch, self._smoothing)
            logits = self._forward(batch)
        return loss_sum(logits, batch.targets, self._smoothing)

    def _update(self, lr: float, loss: float, number: int, step: Agreed) -> tuple[float, bool]:
        """The norm of all gradients, and whether the step was skipped; all processes have the same loss and norm."""
        self.scaler.unscale_(self.optimizer)
        if self.audit is not None and self.audit(number, step):
            self.audit = None
        norm = self._engine.clip(self._parameters, self._clip if self._clip else float("inf"))
        # with a scaler an overflow of the gradients is part of the method: it skips the step and scales less
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            self.optimizer.zero_grad(set_to_none=True)
            if self._skips:
                return norm, True
            raise no_number(loss, norm, number, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("share", 1.0)
        self.updating = True
        self.scaler.step(self.optimizer)
        self.updating = False
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, False


def no_number(loss: float, norm: float, number: int, step: Agreed, skipped: int = 0) -> TrainingError:
    """The error of a step whose loss or gradient is not finite, where so many others were `skipped` before."""
    others = f"; {skipped} others were skipped before, as many as `train.nan_limit` lets" if skipped else ""
    return TrainingError(
        f"the loss is {loss}, the gradient norm {norm}: no step can be made of it{others}",
        f"step {number}, samples {', '.join(step.ids[:8])}, …",
        "lower `train.lr`, lengthen `train.warmup`, look at these samples, or skip such steps by `train.on_nan`",
    )


def hash_seed(seed: int, number: int) -> int:
    """A 63-bit seed from two numbers, equal on every machine (splitmix64's mixing, Steele et al. 2014)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 1


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each part's own mode is as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def mean_loss(
    module: nn.Module,
    forward: Forward,
    batches: Iterable[Batch],
    precision: Precision,
    device: torch.device,
    world: World = ALONE,
    loss: Loss | None = None,
) -> float:
    """Mean cross-entropy per supervised token over all batches, in nats; by `loss`, where it is there.

    Of several processes each has every so-manyth of the batches; all of them get the mean over all, equal to the bit to
    that of one process.
    """
    sums: list[tuple[float, int]] = []
    failed: Exception | None = None
    with evaluating(module):
        try:
            for batch in batches:
                with measured_in_memory(device, sizes(batch)):
                    moved = batch.to(device)
                    with precision.autocast():
                        summed = loss(moved, 0.0) if loss else loss_sum(forward(moved), moved.targets)
                    sums.append((float(summed), batch.supervised))
        except (FinesightError, StopAsked) as error:
            failed = error
    total, supervised = 0.0, 0
    dealt = chain.from_iterable(zip_longest(*world.together(sums, failed), fillvalue=(0.0, 0)))
    for part, count in dealt:
        total, supervised = total + part, supervised + count
    return total / supervised
