"""Which of `transformers`' auto classes a model belongs to."""

from typing import Any, Literal

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
)

Kind = Literal["together", "apart"]
"""Whether question and answer are one sequence, or an encoder reads and a decoder answers."""

_CLASSES: tuple[Any, ...] = (
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoModelForCausalLM,
)


def auto_class(config: Any) -> Any:
    """The auto class that loads models of this configuration; None where no such model answers in words."""
    return next((cls for cls in _CLASSES if type(config) in cls._model_mapping), None)


def class_of(config: Any) -> Any:
    """The class of a model of this configuration."""
    return auto_class(config)._model_mapping[type(config)]


def model_kind(config: Any) -> Kind:
    """How the model reads and answers."""
    return (
        "apart" if config.is_encoder_decoder or config.model_type == "vision-encoder-decoder" else "together"
    )
