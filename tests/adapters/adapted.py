"""A tiny base model, and adapters on it, that the suites of adapters share."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_runs import tiny_mapping

from finesight.adapters.attach import Attached, attach
from finesight.config.adapter import Adapter
from finesight.config.load import parse_recipe
from finesight.config.recipe import Recipe
from finesight.models.load import LoadedModel, load_model
from finesight.models.parts import freeze, parts_by_name


def attached_to(place: Path, seed: int = 3, **settings: Any) -> tuple[LoadedModel, Attached]:
    """A model with a new adapter."""
    loaded = load_model(str(place))
    unused = freeze(loaded.model, ())
    return loaded, attach(loaded.model, Adapter(**settings), unused, parts_by_name(loaded.model), seed)


def as_if_trained(attached: Attached, seed: int = 11, size: float = 0.05) -> None:
    """Put noise on all that learns, so that no matrix B is zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attached.model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=draw))


def inputs(loaded: LoadedModel, rows: int = 3, seed: int = 5) -> dict[str, torch.Tensor]:
    """Made-up token ids with a picture in each row, and its pixels."""
    image = loaded.ports.image
    assert image is not None
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(10, len(loaded.ports.tokenizer), (rows, 9), generator=draw)
    pictures = torch.full((rows, image.tokens_per_image), image.placeholder_id)
    pixels = torch.rand(rows, 3, image.height, image.width, generator=draw)
    ids = torch.cat([pictures, words], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def logits(model: Any, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**given).logits
    return found


def adapter_recipe(
    data: Path,
    folder: Path,
    base: Path,
    adapter: Mapping[str, Any] | None,
    freeze: Sequence[str] = (),
    **sections: Any,
) -> Recipe:
    """A tiny recipe that trains an adapter on a base; without transforms and evaluations in between."""
    return parse_recipe(adapter_mapping(data, folder, base, adapter, freeze, **sections))


def adapter_mapping(
    data: Path,
    folder: Path,
    base: Path,
    adapter: Mapping[str, Any] | None,
    freeze: Sequence[str] = (),
    **sections: Any,
) -> dict[str, Any]:
    mapping = tiny_mapping(data, folder, **sections)
    mapping["model"] = {"pretrained": str(base), "freeze": list(freeze)}
    if adapter is not None:
        mapping["adapter"] = dict(adapter)
    return mapping


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))
