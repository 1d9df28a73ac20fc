"""Attention over segments by the flash kernel that torch has for rows of unlike lengths, on NVIDIA GPUs.

T tokens in all segments, Q query heads, K key heads, D size of a head.
"""

import inspect
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Route = Literal["varlen", "segments"]
"""`varlen`: one kernel for all segments; `segments`: scaled dot-product attention of one after another."""

_MOST_HEAD = 256
"""Largest size of a head that the flash kernels know."""


def can_varlen(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel takes these tensors: in half precision, on a GPU of compute capability 8.0 or above."""
    return (
        route_of(query.device, query.dtype) == "varlen"
        and query.shape[-1] == value.shape[-1] <= _MOST_HEAD
        and query.shape[-1] % 8 == 0
    )


def autocast(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the numbers that a matrix product computes in here. Rotated queries are fp32 under autocast, which
    turns what goes into torch's own attention to half precision, and does not know this kernel."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors]


def route_of(device: torch.device, dtype: torch.dtype) -> Route:
    """How attention over segments is computed on this device, in numbers of this type."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "segments"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return "segments"
    return "varlen" if _kernel_known() else "segments"


@cache
def _kernel_known() -> bool:
    """Whether this torch has the kernel with windows and grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[int, ...],
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Causal attention (1, T, Q, D) of query (1, Q, T, D) over key and value (1, K, T, D) within `bounds`; each token
    sees the newest `window` tokens, itself among them."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor(bounds, dtype=torch.int32, device=query.device)
    rows, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    found = varlen_attn(
        rows,
        keys,
        values,
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        # the kernel's window counts the tokens before this one; (-1, 0) is how it is told "causal"
        window_size=(-1, 0) if window is None else (window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)
    return found[None]
