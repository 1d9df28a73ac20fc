"""Activations that are computed again in the backward pass, so that they need not be kept."""

from typing import Any

from finesight.core.errors import ModelError
from finesight.models.packing import recomputed


def checkpoint_activations(model: Any) -> None:
    """Keep only the inputs of each layer of a `transformers` model while it trains; raises ModelError where it cannot.

    Without re-entrant autograd: gradients then reach an adapter though the layer's input needs none. So embeddings need
    not pretend to learn, which `transformers` lets them do, and which breaks models that add to them in place (GIT).
    A packed row's boundaries are there again when its layers are.
    """
    try:
        model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": recomputed})
        model.disable_input_require_grads()
    except ValueError as error:
        raise ModelError(
            f"a {type(model).__name__} cannot compute its activations again",
            "train.gradient_checkpointing",
            "take it out, or lower `train.micro_batch`",
        ) from error
