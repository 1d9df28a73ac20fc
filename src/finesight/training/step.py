"""One optimizer update: the mathematics of training, without time, files or data.

A window is the micro-batches of one step. Every supervised token of it weighs the same, whichever micro-batch it is in:
the loss is the sum of cross-entropies over the window divided once by the window's number of supervised tokens.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finesight.core.batch import IGNORE, Batch
from finesight.core.errors import TrainingError
from finesight.training.precision import Precision

Forward = Callable[[Batch], Tensor]
"""Gives logits (N, V) of a batch's N supervised positions, in row-major order."""


@dataclass(frozen=True)
class StepResult:
    """Mean loss per supervised token, gradient norm before clipping, and seconds of each phase."""

    loss: float
    grad_norm: float
    forward: float
    backward: float
    optimizer: float


def loss_sum(logits_NV: Tensor, targets: Tensor) -> Tensor:
    """Sum of cross-entropies over the supervised positions, in nats, computed in at least fp32."""
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return cross_entropy(logits_NV, targets[targets != IGNORE], reduction="sum")


class Step:
    """One update of the parameters in `optimizer` from one window.

    `seed` makes the step's random draws (dropout) a function of (seed, step number), so that a resumed run needs no
    saved generator state.
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
    ) -> None:
        self.module, self.optimizer, self.scaler = module, optimizer, precision.scaler()
        self._forward, self._precision, self._clip, self._seed, self._device = (
            forward,
            precision,
            clip,
            seed,
            device,
        )
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, window: Sequence[Batch], number: int, lr: float) -> StepResult:
        """Learn from one window as step `number` (from 1); raises TrainingError, with the weights untouched, where
        the loss or a gradient is not finite."""
        torch.manual_seed(hash_seed(self._seed, number))
        supervised = sum(batch.supervised for batch in window)
        total = torch.zeros((), device=self._device)
        forward = backward = 0.0
        for batch in window:
            began = time.perf_counter()
            moved = batch.to(self._device)
            with self._precision.autocast():
                logits = self._forward(moved)
            loss = loss_sum(logits, moved.targets) / supervised
            total = total + loss.detach()
            between = time.perf_counter()
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            forward, backward = forward + between - began, backward + time.perf_counter() - between
        began = time.perf_counter()
        norm = self._update(lr, float(total), number, window)
        return StepResult(float(total), norm, forward, backward, time.perf_counter() - began)

    def _update(self, lr: float, loss: float, number: int, window: Sequence[Batch]) -> float:
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._clip if self._clip else float("inf")))
        # with a scaler an overflow of the gradients is part of the method: it skips the step and scales less
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            self.optimizer.zero_grad(set_to_none=True)
            ids = ", ".join([name for batch in window for name in batch.ids][:8])
            raise TrainingError(
                f"the loss is {loss}, the gradient norm {norm}: no step can be made of it",
                f"step {number}, samples {ids}, …",
                "lower `train.lr`, lengthen `train.warmup`, or look at these samples",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


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
    module: nn.Module, forward: Forward, batches: Iterable[Batch], precision: Precision, device: torch.device
) -> float:
    """Mean cross-entropy per supervised token over all batches, in nats."""
    total, supervised = 0.0, 0
    with evaluating(module):
        for batch in batches:
            moved = batch.to(device)
            with precision.autocast():
                logits = forward(moved)
            total += float(loss_sum(logits, moved.targets))
            supervised += batch.supervised
    return total / supervised
