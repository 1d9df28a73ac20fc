"""Numbers of the forward pass. Weights, gradients and the optimizer's state stay in fp32."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from finesight.runtime.notices import Notices

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """How a forward pass computes on one device; `name` is `fp32`, `bf16` or `fp16`."""

    name: Literal["fp32", "bf16", "fp16"]
    device: str

    def autocast(self) -> AbstractContextManager[object]:
        """Context of a forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device, dtype=_DTYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small fp16 gradients from vanishing; does nothing for the others."""
        return torch.amp.GradScaler(self.device, enabled=self.name == "fp16")


def choose_precision(
    asked: Literal["auto", "fp32", "bf16", "fp16"], device: str, notices: Notices
) -> Precision:
    """What the recipe asks for, or what the device can do of it: a fallback is a notice."""
    able = _bf16_works(device)
    if asked == "auto":
        return Precision("bf16" if able and device == "cuda" else "fp32", device)
    if asked == "bf16" and not able:
        notices.add("fallback", f"this {device} device does not compute in bf16: fp32 is used")
        return Precision("fp32", device)
    if asked == "fp16" and device == "cpu":
        notices.add("fallback", "fp16 is not for CPUs: bf16 is used")
        return Precision("bf16", device)
    return Precision(asked, device)


def _bf16_works(device: str) -> bool:
    return torch.cuda.is_bf16_supported() if device == "cuda" else True
