"""Frozen matrices in 4 or 8 bits, by `bitsandbytes`."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from finesight.adapters.base import Compute, Quantize
from finesight.adapters.targets import DEFAULT_PART, PartOf
from finesight.core.errors import ModelError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def quantization(
    outline: Any, quantize: Quantize, compute: Compute, saved: Sequence[str], part_of: PartOf
) -> BitsAndBytesConfig:
    """How a model is loaded in few bits; `outline` is the same model without weights.

    The matrices of the language model are quantised (all, where a model has no such part), but not its embeddings and
    not what learns whole (`saved`). Raises ModelError where `bitsandbytes` is not installed.
    """
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise ModelError(
            f"`quantize: {quantize}` needs bitsandbytes, which is not installed",
            "adapter.quantize",
            "pip install 'finesight[quant]', or take `quantize` out",
        )
    parts = {name: part_of(f"{name}.weight") for name in _matrices(outline)}
    among = {DEFAULT_PART} if DEFAULT_PART in parts.values() else set(parts.values())
    head = outline.get_output_embeddings()
    kept = [
        name
        for name, part in parts.items()
        if part not in among
        or outline.get_submodule(name) is head
        or any(name == other or name.startswith(f"{other}.") for other in saved)
    ]
    # at every product it would say that inputs are rounded to fp16; docs/adapters.md says so once
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_DTYPES[compute],
        llm_int8_skip_modules=kept,
    )


def keep_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit matrices for its own CPU kernel at the first evaluation.

    It does so on CPUs that multiply bf16, and the kernel has no gradient: training afterwards, nothing would reach the
    layers below, and nobody would say so.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _matrices(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
