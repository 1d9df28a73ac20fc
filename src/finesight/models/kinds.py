"""Which of `transformers`' auto classes a model belongs to."""

import inspect
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
    own = getattr(config, "auto_map", None) or {}  # where the folder's own code is run
    return next((cls for cls in _CLASSES if type(config) in cls._model_mapping or cls.__name__ in own), None)


def inputs_of(config: Any) -> frozenset[str]:
    """Names of what a model of this configuration takes; empty where its class comes with its own code."""
    mapping = auto_class(config)._model_mapping
    if type(config) not in mapping:
        return frozenset()
    return frozenset(inspect.signature(mapping[type(config)].forward).parameters)


def model_kind(config: Any) -> Kind:
    """How the model reads and answers."""
    return (
        "apart" if config.is_encoder_decoder or config.model_type == "vision-encoder-decoder" else "together"
    )
