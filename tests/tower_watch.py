"""What autograd keeps of a part of a model while it computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from finesight.models.parts import parts_by_name


class Kept:
    """Tensors that were kept for the backward pass in a part's modules, and outside of them; and whether anything that
    the part gave needs a gradient."""

    def __init__(self) -> None:
        self.calls = self.inside = self.outside = self.outputs_that_learn = 0
        self.depth = 0


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (found for one in value.values() for found in _tensors(one))
    elif isinstance(value, (list, tuple)):
        yield from (found for one in value for found in _tensors(one))


@contextmanager
def kept_in(model: Any, part: str) -> Iterator[Kept]:
    """Watch the modules of which every parameter belongs to `part`."""
    part_of, kept = parts_by_name(model), Kept()
    handles = []
    for name, module in model.named_modules():
        names = [f"{name}.{own}" for own, _ in module.named_parameters()]
        if not names or any(part_of(one) != part for one in names):
            continue

        def enter(*_: Any) -> None:
            kept.calls += 1
            kept.depth += 1

        def leave(_: Any, __: Any, found: Any) -> None:
            kept.depth -= 1
            kept.outputs_that_learn += sum(one.requires_grad for one in _tensors(found))

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def pack(tensor: Tensor) -> Tensor:
        if kept.depth:
            kept.inside += 1
        else:
            kept.outside += 1
        return tensor

    unpack: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def learn_once(forward: Callable[[], Tensor], model: Any, part: str = "vision_tower") -> Kept:
    """What a forward and backward pass kept of a part."""
    model.train()
    with kept_in(model, part) as kept:
        forward().sum().backward()
    model.zero_grad()
    return kept
