"""The processor of a composed model that hears: LLaVA's, with sounds.

This file needs `transformers` and `numpy` alone. finesight copies it beside the weights, so that the folder loads with
`AutoProcessor.from_pretrained(folder, trust_remote_code=True)`.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import LlavaProcessor


def sound_features(sounds: Sequence[np.ndarray], extractor: Any) -> dict[str, np.ndarray]:
    """What the model takes of A sounds, each (samples,): features (A, F, L), and the mask (A, L) of the frames that are
    no padding. Raises ValueError for a sound that is longer than the encoder hears."""
    longest, rate = int(extractor.n_samples), int(extractor.sampling_rate)
    for sound in sounds:
        if len(sound) > longest:
            raise ValueError(
                f"the sound has {len(sound) / rate:.1f} seconds; at most {longest / rate:g} are heard"
            )
    found = extractor(list(sounds), sampling_rate=rate, return_attention_mask=True, return_tensors="np")
    mask = np.asarray(found["attention_mask"]).astype(np.int64)
    return {"input_features": np.asarray(found["input_features"]), "input_features_mask": mask}


def sound_tokens(samples: int, extractor: Any, stride: int, factor: int) -> int:
    """Tokens of a sound: ⌈⌈frames / stride⌉ / factor⌉, with a frame for each `hop_length` samples that are begun."""
    frames = math.ceil(samples / int(extractor.hop_length))
    return math.ceil(math.ceil(frames / stride) / factor)


class FinesightProcessor(LlavaProcessor):  # type: ignore[misc]  # transformers does not say what its classes are
    """LLaVA's processor; a sound, mono with the feature extractor's samples a second, becomes one `audio_token` for
    `audio_factor` states of the encoder, each of which stands for `audio_stride` frames.
    """

    _auto_class: ClassVar[str | None] = "AutoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        audio_token: str = "<audio>",
        audio_stride: int = 2,
        audio_factor: int = 8,
        **kwargs: Any,
    ):
        self.patch_size = patch_size
        self.num_additional_image_tokens = num_additional_image_tokens
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.image_token, self.audio_token = image_token, audio_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.audio_stride, self.audio_factor = audio_stride, audio_factor
        super(LlavaProcessor, self).__init__(
            image_processor, feature_extractor, tokenizer, chat_template=chat_template
        )

    def _process_audio(self, audio: Any, **_: Any) -> tuple[dict[str, Any], list[str]]:
        sounds = [np.asarray(sound, dtype=np.float32) for sound in audio]
        counts = [
            sound_tokens(len(sound), self.feature_extractor, self.audio_stride, self.audio_factor)
            for sound in sounds
        ]
        return sound_features(sounds, self.feature_extractor), [self.audio_token * count for count in counts]
