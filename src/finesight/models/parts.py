"""The named parts of a model: what can be frozen and counted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from finesight.config.model import PartName
from finesight.core.errors import ModelError

PREFIXES: dict[PartName, tuple[str, ...]] = {
    "vision_tower": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "language_model": ("model.language_model.", "lm_head."),
}
"""Beginnings of the parameter names of each part, in the LLaVA architecture."""

_AFTER_LAYERS = re.compile(r"^model\.vision_tower\.(?:.*\.)?(?:post_layernorm|head)\.")
"""What a vision tower does after its layers: LLaVA reads a layer's output, taken before it."""

_LAYER = re.compile(r"^model\.vision_tower\.(?:.*\.)?layers\.(\d+)\.")


@dataclass(frozen=True)
class PartCount:
    """Number of values in a part, and how many of them learn."""

    total: int
    trainable: int


def part_of(name: str) -> PartName:
    """The part that a parameter belongs to."""
    for part, prefixes in PREFIXES.items():
        if name.startswith(prefixes):
            return part
    raise ModelError(f"the parameter `{name}` belongs to no known part", "the model", "use a LLaVA model")


def _unused(model: Any) -> set[str]:
    """Names of the parameters that no output depends on: those behind the vision layer that LLaVA reads."""
    chosen, layers = (
        model.config.vision_feature_layer,
        model.config.vision_config.to_dict().get("num_hidden_layers"),
    )
    if layers is None:  # no transformer: its layers are not numbered
        return set()
    # hidden_states[k] is the output of k layers, from 0 to `layers`
    read = [index % (layers + 1) for index in ([chosen] if isinstance(chosen, int) else chosen)]
    names = set()
    for name, _ in model.named_parameters():
        layer = _LAYER.match(name)
        if _AFTER_LAYERS.match(name) or (layer and int(layer[1]) >= max(read)):
            names.add(name)
    return names


def freeze(model: nn.Module, parts: Sequence[PartName]) -> list[str]:
    """Freeze the parts, and what no output depends on; returns names of the latter."""
    unused = _unused(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in parts and name not in unused)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "every part is frozen, so nothing can learn", "model.freeze", "leave one part out of the list"
        )
    return sorted(unused)


def count(model: nn.Module) -> dict[str, PartCount]:
    """Values and learning values of each part; a tied matrix counts once."""
    counts: dict[str, PartCount] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        so_far = counts.get(part, PartCount(0, 0))
        learning = parameter.numel() if parameter.requires_grad else 0
        counts[part] = PartCount(so_far.total + parameter.numel(), so_far.trainable + learning)
    return counts
