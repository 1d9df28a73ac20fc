"""The vision encoder of a composed model: what it is, what comes out of it, and its weights.

S positions of the encoder, D its width.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText

from finesight.config.compose import VisionPart
from finesight.core.errors import ModelError
from finesight.models.compose.bodies import BODIES, find_body
from finesight.models.compose.efficientnet import MEAN, STD, load_efficientnet
from finesight.models.compose.modeling_finesight import (
    FinesightEfficientNetLite,
    FinesightEfficientNetLiteConfig,
)
from finesight.models.compose.sources import (
    COMPOSED,
    READ_ERRORS,
    config_at,
    config_from,
    reading_weights,
    said,
    whole,
)

_WHERE = "model.compose.vision"
_BICUBIC = 3
"""Pillow's number of the filter that pictures are resized with where nothing is said of it."""


@dataclass(frozen=True)
class Encoder:
    """A vision encoder before its weights are read.

    `size` is the side of its pictures in pixels, `mean`, `std` and `resample` (Pillow's number) how they are prepared.
    The chosen layer has S = `prefix` + `grid`² positions of the width D; `known` says whether LLaVA can read them.
    """

    part: VisionPart
    config: Any
    weights: str | None
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int
    width: int
    prefix: int
    grid: int
    known: bool

    def load(self) -> nn.Module:
        """The encoder with its weights in fp32; random ones where it comes from a `config`."""
        if self.weights is None:
            return _built(self.config)
        if isinstance(self.config, FinesightEfficientNetLiteConfig) and self.weights.endswith(".pth"):
            return load_efficientnet(Path(self.weights), self.config)
        return _loaded(self.weights, self.config)


def open_encoder(part: VisionPart) -> Encoder:
    """Read what an encoder is; raises ModelError where none is there, or where it cannot be read as asked."""
    weights = part.pretrained
    mean: tuple[float, ...] = (0.5,) * 3
    std, resample = mean, _BICUBIC
    if part.config is not None:
        config = config_from(part.config, f"{_WHERE}.config")
    elif weights in BODIES or str(weights).endswith(".pth"):
        weights = str(find_body(str(weights)) if weights in BODIES else weights)
        if not weights.endswith(".pth"):
            raise ModelError(
                f"`{part.pretrained}` is no vision encoder", f"{_WHERE}.pretrained", "name another"
            )
        config, mean, std = FinesightEfficientNetLiteConfig(), MEAN, STD
    else:
        config = config_at(str(weights), _WHERE)
        mean, std, resample = _picture_settings(str(weights))
    config = _vision_of(config)
    size = part.image_size or _side(config)
    if isinstance(config, FinesightEfficientNetLiteConfig):
        config.image_size = size
    width, prefix, grid, known = _measured(part, config, size)
    return Encoder(part, config, weights, size, mean, std, resample, width, prefix, grid, known)


def _vision_of(config: Any) -> Any:
    """The vision part of a larger model's configuration, or the configuration itself."""
    inside = config.to_dict().get("vision_config")
    return config.vision_config if inside is not None else config


def _side(config: Any) -> int:
    size = config.to_dict().get("image_size")
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise ModelError(
            f"the encoder ({config.model_type}) does not say how large its pictures are",
            f"{_WHERE}.image_size",
            "give it, in pixels",
        )
    return size


def _picture_settings(place: str) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean, deviation and filter of the pictures that a pretrained encoder saw."""
    try:
        settings = AutoImageProcessor.from_pretrained(place, backend="pil")
        return tuple(settings.image_mean), tuple(settings.image_std), int(settings.resample)
    except (*READ_ERRORS, TypeError, AttributeError) as error:
        raise ModelError(
            f"how its pictures are prepared cannot be read: {said(error)}",
            f"{_WHERE}.pretrained: {place}",
            "give a folder with the encoder's `preprocessor_config.json`",
        ) from error


def _built(config: Any) -> nn.Module:
    if isinstance(config, FinesightEfficientNetLiteConfig):
        return FinesightEfficientNetLite(config)
    tower: nn.Module = AutoModel.from_config(config, dtype=torch.float32)
    return tower


def _measured(part: VisionPart, config: Any, size: int) -> tuple[int, int, int, bool]:
    """Width, prefix, grid and whether LLaVA knows the encoder, from a pass that computes shapes alone."""
    told = f"`image_size: {size}`, `layer: {part.layer}`"
    try:
        with torch.device("meta"):
            tower = _built(config).eval()
            levels = torch.empty(1, int(config.to_dict().get("num_channels", 3)), size, size)
            states = tower(levels, output_hidden_states=True, return_dict=True).hidden_states
        features = states[part.layer]
    except IndexError as error:
        raise ModelError(
            f"`layer: {part.layer}`: the encoder has {len(states)} hidden states",
            f"{_WHERE}.layer",
            f"choose from -1 to -{len(states)}",
        ) from error
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"the encoder ({config.model_type}) cannot read pictures with {told}: {said(error)}",
            _WHERE,
            "use a vision encoder, and the size that it was made for",
        ) from error
    if features.dim() == 4:
        width, height, across = features.shape[1:]
        if height != across:
            raise ModelError(
                f"the encoder gives no square of features with {told}", _WHERE, "use another one"
            )
        return width, 0, height, False
    places, width = features.shape[1:]
    patch = config.to_dict().get("patch_size")
    grid = size // patch if isinstance(patch, int) else math.isqrt(places)
    if grid < 1:
        raise ModelError(
            f"a picture of {size} pixels is smaller than a patch of {patch}", _WHERE, "raise `image_size`"
        )
    prefix = places - grid * grid
    if prefix < 0:
        raise ModelError(
            f"the encoder gives {places} tokens with {told}, fewer than {grid} × {grid} patches",
            _WHERE,
            "use another one",
        )
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in tower.modules())
    own = isinstance(config, FinesightEfficientNetLiteConfig)
    readable = part.tokens == "all" or (part.tokens == "patches" and prefix <= 1)
    return (
        width,
        prefix,
        grid,
        readable and not norms and not own and config.to_dict().get("hidden_size") == width,
    )


def _loaded(place: str, config: Any) -> nn.Module:
    """The encoder of a folder or hub id, which may hold a larger model."""
    with reading_weights(f"{_WHERE}.pretrained: {place}"):
        outer = AutoConfig.from_pretrained(place)
        if outer.model_type in COMPOSED:
            model = AutoModelForImageTextToText.from_pretrained(place, dtype="float32", use_safetensors=True)
            tower: nn.Module = model.model.vision_tower
            return tower
        tower, facts = AutoModel.from_pretrained(
            place, config=config, dtype="float32", output_loading_info=True, use_safetensors=True
        )
    # a pooling layer is behind all that is read here, and a classifier's folder has none
    whole(facts, place, lambda name: name.startswith(("pooler.", "vision_model.head.", "head.")))
    return tower
