"""FSDP2: each process holds a slice of every layer, and gathers a layer's weights while it computes.

Parameters are `DTensor`s, cut along their first dimension; names stay as they were.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from finesight.core.batch import Batch
from finesight.training.agreement import Agreed, kind_of
from finesight.training.parallel import Measure, Slot, Spare, added

_NUMBERS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of all towers and of the language model: members of lists of like modules, without those inside."""
    found: dict[int, nn.Module] = {}
    inside: set[int] = set()
    for module in model.modules():
        if not isinstance(module, nn.ModuleList) or id(module) in inside:
            continue
        inside.update(id(part) for part in module.modules())
        for layer in module:
            if any(True for _ in layer.parameters()):
                found[id(layer)] = layer
    return list(found.values())


def shard(model: nn.Module, precision: str, device: torch.device, reshard: bool = True) -> int:
    """Cut a model into slices, in place, layer by layer; the number of tensors that stay whole.

    Weights and gradients travel and compute in the numbers of `precision` (gradients are added up in fp32); the slices
    stay in their own. Quantised weights, which belong together with numbers that are no parameters, stay whole in each
    process.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    numbers = _NUMBERS[precision]
    policy = MixedPrecisionPolicy(
        param_dtype=numbers,
        reduce_dtype=None if numbers is None else torch.float32,
        cast_forward_inputs=False,  # autocast does that, as in one process
    )
    whole = {value for value in model.parameters() if not value.is_floating_point()}
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "ignored_params": whole}
    for layer in layers_of(model):
        fully_shard(layer, reshard_after_forward=reshard, **settings)
    fully_shard(model, **settings)
    return len(whole)


class Sharded:
    """FSDP2's part in a step.

    Processes gather the same layers at the same time: each computes as many batches of a kind (with pictures, with
    sounds, without) as the one that has the most; what fills up counts nothing.
    """

    several = True

    def __init__(self, model: nn.Module, rank: int, size: int, spare: Spare) -> None:
        self.rank, self.factor = rank, float(size)  # FSDP2 divides by the number of processes
        assert isinstance(model, FSDPModule)
        self._model: FSDPModule = model
        self._spare = spare

    def begin(self, measure: Measure) -> Measure:
        """`measure` itself: the model's own hooks do the rest."""
        return measure

    def slots(self, window: Sequence[Batch], step: Agreed) -> list[Slot]:
        """Batches kind by kind, those without pictures and sounds first, filled up to the most that a process has."""
        filled: list[Slot] = []
        for kind, most in sorted(step.most.items()):
            own = [(batch, True) for batch in window if kind_of(batch.inputs) == kind]
            filled += own
            if len(own) < most:
                filled += [(self._spare(kind), False)] * (most - len(own))
        return filled

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Gradients are added up and cut into slices at the last alone."""
        self._model.set_requires_gradient_sync(last)
        self._model.set_is_last_backward(last)
        yield

    def total(self, value: Tensor) -> float:
        """The sum over the processes."""
        return added(value)

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """By the norm of the whole, of which each process holds a slice."""
        norm = nn.utils.clip_grad_norm_(parameters, most)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """While open, every process holds the whole of a sharded model, to evaluate as much of it as it wants, alone.

    Nothing may be learned meanwhile. A model that is not sharded is as it is.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    if not parts or not isinstance(model, FSDPModule):
        yield
        return
    root: Any = model
    kept = [
        (group, group.post_forward_mesh_info)
        for part in parts
        for group in part._get_fsdp_state()._fsdp_param_groups
    ]
    managed = [part for part in model.modules() if getattr(part, "_is_fsdp_managed_module", False)]
    root.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    for some in managed:  # else `generate` waits for the other processes at every token
        some._is_fsdp_managed_module = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for some in managed:
            some._is_fsdp_managed_module = True  # type: ignore[assignment]
        for group, before in kept:
            group.post_forward_mesh_info = before
        for part in parts:
            part.reshard()


def whole_tensor(value: Tensor) -> Tensor:
    """All of a tensor that is in slices, which all processes ask for at the same time; another one as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor cut as `own` is, where that is in slices; every process has the same `value`."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):  # cut already
        return value
    value = value.to(own.device_mesh.device_type)
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def outline(model: nn.Module, beside: Any = None) -> tuple[Any, Any]:
    """A copy of a model without its values (and of what belongs to it), which a sharded one becomes again at the end.

    Its frozen quantised weights are the model's own.
    """
    known: dict[int, Any] = {}
    for value in model.parameters():
        kept = value if not value.is_floating_point() else None
        known[id(value)] = kept if kept is not None else nn.Parameter(value.to("meta"), value.requires_grad)
    return copy.deepcopy((model, beside), known)


def fill(outlined: nn.Module, model: nn.Module, device: torch.device) -> None:
    """Give an outline the values of the sliced model that it was made of; all processes call it."""
    made: dict[int, nn.Parameter] = {}
    for name, value in model.named_parameters():
        whole = whole_tensor(value.detach())
        part, last = _holder(outlined, name)
        before = part._parameters[last]
        if before is not None and before.is_meta:
            made[id(before)] = nn.Parameter(whole.to(device), before.requires_grad)
    for part in outlined.modules():  # tied ones are one object, and stay so
        for last, before in part._parameters.items():
            if id(before) in made:
                part._parameters[last] = made[id(before)]
    for name, buffer in model.named_buffers():
        part, last = _holder(outlined, name)
        part._buffers[last] = buffer
    outlined.train(model.training)


def _holder(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last
