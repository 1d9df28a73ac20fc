"""The named parts of a model: what can be frozen, wrapped and counted."""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from finesight.config.model import PartName
from finesight.core.errors import ModelError

_WORDS: tuple[tuple[PartName, frozenset[str]], ...] = (
    ("audio_projector", frozenset({"audio_projector"})),
    (
        "projector",
        frozenset(
            "multi_modal_projector mm_projector connector merger deepstack_merger_list visual_merger qformer "
            "query_tokens language_projection visual_projection vision_projection modality_projection aligner "
            "embed_vision image_newline enc_to_dec_proj projector mlp_AR perceiver resampler".split()
        ),
    ),
    (
        "vision_tower",
        frozenset(
            "vision_tower vision_model visual vision_encoder image_encoder image_tower vision_backbone vision "
            "img_temporal_embedding".split()
        ),
    ),
    ("audio_tower", frozenset("audio_tower audio_encoder audio_model speech_encoder".split())),
)
"""Words in parameter names by which `transformers` names the parts; the first that is found counts."""

_ENCODERS: dict[str, tuple[str, PartName]] = {
    "vision-encoder-decoder": ("encoder.", "vision_tower"),
    "whisper": ("model.encoder.", "audio_tower"),
    "speech-encoder-decoder": ("encoder.", "audio_tower"),
}
"""Families whose pictures or sounds are read by what is just called encoder."""

_AFTER_LAYERS = re.compile(r"^model\.vision_tower\.(?:.*\.)?(?:post_layernorm|head)\.")
"""What a vision tower does after its layers: LLaVA reads a layer's output, taken before it."""

_LAYER = re.compile(r"^model\.vision_tower\.(?:.*\.)?layers\.(\d+)\.")

_EAR_LAYER = re.compile(r"^model\.audio_tower\.layers\.(\d+)\.")


_WRAPPED = re.compile(r"^base_model\.model\.|\.(?:base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)")
_ADDED = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)\.[^.]+(?:\.weight|\.bias)?$")
"""What `peft` puts into the names of a model that has an adapter."""


@dataclass(frozen=True)
class PartCount:
    """Number of values in a part, and how many of them learn."""

    total: int
    trainable: int


def own_name(name: str) -> str:
    """A parameter's name without an adapter: `q_proj.base_layer.weight` and `q_proj.lora_A.default.weight` are
    `q_proj.weight`."""
    return _ADDED.sub(".weight", _WRAPPED.sub("", name))


def part_of(name: str, model_type: str = "") -> PartName:
    """The part that a parameter belongs to, by its name; an adapter's to that of the layer that it changes.

    What belongs to no other part is the language model's.
    """
    begins, part = _ENCODERS.get(model_type, ("", "language_model"))
    name = own_name(name)
    if begins and name.startswith(begins):
        return part
    words = set(name.split("."))
    return next((part for part, known in _WORDS if words & known), "language_model")


def parts_by_name(model: Any) -> Callable[[str], PartName]:
    """`part_of` for the names of this model."""
    return partial(part_of, model_type=_type_of(model))


def _type_of(model: Any) -> str:
    return str(model.config.model_type)


def _unused(model: Any) -> set[str]:
    """Names of the parameters that no output depends on: those behind the layers of the encoders that are read."""
    if _type_of(model) not in ("llava", "finesight_llava"):
        return set()
    return _behind_eyes(model) | (_behind_ears(model) if _type_of(model) == "finesight_llava" else set())


def _behind_ears(model: Any) -> set[str]:
    """Those behind the layer of the encoder of sounds: the last state is taken after its norm, the others before."""
    config = model.config
    if config.audio_config is None or config.audio_layer == -1:
        return set()
    read = config.audio_layer % (config.audio_config.encoder_layers + 1)
    names = (name for name, _ in model.named_parameters() if name.startswith("model.audio_tower."))
    layers = {name: _EAR_LAYER.match(name) for name in names}
    return {
        name
        for name, layer in layers.items()
        if (layer and int(layer[1]) >= read) or name.startswith("model.audio_tower.layer_norm.")
    }


def _behind_eyes(model: Any) -> set[str]:
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
    """Freeze the parts, and what no output depends on; returns names of the latter.

    Raises ModelError for a part that the model does not have, and where nothing is left to learn.
    """
    unused, kind = _unused(model), _type_of(model)
    there = {part_of(name, kind) for name, _ in model.named_parameters()}
    absent = [part for part in parts if part not in there]
    if absent:
        have = ", ".join(sorted(there))
        raise ModelError(
            f"this model has no {', no '.join(absent)}", "model.freeze", f"its parts are: {have}"
        )
    for name, parameter in model.named_parameters():
        if (
            part_of(name, kind) in parts or name in unused
        ):  # a table of sines, which never learns, stays as it is
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "every part is frozen, so nothing can learn", "model.freeze", "leave one part out of the list"
        )
    return sorted(unused)


def keep_fixed(model: Any) -> None:
    """Let nothing learn that the model's own class holds fixed, such as Whisper's table of sines.

    `transformers` forgets it while it loads weights.
    """
    with torch.device("meta"):
        outline = type(model)(copy.deepcopy(model.config))
    fixed = {name for name, parameter in outline.named_parameters() if not parameter.requires_grad}
    for name, parameter in model.named_parameters():
        if name in fixed:
            parameter.requires_grad_(False)


def count(model: nn.Module) -> dict[str, PartCount]:
    """Values and learning values of each part; a tied matrix counts once."""
    counts: dict[str, PartCount] = {}
    kind = _type_of(model)
    for name, parameter in model.named_parameters():
        part = part_of(name, kind)
        so_far = counts.get(part, PartCount(0, 0))
        learning = parameter.numel() if parameter.requires_grad else 0
        counts[part] = PartCount(so_far.total + values_of(parameter), so_far.trainable + learning)
    return counts


def size_lines(model: nn.Module) -> list[str]:
    """What learns of the whole and of each part, such as `trainable 614,400 of 470,347,324 (0.13 %)`."""
    parts = count(model)
    whole = PartCount(sum(p.total for p in parts.values()), sum(p.trainable for p in parts.values()))
    return [
        f"{name.replace('_', ' ')}: trainable {part.trainable:,} of {part.total:,} "
        f"({100 * part.trainable / part.total:.2f} %)"
        for name, part in {"model": whole, **parts}.items()
    ]


def values_of(parameter: nn.Parameter) -> int:
    """Number of values; `bitsandbytes` packs two of four bits into a byte, and several bytes into wider numbers."""
    packed = type(parameter).__name__ == "Params4bit"
    return parameter.numel() * (2 * parameter.element_size() if packed else 1)
