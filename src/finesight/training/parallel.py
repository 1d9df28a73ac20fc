"""How one step's micro-batches become gradients: in one process, or in replicas (DDP); over slices in `sharded`.

The loss of a step is a sum over all processes, divided once by the number of all supervised tokens: gradients are added
up, never averaged.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from finesight.core.batch import Batch
from finesight.training.agreement import Agreed, kind_of

_NAMES = inspect.signature(DistributedDataParallel).parameters
# torch 2.13 renamed it
_BUFFERS_STAY: Any = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}

Measure = Callable[[Batch], Tensor]
"""Gives the summed loss of a batch."""

Spare = Callable[[str | None], Batch]
"""Gives any batch of a kind, as `agreement.kind_of` says; of whichever kind for None."""

Slot = tuple[Batch, bool]
"""A micro-batch, and whether it counts: one that does not keeps the processes in step, with a loss of zero."""


class Engine(Protocol):
    """What a step needs to know of the other processes."""

    @property
    def rank(self) -> int:
        """Number of this process, which its random draws depend on."""

    @property
    def several(self) -> bool:
        """Whether there are other processes."""

    @property
    def factor(self) -> float:
        """What a loss is multiplied with before its backward pass, since something divides the gradients by it."""

    def begin(self, measure: Measure) -> Measure:
        """Called by all processes right before their first step; gives what is called in place of `measure`."""

    def slots(self, window: Sequence[Batch], step: Agreed) -> list[Slot]:
        """The micro-batches that this process computes."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Around one forward and backward pass: gradients are added up over the processes at the `last` alone."""

    def total(self, value: Tensor) -> float:
        """The sum of a number over the processes."""

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Shrink all gradients together to a norm of `most`; gives the norm of the whole before."""


class Single:
    """One process."""

    rank, factor, several = 0, 1.0, False

    def begin(self, measure: Measure) -> Measure:
        """`measure` itself."""
        return measure

    def slots(self, window: Sequence[Batch], step: Agreed) -> list[Slot]:
        """All of the window."""
        return [(batch, True) for batch in window]

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def total(self, value: Tensor) -> float:
        """The number itself."""
        return float(value)

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """By the norm of all gradients."""
        return float(nn.utils.clip_grad_norm_(parameters, most))


def added(value: Tensor) -> float:
    """The sum of a number over all processes."""
    total = value.detach().double()
    dist.all_reduce(total)
    return float(total)


def has_averages(model: nn.Module) -> bool:
    """Whether batch norms of the model keep averages of what they have seen."""
    return any(isinstance(part, _BatchNorm) and part.track_running_stats for part in model.modules())


def share_averages(model: nn.Module) -> None:
    """Give all processes the averages of process 0's batch norms."""
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            for value in part.buffers(recurse=False):
                dist.broadcast(value, 0)


class _Measured(nn.Module):
    """A model and a measure of it as one module, as DDP wants it."""

    def __init__(self, model: nn.Module, measure: Measure) -> None:
        super().__init__()
        self.model, self._measure = model, measure
        # DDP, which looks for parameters that a step does not reach, complains in runs that have none
        learns = next(value for value in model.parameters() if value.requires_grad)
        self.never_reached = nn.Parameter(learns.new_zeros(1))

    def forward(self, batch: Batch) -> Tensor:
        """The measure of a batch."""
        return self._measure(batch)


class Replicated:
    """DDP: each process holds all of the model.

    A process without a sample computes a spare batch that counts nothing. Parameters that a step reaches on no process
    (the towers, where no row has a picture) get no gradient, as in one process.
    """

    several = True

    def __init__(self, model: nn.Module, rank: int, size: int, spare: Spare) -> None:
        self.rank, self.factor = rank, float(size)  # DDP divides by the number of processes
        self._model, self._spare = model, spare
        self._wrapped: DistributedDataParallel | None = None

    def begin(self, measure: Measure) -> Measure:
        """The measure within DDP; the model begins with the values of process 0."""
        self._wrapped = DistributedDataParallel(
            _Measured(self._model, measure),
            **_BUFFERS_STAY,
            find_unused_parameters=True,  # a row without a picture does not reach the towers
            gradient_as_bucket_view=True,
        )
        return self._wrapped

    def slots(self, window: Sequence[Batch], step: Agreed) -> list[Slot]:
        """All of the window, batches with pictures last; a spare batch where it is empty."""
        ordered = sorted(window, key=lambda batch: kind_of(batch.inputs))
        return [(batch, True) for batch in ordered] or [(self._spare(None), False)]

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Without communication but at the last."""
        assert self._wrapped is not None  # begun
        return nullcontext() if last else self._wrapped.no_sync()

    def total(self, value: Tensor) -> float:
        """The sum over the processes."""
        return added(value)

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """By the norm of all gradients, which are equal in all processes."""
        return float(nn.utils.clip_grad_norm_(parameters, most))
