"""Attach an adapter to a model, in place: its forward pass, hooks and generation stay a plain `transformers` model's.

Adapted layers are replaced by `peft`'s, around the old ones. What learns whole (`adapter.save`) learns where it is; it
is written as `peft` writes its `modules_to_save`, so that `peft` loads it.
"""

import warnings
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import EMBEDDING_LAYER_NAMES
from torch import nn

from finesight.adapters.targets import PartOf, find_saved, find_targets, tied_with
from finesight.config.adapter import Adapter
from finesight.core.errors import ModelError

NAME = "default"
"""The adapter's name inside a model, `peft`'s own default; it is in no file."""


@dataclass(frozen=True)
class Attached:
    """An adapter and the plain `model` that it sits in.

    `config` is what `adapter_config.json` holds; `targets` are the adapted layers, `saved` what learns whole.
    """

    model: Any
    tuner: LoraModel
    config: LoraConfig
    targets: tuple[str, ...]
    saved: tuple[str, ...]


def attach(model: Any, settings: Adapter, unused: Collection[str], part_of: PartOf, seed: int) -> Attached:
    """A new adapter as a recipe says, with random values that depend on `seed` alone; nothing else of the model learns.

    `unused` are names of parameters that no output depends on. Raises ModelError where targets cannot be found.
    """
    saved = find_saved(model, settings.save, part_of)
    targets = find_targets(model, settings.targets, saved, unused, part_of)
    whole = [*saved, *tied_with(model, saved)]
    tied = any(tied_with(model, [name]) for name in saved)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        target_modules=targets,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        modules_to_save=whole or None,
        ensure_weight_tying=tied and _known_embeddings(whole),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attached = inject(model, config, unused)
    for key, found, wanted in (("targets", attached.targets, targets), ("save", attached.saved, whole)):
        wrong = sorted(set(found) ^ set(wanted))
        if wrong:
            told = f"`peft` finds modules by the ends of their names, and would take {', '.join(wrong[:8])} as well"
            raise ModelError(
                told, f"adapter.{key}", "name other modules, or let these be adapted or learn whole, too"
            )
    return attached


def inject(model: Any, config: LoraConfig, unused: Collection[str]) -> Attached:
    """Put the layers of `config` around those of the model, and let nothing but the adapter learn.

    Raises ValueError where `peft` finds no layer.
    """
    inner = deepcopy(config)  # `peft` writes into it
    inner.modules_to_save, inner.ensure_weight_tying, inner.inference_mode = None, False, False
    whole = config.modules_to_save or ()
    saved = tuple(
        name for name, _ in model.named_modules() if name and any(_saves(word, name) for word in whole)
    )
    with warnings.catch_warnings():
        # of GPT-2's matrices, which lie the other way round: `peft` finds that out for each
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        tuner = LoraModel(model, inner, NAME)
    targets = tuple(name for name, module in model.named_modules() if isinstance(module, LoraLayer))
    for name in saved:
        for parameter in model.get_submodule(name).parameters():
            if not parameter.is_floating_point():
                raise ModelError(
                    f"`{name}` is quantised and cannot learn", "adapter.save", "do not quantise it"
                )
            parameter.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
        elif parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()  # what learns does so in fp32
    return Attached(model, tuner, deepcopy(config), targets, saved)


def adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers that an adapter has changed, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _saves(word: str, name: str) -> bool:
    """Whether `peft` means the module `name` by `word` of its `modules_to_save`."""
    return name.endswith(word)


def _known_embeddings(names: Sequence[str]) -> bool:
    """Whether `peft` knows by its name that a module is an embedding, so that it can tie it itself."""
    return any(name.rpartition(".")[2] in EMBEDDING_LAYER_NAMES for name in names)
