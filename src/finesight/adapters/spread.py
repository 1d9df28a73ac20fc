"""An adapter on a base model whose weights are spread over devices and the disk."""

from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook, add_hook_to_module
from torch import nn

from finesight.adapters.attach import NAME, Attached, adapted_layers
from finesight.core.errors import ModelError

_NAMED = 4


def bring_in(attached: Attached, where: str) -> None:
    """Give the adapter's own matrices a place: beside the layers that they change, where those are computed.

    Their values are not set. Raises ModelError where what learned whole lies in a module that is not on a device.
    """
    for layer in adapted_layers(attached.model).values():
        device = _computing(layer.get_base_layer())
        if device is None:
            continue
        for kind in layer.adapter_layer_names:
            matrices = getattr(layer, kind)
            if NAME in matrices:
                _place(matrices, device)
        # inputs may come from another device; those of the base layer alone would be moved
        add_hook_to_module(layer, AlignDevicesHook(execution_device=device))
    away = [n for n, p in attached.model.named_parameters() if p.requires_grad and p.device.type == "meta"]
    if away:
        shown = ", ".join(away[:_NAMED]) + (", …" if len(away) > _NAMED else "")
        raise ModelError(
            f"the adapter brings whole tensors for modules that do not fit on a device: {shown}",
            where,
            "give the devices more by `max_memory`, load the base in nf4, or merge the adapter by "
            "`finesight export … --merge` and spread that",
        )


def _computing(layer: nn.Module) -> torch.device | None:
    """Where `accelerate` computes a layer; None where it has no place of its own."""
    hook: Any = vars(layer).get("_hf_hook")
    hooks = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    found = [each.execution_device for each in hooks if isinstance(each, AlignDevicesHook)]
    return None if not found or found[0] is None else torch.device(found[0])


def _place(matrices: Any, device: torch.device) -> None:
    if isinstance(matrices, nn.ParameterDict):
        old = matrices[NAME]
        if old.device.type == "meta":
            empty = torch.empty(old.shape, device=device)
            matrices[NAME] = nn.Parameter(empty, requires_grad=old.requires_grad)
    elif any(value.device.type == "meta" for value in matrices[NAME].parameters()):
        matrices[NAME].to_empty(device=device)
