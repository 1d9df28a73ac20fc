"""Sounds as a model's own feature extractor prepares them.

S sounds of a sample, F features of a frame, L frames.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finesight.core.batch import Extra
from finesight.core.ports import SoundPort
from finesight.models.compose.processing_finesight import (
    FinesightProcessor,
    sound_features,
    sound_tokens,
)


@dataclass(frozen=True, eq=False)
class ExtractedSounds:
    """The port of a model that hears one sound beside its text: its feature extractor takes mono samples of `rate` a
    second."""

    extractor: Any
    rate: int
    seconds: float
    most: int | None = 1
    placeholder: str = ""
    placeholder_id: int = -1

    def words(self, samples: Sequence[int]) -> tuple[str, ...]:
        """Nothing: its sounds stand in no text."""
        return ("",) * len(samples)

    def prepare(self, sounds: Sequence[np.ndarray]) -> Mapping[str, Extra]:
        """Inputs of the model for the sounds of one sample, each float32 (samples,): features (S, F, L)."""
        found = self.extractor(list(sounds), sampling_rate=self.rate, return_tensors="np")
        return {"input_features": Extra(np.asarray(found["input_features"]))}


@dataclass(frozen=True, eq=False)
class PlacedSounds:
    """The port of a composed model, whose sounds stand in its text: as many tokens as their lengths make."""

    extractor: Any
    rate: int
    seconds: float
    placeholder: str
    placeholder_id: int
    stride: int
    factor: int
    most: int | None = None

    def words(self, samples: Sequence[int]) -> tuple[str, ...]:
        """The placeholder of each sound, repeated for its tokens."""
        return tuple(
            self.placeholder * sound_tokens(count, self.extractor, self.stride, self.factor)
            for count in samples
        )

    def prepare(self, sounds: Sequence[np.ndarray]) -> Mapping[str, Extra]:
        """Inputs of the model for the sounds of one sample, each float32 (samples,): features (S, F, L), and which of
        their frames (S, L) are no padding."""
        return {name: Extra(value) for name, value in sound_features(sounds, self.extractor).items()}

    @property
    def told(self) -> list[Any]:
        """All that makes an example of a sound, for a fingerprint."""
        settings = self.extractor.to_dict()
        settings.pop("auto_map", None)  # where it is from, in a folder that was saved
        return [settings, self.placeholder, self.stride, self.factor]


def sound_port(processor: Any) -> SoundPort | None:
    """The port of a processor that has a feature extractor for sounds; None for others."""
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is None:
        return None
    rate = int(extractor.sampling_rate)
    seconds = float(getattr(extractor, "n_samples", math.inf)) / rate
    if isinstance(processor, FinesightProcessor):
        token, number = processor.audio_token, processor.audio_token_id
        sizes = processor.audio_stride, processor.audio_factor
        return PlacedSounds(extractor, rate, seconds, token, number, *sizes)
    return ExtractedSounds(extractor, rate, seconds)
