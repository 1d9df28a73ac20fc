"""Copies of tensors that stay what they are while the training goes on."""

import torch
from torch import Tensor


def copied(value: Tensor) -> Tensor:
    """The values of a tensor as they are now, on the CPU, in memory of their own: an optimizer updates in place.

    From an NVIDIA GPU they go to pinned memory, and are there after `wait_for_copies`.
    """
    value = value.detach()
    if value.device.type == "cuda":
        room = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return room.copy_(value, non_blocking=True)
    return value.clone(memory_format=torch.contiguous_format) if value.device.type == "cpu" else value.cpu()


def wait_for_copies() -> None:
    """Return once all copies from a GPU are there."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
