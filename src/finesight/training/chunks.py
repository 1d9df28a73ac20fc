"""Cross-entropy in chunks of rows, so that never all logits of a batch and their gradients are there at once.

N supervised positions of a batch, V tokens in the vocabulary, H hidden size.

The gradient of the loss is a multiple of what it is for a factor of 1, so it can be made while a chunk's logits are
there, in the forward pass; the backward pass multiplies it, and nothing is computed twice. (Liger Kernel, Hsu et al.
2024, https://arxiv.org/abs/2410.10989, section 3.2, does so in one kernel.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finesight.core.batch import IGNORE, Batch
from finesight.training.step import Forward, entropy_sum, loss_sum

AUTO_BYTES = {"cpu": 128 * 2**20, "cuda": 512 * 2**20}
"""Bytes of a chunk's logits in fp32, where a recipe says `auto`. Fewer rows are not faster, and each chunk adds a
gradient as large as the output embeddings; docs/training.md has what was measured."""

Summed = Callable[[Tensor, Tensor], Tensor]
"""Gives the summed loss of some rows (n, H) and their targets (n,)."""


class Headless(Protocol):
    """A model that can be stopped before its output embeddings."""

    def rows(self, batch: Batch) -> Tensor:
        """What the output embeddings get of the supervised positions: (N, H), in row-major order."""

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (n, V) of rows (n, H), as the model makes them."""

    @property
    def learning(self) -> Sequence[Tensor]:
        """What learns of all that `logits` depends on."""


def rows_of_chunk(vocabulary: int, device: str) -> int:
    """Rows whose logits in fp32 take as many bytes as `auto` allows; a multiple of 64, which kernels like."""
    allowed = AUTO_BYTES.get(device, AUTO_BYTES["cpu"])
    return max(64, allowed // (4 * vocabulary) // 64 * 64)


@dataclass(frozen=True)
class Chunked:
    """The loss of a batch, in chunks of at most `most` rows; a batch of fewer is computed as a whole, by `forward`.

    `again`: logits are computed a second time in the backward pass. In fp16 they must be: gradients for a factor of 1
    would vanish, which the scaler's factor prevents, and that is known in the backward pass alone.
    """

    forward: Forward
    headless: Headless
    most: int
    again: bool = False

    def loss(self, batch: Batch, smoothing: float = 0.0) -> Tensor:
        """The sum of a batch's cross-entropies, as `step.loss_sum` of all logits."""
        if batch.supervised <= self.most:
            return loss_sum(self.forward(batch), batch.targets, smoothing)
        rows, wanted = self._rows(batch)

        def summed(some: Tensor, targets: Tensor) -> Tensor:
            return entropy_sum(self.headless.logits(some), targets, smoothing)

        pieces = list(_pieces(rows, wanted, self.most))
        learning = self.headless.learning
        if not torch.is_grad_enabled() or not (rows.requires_grad or learning):
            return torch.stack([summed(*piece) for piece in pieces]).sum()
        if self.again:
            made = [checkpoint(summed, *piece, use_reentrant=False) for piece in pieces]
            return torch.stack(made).sum()
        found: Tensor = _InForward.apply(summed, self.most, wanted, rows, *learning)  # type: ignore[no-untyped-call]
        return found

    def best(self, batch: Batch, allowed: Callable[[Tensor], Tensor]) -> Tensor:
        """The likeliest token (N,) of each supervised position, of logits (n, V) that `allowed` has changed."""
        if batch.supervised <= self.most:
            return allowed(self.forward(batch)).argmax(-1)
        pieces = _pieces(*self._rows(batch), self.most)
        return torch.cat([allowed(self.headless.logits(rows)).argmax(-1) for rows, _ in pieces])

    def _rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        wanted = batch.targets[
            batch.targets != IGNORE
        ]  # first: a GPU that is asked for it has to finish its work
        rows = self.headless.rows(batch)
        return rows, wanted.to(rows.device)


def _pieces(rows: Tensor, wanted: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(torch.split(rows, most), torch.split(wanted, most), strict=True)


class _InForward(torch.autograd.Function):
    """A sum of losses over chunks, whose gradients are made chunk by chunk in the forward pass.

    What learns in the output embeddings is an input, so that hooks of its own gradient (DDP's) come as they would.
    """

    @staticmethod
    def forward(
        ctx: Any, summed: Summed, most: int, wanted: Tensor, rows: Tensor, *learning: Tensor
    ) -> Tensor:
        """The loss; gradients of `rows` and of `learning` are kept for a factor of 1."""
        wants_rows = ctx.needs_input_grad[3]
        of_rows = torch.empty_like(rows) if wants_rows else None
        of_learning: list[Tensor | None] = [None] * len(learning)
        losses, at = [], 0
        for piece, targets in _pieces(rows.detach(), wanted, most):
            with torch.enable_grad():
                leaf = piece.detach().requires_grad_(wants_rows)
                loss = summed(leaf, targets)
                asked = [*([leaf] if wants_rows else []), *learning]
                found = list(torch.autograd.grad(loss, asked, allow_unused=True))
            if of_rows is not None:
                of_rows[at : at + len(leaf)] = found.pop(0)
            for number, gradient in enumerate(found):
                so_far = of_learning[number]
                of_learning[number] = (
                    gradient if so_far is None or gradient is None else so_far.add_(gradient)
                )
            losses.append(loss.detach())
            at += len(leaf)
        ctx.made = (of_rows, *of_learning)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradients that were made, times that of the loss; once, because they are multiplied in place."""
        made, ctx.made = ctx.made, None
        (factor,) = gradients
        return (None, None, None, *(None if one is None else one.mul_(factor) for one in made))
