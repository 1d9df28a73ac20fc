"""Sounds as a model's own feature extractor prepares them.

S sounds of a sample, F features of a frame, L frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finesight.core.batch import Extra


@dataclass(frozen=True, eq=False)
class ExtractedSounds:
    """The port of a model that hears: its feature extractor takes mono samples of `rate` a second."""

    extractor: Any
    rate: int
    most: int = 1

    def prepare(self, sounds: Sequence[np.ndarray]) -> Mapping[str, Extra]:
        """Inputs of the model for the sounds of one sample, each float32 (samples,): features (S, F, L)."""
        found = self.extractor(list(sounds), sampling_rate=self.rate, return_tensors="np")
        return {"input_features": Extra(np.asarray(found["input_features"]))}


def sound_port(processor: Any) -> ExtractedSounds | None:
    """The port of a processor that has a feature extractor for sounds; None for others."""
    extractor = getattr(processor, "feature_extractor", None)
    return None if extractor is None else ExtractedSounds(extractor, int(extractor.sampling_rate))
