"""Activations that are computed again in the backward pass, so that they need not be kept."""

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from finesight.core.errors import ModelError
from finesight.models.packing import recomputed
from finesight.models.parts import parts_by_name

_TOWERS = ("vision_tower", "audio_tower")


def checkpoint_activations(model: Any, packed: bool = True) -> None:
    """Keep only the inputs of each layer of a `transformers` model while it trains; raises ModelError where it cannot.

    Without re-entrant autograd: gradients then reach an adapter though the layer's input needs none. So embeddings need
    not pretend to learn, which `transformers` lets them do, and which breaks models that add to them in place (GIT).
    Of rows that are `packed` the boundaries are there again when their layers are. A tower that learns nothing keeps
    nothing anyway: its layers are left alone.
    """
    try:
        boundaries = {"context_fn": recomputed} if packed else {}  # which `torch.compile` knows no way with
        model.activation_checkpointing_enable({"use_reentrant": False, **boundaries})
        model.disable_input_require_grads()
    except ValueError as error:
        raise ModelError(
            f"a {type(model).__name__} cannot compute its activations again",
            "train.gradient_checkpointing",
            "take it out, or lower `train.micro_batch`",
        ) from error
    part_of = parts_by_name(model)
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            values = list(module.named_parameters(prefix=name))
            if all(part_of(own) in _TOWERS and not value.requires_grad for own, value in values):
                module.gradient_checkpointing = False
