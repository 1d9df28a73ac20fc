"""Whether two models are the same: their logits and their answers to the same samples.

B samples answered together, V tokens in the vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finesight.config.train import Generation
from finesight.core.ports import Ports
from finesight.core.sample import Sample
from finesight.generation.predict import answer_all
from finesight.models.decoding import decoding
from finesight.models.forward import output_embeddings
from finesight.training.step import evaluating

SAME = 1e-5
"""Largest difference of logits at which two fp32 models are the same; of the largest logit, where that is above 1."""

_TOGETHER = 4


@dataclass(frozen=True)
class Heard:
    """What a model said to some samples: greedy answers, and the logits (B, V) of every token that it chose, in groups
    of samples that were answered together."""

    answers: tuple[str, ...]
    groups: tuple[tuple[Tensor, ...], ...]


@dataclass(frozen=True)
class Drift:
    """How far two models are apart. `largest` is the largest logit of the first; `equal` of `count` answers agree."""

    difference: float
    largest: float
    equal: int
    count: int

    @property
    def same(self) -> bool:
        """Whether the two are one model but for rounding."""
        return self.equal == self.count and self.difference <= SAME * max(1.0, self.largest)

    def document(self) -> dict[str, Any]:
        """As the command prints it with `--json`."""
        return {
            "logits_difference": self.difference,
            "largest_logit": self.largest,
            "answers": self.count,
            "answers_equal": self.equal,
        }


def hear(model: Any, ports: Ports, samples: Sequence[Sample], settings: Generation) -> Heard:
    """Answer samples greedily, `settings.max_new_tokens` at most, and keep the logits that the answers come from."""
    config = decoding(settings.model_copy(update={"num_beams": 1}), ports)
    answers: list[str] = []
    groups = []
    together = _TOGETHER if ports.pads else 1
    with evaluating(model):
        for at in range(0, len(samples), together):
            heard: list[Tensor] = []
            with _listening(output_embeddings(model), heard):
                answers += answer_all(model, ports, samples[at : at + together], config)
            groups.append(tuple(heard))
    return Heard(tuple(answers), tuple(groups))


@contextmanager
def _listening(head: torch.nn.Module, heard: list[Tensor]) -> Iterator[None]:
    """While open, what `head` gives for the last position is kept."""

    def keep(_: torch.nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> None:
        heard.append(logits[:, -1].detach().float().cpu())

    handle = head.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def drift(one: Heard, other: Heard) -> Drift:
    """How far a model is from another one that was asked the same.

    An answer counts up to the first token in which the two differ: what follows has been told apart already.
    """
    difference = largest = 0.0
    for before_group, after_group in zip(one.groups, other.groups, strict=True):
        alike = torch.ones(len(before_group[0]), dtype=torch.bool)
        for before, after in zip(before_group, after_group, strict=False):
            if not alike.any():
                break
            largest = max(largest, float(before[alike].abs().max()))
            difference = max(difference, float((before - after)[alike].abs().max()))
            alike &= before.argmax(-1) == after.argmax(-1)
    equal = sum(a == b for a, b in zip(one.answers, other.answers, strict=True))
    return Drift(difference, largest, equal, len(one.answers))
