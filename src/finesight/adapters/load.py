"""An adapter from its folder, finesight's or any that `peft` wrote; what does not fit is an error that lists it."""

import difflib
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.save_and_load import set_peft_model_state_dict
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finesight.adapters.attach import NAME, Attached, inject
from finesight.adapters.save import CONFIG, PREFIX, WEIGHTS, file_tensors
from finesight.core.errors import ModelError

_SHOWN = 6
"""Names that an error lists of each kind."""

_FOREIGN = ("trainable_token_indices", "target_parameters", "layer_replication", "alora_invocation_tokens")
"""Settings of `peft` that change more than the layers that are attached here."""


_FORM = {"r": "rank", "lora_alpha": "alpha", "bias": "bias", "use_rslora": "rslora", "use_dora": "dora"}
"""Settings by which two adapters differ though all their names may be the same."""


def read_config(folder: Path) -> LoraConfig:
    """The configuration of an adapter folder; raises ModelError where it is none of LoRA."""
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("peft_type")
        if kind != "LORA":
            raise ModelError(
                f"the adapter is of the kind {kind}", str(folder / CONFIG), "give a LoRA adapter"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # `peft` leaves out settings that it does not know, with a warning
            config = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError, UserWarning) as error:
        raise ModelError(
            f"the adapter's configuration cannot be read: {(str(error) or repr(error)).splitlines()[0]}",
            str(folder / CONFIG),
            "give a folder that finesight or this version of `peft` saved",
        ) from error
    foreign = [key for key in _FOREIGN if getattr(config, key)]
    if foreign:
        raise ModelError(
            f"the adapter uses {', '.join(foreign)}, which is not supported",
            str(folder / CONFIG),
            "merge it with `peft`, and give the merged model",
        )
    return config


def attach_as(model: Any, config: LoraConfig, unused: Collection[str], where: str) -> Attached:
    """Attach an adapter of a known form to its base model, with random values; raises ModelError if it does not fit."""
    try:
        return inject(model, config, unused)
    except ValueError as error:
        raise ModelError(
            f"the adapter does not fit this base model: {str(error).splitlines()[0]}",
            where,
            "give the base model that it was made for",
        ) from error


def same_form(attached: Attached, folder: Path) -> None:
    """Raise ModelError where a recipe's adapter has other settings than the one in a folder that it continues."""
    before, now = read_config(folder).to_dict(), attached.config.to_dict()
    changed = [
        f"{name} {before[key]} became {now[key]}" for key, name in _FORM.items() if before[key] != now[key]
    ]
    if changed:
        raise ModelError(
            f"the recipe's adapter is not of the form of the one that it continues ({'; '.join(changed)})",
            str(folder),
            "give the same `adapter` section, or leave it out to begin with the merged weights",
        )


def load_values(attached: Attached, folder: Path) -> None:
    """Give an attached adapter the values in a folder.

    Raises ModelError that lists what is renamed, missing, extra or wrong-shaped; then nothing is changed.
    """
    _fill(attached, _read(folder), str(folder / WEIGHTS))


def _read(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the adapter's weights cannot be read: {str(error).splitlines()[0]}",
            str(folder / WEIGHTS),
            "give a folder with the file that was saved",
        ) from error


def _fill(attached: Attached, saved: Mapping[str, Tensor], where: str) -> None:
    """Copy the saved values in, once every name and shape fits."""
    own = file_tensors(attached)
    if saved.keys() != own.keys():
        # adapters of models whose modules have other names since `transformers` 5
        converted = convert_peft_adapter_state_dict_for_transformers(
            model=attached.model,
            peft_config=attached.config,
            adapter_state_dict=dict(saved),
            adapter_name=NAME,
        )
        named = {
            name if name.startswith(PREFIX) else PREFIX + name: value for name, value in converted.items()
        }
        saved = named if named.keys() == own.keys() else saved
    faults = _faults(own, saved)
    if faults:
        raise ModelError(
            f"the adapter's weights do not fit it: {'; '.join(faults)}",
            where,
            "give the file that was saved with this adapter_config.json, for this base model",
        )
    whole = {PREFIX + name for name in _whole(attached)}
    learned = {name.removeprefix(PREFIX): value for name, value in saved.items() if name not in whole}
    result = set_peft_model_state_dict(attached.model, learned, adapter_name=NAME)
    assert not result.unexpected_keys  # all of them were found above
    with torch.no_grad():
        for name in whole:
            own[name].copy_(saved[name])


def _whole(attached: Attached) -> set[str]:
    """Names of the values of the modules that learn whole."""
    return {
        f"{name}.{inner}"
        for name in attached.saved
        for inner in attached.model.get_submodule(name).state_dict()
    }


def _faults(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    missing, extra = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(saved[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(own.keys() & saved.keys())
        if own[name].shape != saved[name].shape
    ]
    renamed = []
    for name in list(missing):
        near = difflib.get_close_matches(name, extra, n=1, cutoff=0.9)
        if near and saved[near[0]].shape == own[name].shape:
            renamed.append(f"{near[0]} for {name}")
            missing.remove(name)
            extra.remove(near[0])
    kinds = (
        ("renamed", renamed),
        ("missing", missing),
        ("not in the model", extra),
        ("of another shape", shapes),
    )
    return [f"{kind}: {_listed(names)}" for kind, names in kinds if names]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
