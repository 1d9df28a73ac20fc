"""An adapter's files, as `peft` reads them: `adapter_config.json` and `adapter_model.safetensors`."""

from copy import deepcopy
from pathlib import Path

from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from finesight.adapters.attach import NAME, Attached
from finesight.adapters.base import Base, write_record

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
"""How `peft` begins each name in its files."""


def file_tensors(attached: Attached) -> dict[str, Tensor]:
    """All that the adapter's file holds, by its names there; values are the model's own, not copied."""
    inner = attached.model.peft_config[NAME]
    whole = attached.model.state_dict(keep_vars=True)
    found: dict[str, Tensor] = dict(
        get_peft_model_state_dict(attached.model, whole, adapter_name=NAME, save_embedding_layers=False)
    )
    assert inner.modules_to_save is None  # they are found here, not by `peft`
    for name in attached.saved:
        for inner_name, value in attached.model.get_submodule(name).state_dict(keep_vars=True).items():
            found[f"{name}.{inner_name}"] = value
    kept = {id(value) for value in found.values()}
    lost = [n for n, p in attached.model.named_parameters() if p.requires_grad and id(p) not in kept]
    assert not lost, f"these learn and would not be saved: {lost}"
    return {PREFIX + name: value for name, value in found.items()}


def write_adapter(folder: Path, attached: Attached, base: Base, weights: bool = True) -> None:
    """Write the adapter's configuration, the record of its base and, unless it is told not to, its weights."""
    config = deepcopy(attached.config)
    config.base_model_name_or_path, config.revision = base.place, base.revision
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))
    write_record(folder, base)
    if weights:
        tensors = {
            name: value.detach().cpu().contiguous().clone() for name, value in file_tensors(attached).items()
        }
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
