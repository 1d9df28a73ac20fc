"""Weights and optimizer state as named tensors, and back; exact to the bit.

Where a model is in slices, all processes call these together; each gets (but where `sliced` is asked for), and gives,
whole tensors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from finesight.core.errors import RunError
from finesight.training.copies import copied
from finesight.training.sharded import like, whole_tensor
from finesight.training.slices import Room


def model_tensors(
    module: nn.Module, learned: bool = False, sliced: bool = False, copy: bool = False
) -> dict[str, Tensor]:
    """Parameters (a tied one once) and saved buffers by name, detached, on the CPU.

    With `learned`, the parameters that learn alone: the others are those of a base model that is saved elsewhere.
    `sliced` ones are as they are, where they are. A `copy` stays as it is while the module learns on; it is there after
    `copies.wait_for_copies`.
    """
    return {name: _given(value, sliced, copy) for name, value in owned(module, learned).items()}


def _given(value: Tensor, sliced: bool, copy: bool) -> Tensor:
    if sliced:
        return value.detach()
    whole = whole_tensor(value.detach())
    return copied(whole) if copy else whole.cpu()


def restore_model(
    module: nn.Module, tensors: Mapping[str, Tensor], where: str, learned: bool = False
) -> None:
    """Copy saved values into a module; raises RunError where names or shapes differ. `learned` as they were saved."""
    own = owned(module, learned)
    _same_names(own, tensors, where)
    with torch.no_grad():
        for name, value in tensors.items():
            if own[name].shape != value.shape:
                raise RunError(
                    f"`{name}` has the shape {tuple(value.shape)}, the model's is {tuple(own[name].shape)}",
                    where,
                    "use the recipe that this was saved with",
                )
            own[name].copy_(like(value, own[name]))


def owned(module: nn.Module, learned: bool) -> dict[str, Tensor]:
    """What a checkpoint holds of a model, as it is in the model; with `learned`, what learns alone."""
    if learned:
        return {name: value for name, value in module.named_parameters() if value.requires_grad}
    persistent = module.state_dict(keep_vars=True)
    buffers = {name: value for name, value in module.named_buffers() if name in persistent}
    return {**dict(module.named_parameters()), **buffers}


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, sliced: bool = False, copy: bool = False
) -> dict[str, Tensor]:
    """State of each parameter as `<parameter name>/<state name>`; groups carry their parameters' `names`. `sliced` and
    `copy` as in `model_tensors`."""
    flat: dict[str, Tensor] = {}
    kept = set[int]()
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                # bitsandbytes counts its steps in a whole number
                tensor = torch.tensor(value) if isinstance(value, int) else _given(value, sliced, copy)
                # its tables of levels are the same tensors for all parameters, which a file cannot hold
                flat[f"{name}/{key}"] = tensor.clone() if id(value) in kept and not copy else tensor
                kept.add(id(value))
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put saved state back; raises RunError where a parameter's state is unknown."""
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    for key, value in tensors.items():
        name, _, state = key.rpartition("/")
        if name not in parameters:
            raise RunError(
                f"the saved optimizer knows `{name}`, which does not learn here", where, "use the same recipe"
            )
        # AdamW's step counter stays on the CPU unless the optimizer is fused on the parameter's device
        parameter = parameters[name]
        moved = value.to(parameter.device).clone()
        counts = value.ndim == 0 and value.dtype == torch.int64
        kept = like(moved, parameter) if value.ndim else int(value) if counts else moved
        optimizer.state[parameter][state] = kept


def _same_names(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: str) -> None:
    missing, extra = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    if missing or extra:
        told = (
            f"missing: {', '.join(missing[:5]) or 'none'}; not in the model: {', '.join(extra[:5]) or 'none'}"
        )
        raise RunError(
            f"the saved weights do not fit the model ({told})",
            where,
            "use the recipe that they were saved with",
        )


def room_of(module: nn.Module, optimizer: torch.optim.Optimizer, learned: bool) -> Room:
    """Where a sliced model and its optimizer want what is read from slices: cut as their own are."""
    own = owned(module, learned)
    learns = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }

    def room(group: str, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        like_it = own.get(name) if group == "model" else learns.get(name.rpartition("/")[0])
        if like_it is None or like_it.shape != shape:  # a counter; or what does not fit, as is told then
            return torch.empty(shape, dtype=dtype)
        return torch.empty_like(like_it.detach(), dtype=dtype)

    return room
