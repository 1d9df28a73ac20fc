"""Merge an adapter into its base, in fp32, in place."""

from typing import Any

import torch

from finesight.adapters.attach import Attached
from finesight.core.errors import ModelError


def merge(attached: Attached) -> Any:
    """The plain model with the adapter's changes in its own weights; raises ModelError where that would lose numbers.

    What learned whole is there already. `attached` cannot be used afterwards.
    """
    low = sorted(
        {str(p.dtype).removeprefix("torch.") for p in attached.model.parameters() if p.dtype != torch.float32}
    )
    if low:
        raise ModelError(
            f"the base model is loaded in {', '.join(low)}, and a merge needs fp32",
            "the base model",
            "merge into the full-precision base: `finesight export RUN OUT --merge` does",
        )
    if any(parameter.device.type == "meta" for parameter in attached.model.parameters()):
        raise ModelError(
            "the base model is spread, and a merge needs all of it in memory",
            "the base model",
            "load it without `spread`",
        )
    try:
        model = attached.tuner.merge_and_unload(safe_merge=True)
    except ValueError as error:  # `safe_merge` refuses a change that is not finite
        raise ModelError(
            f"the adapter cannot be merged: {error}", "the adapter", "look at its weights"
        ) from error
    model.requires_grad_(True)
    return model
