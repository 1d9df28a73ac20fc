"""The named parts of a model: what can be frozen, wrapped and counted."""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, get_args

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


def freeze(model: nn.Module, words: Sequence[str]) -> list[str]:
    """Freeze what the words mean, as `meant_by` says, and what no output depends on; returns names of the latter.

    Raises ModelError as `meant_by`, and where nothing is left to learn.
    """
    unused = _unused(model)
    frozen = unused.union(*meant_by(model, words).values())
    for name, parameter in model.named_parameters():
        if name in frozen:  # a table of sines, which never learns, stays as it is
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "every part is frozen, so nothing can learn", "model.freeze", "leave one part out of the list"
        )
    return sorted(unused)


def meant_by(model: nn.Module, words: Sequence[str]) -> dict[str, list[str]]:
    """Names of the parameters that each word of `model.freeze` means and no word before it: those of a part, or those
    that a pattern matches, in which `*` stands for anything. Names are as they were before an adapter.

    Raises ModelError for a word that means nothing, or nothing that the words before it do not mean.
    """
    kind = _type_of(model)
    names = {name: own_name(name) for name, _ in model.named_parameters() if not _ADDED.search(name)}
    there = {part_of(name, kind) for name in names}
    absent = [word for word in words if word in get_args(PartName) and word not in there]
    if absent:
        have = ", ".join(sorted(there))
        raise ModelError(
            f"this model has no {', no '.join(absent)}", "model.freeze", f"its parts are: {have}"
        )
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for word in words:
        meant = [name for name, own in names.items() if part_of(name, kind) == word or fnmatchcase(own, word)]
        fresh = [name for name in meant if name not in taken]
        if not fresh:
            raise _means_nothing(word, bool(meant), sorted(there), list(names.values()))
        found[word] = fresh
        taken.update(fresh)
    return found


def _means_nothing(word: str, taken: bool, parts: Sequence[str], names: Sequence[str]) -> ModelError:
    if taken:
        told = f"all that `{word}` means is frozen already, by a word before it"
        return ModelError(told, "model.freeze", "take it out, or one that means less")
    said = max(re.split(r"[.*]+", word), key=len)
    meant = get_close_matches(said, {piece for name in names for piece in name.split(".")}, n=1)
    near = [name for name in names if meant and meant[0] in name.split(".")][:2] or names[:2]
    return ModelError(
        f"`{word}` is no part of this model, and matches none of its parameters",
        "model.freeze",
        f"its parts are {', '.join(parts)}; its parameters have names such as {', '.join(near)}, "
        "and `*` stands for anything",
    )


def frozen_lines(model: nn.Module, words: Sequence[str]) -> list[str]:
    """What each word has frozen, in words and numbers."""
    values = {name: values_of(parameter) for name, parameter in model.named_parameters()}
    lines = []
    for word, names in meant_by(model, words).items():
        part = word in get_args(PartName)
        what = f"the {word.replace('_', ' ')} does not learn" if part else f"`{word}` does not learn"
        many = f"{len(names):,} tensor{'s' if len(names) > 1 else ''}"
        lines.append(f"{what}: {sum(map(values.__getitem__, names)):,} values in {many}")
    return lines


def check_frozen(model: nn.Module, words: Sequence[str]) -> None:
    """Raise ModelError where a word of `model.freeze` means nothing in a model with an adapter, or what learns whole.

    Layers of a frozen part may be adapted: their own weights stay as they are.
    """
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    for word, names in meant_by(model, words).items():
        whole = [own_name(name) for name in names if name in learning]
        if whole:
            raise ModelError(
                f"`{word}` does not learn by `model.freeze`, and {', '.join(whole[:4])} learns whole by the adapter",
                "model.freeze",
                "take it out of `model.freeze`, or out of `adapter.save` (and `adapter.bias`)",
            )


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
