"""Matrices in 4 or 8 bits, by `bitsandbytes`: of a frozen base model, or of a model that only answers."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from finesight.config.loading import Compute, Quantize
from finesight.core.errors import ModelError
from finesight.models.forward import output_embeddings
from finesight.models.parts import parts_by_name

_PART = "language_model"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def quantization(
    outline: Any, quantize: Quantize, compute: Compute = "fp32", saved: Sequence[str] = ()
) -> BitsAndBytesConfig:
    """How a model is loaded in few bits; `outline` is the same model without weights.

    The matrices of the language model are quantised (all, where a model has no such part), but not its embeddings and
    not what learns whole (`saved`). Raises ModelError where `bitsandbytes` is not installed.
    """
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise ModelError(
            f"`quantize: {quantize}` needs bitsandbytes, which is not installed",
            "quantize",
            "pip install 'finesight[quant]', or take `quantize` out",
        )
    part_of = parts_by_name(outline)
    parts = {name: part_of(f"{name}.weight") for name in _matrices(outline)}
    among = {_PART} if _PART in parts.values() else set(parts.values())
    head = output_embeddings(outline)
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


def held_in(model: nn.Module) -> str | None:
    """In which numbers of few bits matrices of a model are held, such as `nf4`; None where they are not."""
    kinds = {type(parameter).__name__: parameter for parameter in model.parameters()}
    if "Params4bit" in kinds:
        packed: Any = kinds["Params4bit"]
        return str(packed.quant_type)
    return "int8" if "Int8Params" in kinds else None


def _matrices(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
