"""What a frozen vision encoder sees, kept: features by the hash of a picture's pixels.

P pictures, C channels, H height, W width, S positions, D the encoder's width.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from xxhash import xxh3_128, xxh3_128_digest

from finesight.models.compose.modeling_finesight import FinesightLlavaModel


def picture_keys(pixels: Tensor) -> list[bytes]:
    """A hash of each picture of (P, C, H, W), as the encoder gets it."""
    rows = pixels.detach().float().cpu().contiguous().numpy()
    return [xxh3_128_digest(row.data) for row in rows]


@torch.no_grad()
def encoder_key(model: Any) -> str:
    """A hash of all that decides what the encoder makes of pixels: its weights, its sizes and what is read from it."""
    digest = xxh3_128()
    for name, value in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    said = model.config.to_dict()
    read = {name: said[name] for name in said if name.startswith("vision_")}
    told = json.dumps([digest.hexdigest(), read, torch.__version__], sort_keys=True, default=str)
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def is_frozen(model: Any) -> bool:
    """Whether no value of the encoder learns."""
    return not any(value.requires_grad for value in model.model.vision_tower.parameters())


@torch.no_grad()
def encode(model: Any, pixels: Tensor) -> Tensor:
    """Features (P, S, D) of pictures (P, C, H, W), as the projector takes them; the encoder drops nothing."""
    inner = model.model
    tower, learning = inner.vision_tower, inner.vision_tower.training
    tower.eval()
    try:
        if isinstance(inner, FinesightLlavaModel):
            return inner.encoded(pixels)
        states = tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
    finally:
        tower.train(learning)
    layer, first = model.config.vision_feature_layer, model.config.vision_feature_select_strategy == "default"
    layers = [layer] if isinstance(layer, int) else layer
    chosen: Tensor = torch.cat([states[number][:, int(first) :] for number in layers], dim=-1)
    return chosen


def use_features(model: Any, known: Mapping[bytes, np.ndarray]) -> Callable[[], None]:
    """Let a model look its pictures up in `known` before it encodes them; returns what ends that.

    Pictures that are not there are encoded. Once a value of the encoder learns, all are.
    """
    inner = model.model
    own = inner.get_image_features

    def looked_up(pixel_values: Tensor, **more: Any) -> Any:
        if not is_frozen(model):
            return own(pixel_values=pixel_values, **more)
        features = _features(model, pixel_values, known)
        tokens = inner.multi_modal_projector(features)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=list(tokens))

    inner.get_image_features = looked_up  # of this one object; what is saved has nothing of it

    def end() -> None:
        del inner.get_image_features

    return end


def _features(model: Any, pixels: Tensor, known: Mapping[bytes, np.ndarray]) -> Tensor:
    """(P, S, D) of pictures (P, C, H, W), on their device."""
    found = [known.get(key) for key in picture_keys(pixels)]
    missing = [row for row, value in enumerate(found) if value is None]
    made = encode(model, pixels[missing]).float() if missing else None
    there = [value for value in found if value is not None]
    if not there:
        assert made is not None
        return made
    read = torch.from_numpy(np.stack(there)).to(pixels.device)
    if made is None:
        return read
    whole = read.new_empty(len(found), *read.shape[1:])
    whole[missing] = made
    whole[[row for row, value in enumerate(found) if value is not None]] = read
    return whole
