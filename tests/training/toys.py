"""Two layers and a list of batches: all that the training engine needs to be tested."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from finesight.core.batch import IGNORE, Batch
from finesight.training.precision import Precision
from finesight.training.step import Step

VOCABULARY = 11


class TwoLayers(nn.Module):
    """Token ids (B, T) to logits of the next token (B, T, V)."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCABULARY, 6)
        self.hidden = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(torch.tanh(self.hidden(self.embed(tokens))))))


def supervised_logits(model: nn.Module) -> Any:
    """The forward pass that a Step takes."""
    return lambda batch: model(batch.inputs["input_ids"])[batch.targets != IGNORE]


def make_batch(number: int, rows: int = 2, length: int = 5) -> Batch:
    """A ragged batch of random tokens, about half of them supervised."""
    draw = torch.Generator().manual_seed(number)
    tokens = torch.randint(0, VOCABULARY, (rows, length), generator=draw)
    targets = torch.randint(0, VOCABULARY, (rows, length), generator=draw)
    targets[torch.rand((rows, length), generator=draw) < 0.5] = IGNORE
    targets[:, -1] = 1
    supervised = int((targets != IGNORE).sum())
    ids = tuple(f"s{number}-{row}" for row in range(rows))
    return Batch(ids, {"input_ids": tokens}, targets, supervised, tokens.numel())


def windows(start: int, stop: int, micro: int = 2) -> Iterator[tuple[Batch, ...]]:
    """Windows of steps `start` to `stop`, each a function of its step."""
    for step in range(start, stop):
        yield tuple(make_batch(100 * step + part, length=4 + part + step % 3) for part in range(micro))


class Recorder(torch.optim.SGD):
    """An optimizer that keeps each step's gradients and changes nothing."""

    def step(self, closure: Any = None) -> None:
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        self.rates = [group["lr"] for group in self.param_groups]


def recording_step(model: nn.Module, forward: Any, clip: float = 0.0) -> tuple[Step, Recorder]:
    """A Step whose gradients can be looked at."""
    recorder = Recorder([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return Step(model, forward, recorder, Precision("fp32", "cpu"), clip, 0, torch.device("cpu")), recorder


def relative(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Relative L2 distance of two lists of tensors."""
    difference = sum(float(((a - b).double() ** 2).sum()) for a, b in zip(ours, theirs, strict=True))
    return float((difference / sum(float((b.double() ** 2).sum()) for b in theirs)) ** 0.5)
