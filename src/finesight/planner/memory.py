"""Memory of training by part of the model: weights, gradients, the optimizer's state, and what is kept for the backward
pass."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor

from finesight.training.meters import Point, hooked

PartOf = Callable[[str], str]
"""The part of a model that a parameter belongs to, by its name."""

ByPart = Mapping[str, int]
"""Bytes by part."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process by part; `activations` (None: not measured) are what one micro-batch keeps for its backward
    pass, the largest one's, and `logits` those of its supervised positions."""

    weights: ByPart = field(default_factory=dict)
    gradients: ByPart = field(default_factory=dict)
    optimizer: ByPart = field(default_factory=dict)
    activations: ByPart | None = None
    logits: int | None = None

    def document(self) -> dict[str, Any]:
        """As `plan.json` holds it: what was not measured is left out."""
        known = {
            "weights": dict(self.weights),
            "gradients": dict(self.gradients),
            "optimizer": dict(self.optimizer),
        }
        more = {
            name: value
            for name, value in (("activations", self.activations), ("logits", self.logits))
            if value is not None
        }
        return {**known, **more}


def adapter_or(part_of: PartOf) -> PartOf:
    """The parts, and what an adapter adds to them as `adapter`."""
    return lambda name: "adapter" if ".lora_" in name else part_of(name)


def static_memory(
    model: nn.Module, part_of: PartOf, optimizer: torch.optim.Optimizer | None = None, state_bytes: float = 0
) -> Memory:
    """Weights (buffers among them), gradients and the state of an optimizer, to the byte; before it has any, as many as
    `state_bytes` a learning value.

    A tied tensor counts once. Gradients are as large as the weights that learn. Of a model in slices, this process's.
    """
    part_of = adapter_or(part_of)
    weights, gradients, state = Counter[str](), Counter[str](), Counter[str]()
    seen = set[int]()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if id(value) in seen:
            continue
        seen.add(id(value))
        part, size = part_of(name), _bytes(value)
        weights[part] += size
        if value.requires_grad:
            gradients[part] += size
            state[part] += round(state_bytes * _local(value).numel())
    if optimizer is not None:
        state = _state(optimizer, part_of)
    return Memory(dict(weights), dict(gradients), dict(state))


def _state(optimizer: torch.optim.Optimizer, part_of: PartOf) -> Counter[str]:
    """Bytes of what an optimizer keeps; a table that many parameters share counts to the first of them."""
    found, seen = Counter[str](), set[int]()
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    found[part_of(name)] += _bytes(value)
    return found


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _bytes(value: Tensor) -> int:
    own = _local(value)
    return own.numel() * own.element_size()


class Activations:
    """What a forward pass keeps for the backward pass, by the part that is computing; each memory once.

    Weights are not counted: they are there anyway. Of a layer that is computed again its inputs are kept, and counted.
    """

    def __init__(self, model: nn.Module) -> None:
        owned = [*model.parameters(), *model.buffers()]
        self._weights = {_place(value) for value in owned}
        self._within = ["head"]
        self._seen = set[int]()
        self._now, self.most = Counter[str](), Counter[str]()
        self.logits = 0

    def next_micro_batch(self) -> None:
        """The largest counts."""
        if self._now.total() > self.most.total():
            self.most = self._now
        self._now = Counter()
        self._seen.clear()

    def see_logits(self, logits: Tensor) -> None:
        """Take note of a micro-batch's logits."""
        self.logits = max(self.logits, _bytes(logits))

    @contextmanager
    def watching(self, points: Sequence[Point]) -> Iterator[None]:
        """While open, a forward pass is looked at; nothing of it changes."""
        hooks = hooked(points, self._within.append, lambda _: self._within.pop())
        with hooks, saved_tensors_hooks(self._keep, lambda kept: kept):
            yield
        self._within[1:] = []

    def _keep(self, value: Tensor) -> Tensor:
        place = _place(value)
        if place and place not in self._weights and place not in self._seen:
            self._seen.add(place)
            self._now[self._within[-1]] += value.untyped_storage().nbytes()
        return value

    def found(self, memory: Memory, names: Mapping[str, str]) -> Memory:
        """What is known already, with what was seen; parts by other `names` where there are any."""
        activations = {names.get(part, part): size for part, size in self.most.items()}
        return replace(memory, activations=activations, logits=self.logits)


def is_sliced(model: nn.Module) -> bool:
    """Whether a model's weights are in slices over several processes."""
    return any(isinstance(value, DTensor) for value in model.parameters())


def _place(value: Tensor) -> int:
    return 0 if isinstance(value, DTensor) else value.untyped_storage().data_ptr()
