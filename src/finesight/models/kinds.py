"""Which of `transformers`' auto classes a model belongs to."""

from typing import Any, Literal

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

Kind = Literal["together", "apart"]
"""Whether question and answer are one sequence, or an encoder reads and a decoder answers."""

_CLASSES = (
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    (AutoModelForSpeechSeq2Seq, MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES),
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
)


def auto_class(config: Any) -> Any:
    """The auto class that loads models of this configuration; None where no such model answers in words."""
    auto_map = getattr(config, "auto_map", None) or {}
    for cls, names in _CLASSES:
        if config.model_type in names or cls.__name__ in auto_map:
            return cls
    return None


def class_of(config: Any) -> Any:
    """The class of a model of this configuration; None where it comes with the model's own code."""
    mapping = auto_class(config)._model_mapping
    return mapping[type(config)] if type(config) in mapping.keys() else None  # noqa: SIM118 (no plain mapping)


def model_kind(config: Any) -> Kind:
    """How the model reads and answers."""
    return (
        "apart" if config.is_encoder_decoder or config.model_type == "vision-encoder-decoder" else "together"
    )
