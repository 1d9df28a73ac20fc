"""The encoder of sounds of a composed model: what it is, what comes out of it, and its weights.

A sound is heard in `positions` states of the width D, each of `stride` frames.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForImageTextToText,
    WhisperFeatureExtractor,
)

from finesight.config.compose import AudioPart
from finesight.core.errors import ModelError
from finesight.models.compose.modeling_finesight import sound_encoder
from finesight.models.compose.sources import (
    COMPOSED,
    READ_ERRORS,
    config_at,
    config_from,
    reading_weights,
    said,
    whole,
)

_WHERE = "model.compose.audio"
_KNOWN = "whisper"
_WHOLE = "name a Whisper model"


@dataclass(frozen=True)
class Ear:
    """An encoder of sounds before its weights are read; `extractor` makes frames of sounds for it."""

    part: AudioPart
    config: Any
    weights: str | None
    extractor: Any
    width: int
    stride: int

    def load(self) -> nn.Module:
        """The encoder with its weights in fp32; random ones where it comes from a `config`."""
        if self.weights is None:
            tower: nn.Module = sound_encoder(self.config)
            return tower
        return _loaded(self.weights, self.config)


def open_ear(part: AudioPart) -> Ear:
    """Read what an encoder of sounds is; raises ModelError where none is there, or where it cannot be read as asked."""
    if part.config is not None:
        where = f"{_WHERE}.config"
        config = _audio_of(config_from(part.config, where), where)
        extractor = _new_extractor(config, where)
    else:
        place = str(part.pretrained)
        where = f"{_WHERE}.pretrained: {place}"
        config = _audio_of(config_at(place, _WHERE), where)
        extractor = _extractor(place, where)
    width, stride = _measured(part, config, extractor, where)
    return Ear(part, config, part.pretrained, extractor, width, stride)


def _audio_of(config: Any, where: str) -> Any:
    """The part of a configuration that hears."""
    inside = config.to_dict().get("audio_config")
    config = config if inside is None else config.audio_config
    if config.model_type != _KNOWN:
        raise ModelError(f"{config.model_type} has no encoder of sounds that is known here", where, _WHOLE)
    return config


def _new_extractor(config: Any, where: str) -> Any:
    """The feature extractor of an encoder with random weights: as many frames as it takes, a hundred a second."""
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    seconds, rest = divmod(2 * config.max_source_positions * extractor.hop_length, extractor.sampling_rate)
    if rest or not seconds:
        raise ModelError(
            f"`max_source_positions: {config.max_source_positions}` are no whole seconds",
            where,
            "a second has 50 of them: give a multiple of 50",
        )
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)


def _extractor(place: str, where: str) -> Any:
    try:
        return AutoFeatureExtractor.from_pretrained(place)
    except (*READ_ERRORS, TypeError, AttributeError) as error:
        raise ModelError(
            f"how its sounds are prepared cannot be read: {said(error)}",
            where,
            "give a folder with the encoder's `preprocessor_config.json`",
        ) from error


def _measured(part: AudioPart, config: Any, extractor: Any, where: str) -> tuple[int, int]:
    """Width, and frames of a state, from a pass that computes shapes alone."""
    try:
        with torch.device("meta"):
            tower = sound_encoder(config).eval()
            frames = torch.empty(1, extractor.feature_size, extractor.nb_max_frames)
            states = tower(frames, output_hidden_states=True, return_dict=True).hidden_states
        _, positions, width = states[part.layer].shape
    except IndexError as error:
        raise ModelError(
            f"`layer: {part.layer}`: the encoder has {len(states)} hidden states",
            f"{_WHERE}.layer",
            f"choose from -1 to -{len(states)}",
        ) from error
    except (TypeError, ValueError, RuntimeError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"its sizes do not go together: {said(error)}", where, "correct them") from error
    return int(width), int(extractor.nb_max_frames // positions)


def _loaded(place: str, config: Any) -> nn.Module:
    """The encoder of a folder or hub id, which may hold a larger model."""
    with reading_weights(f"{_WHERE}.pretrained: {place}"):
        if AutoConfig.from_pretrained(place).model_type in COMPOSED:
            model = AutoModelForImageTextToText.from_pretrained(place, dtype="float32", use_safetensors=True)
            tower: nn.Module = model.model.audio_tower
            return tower
        model, facts = AutoModel.from_pretrained(
            place, config=config, dtype="float32", output_loading_info=True, use_safetensors=True
        )
    whole(facts, place, lambda name: not name.startswith("encoder."))
    encoder: nn.Module = model.get_encoder()
    return encoder
