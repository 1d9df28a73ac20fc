"""Processors of model folders: the model's own, put together from what the folder has."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import transformers
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import PushToHubMixin, cached_file
from transformers.utils.import_utils import is_torchvision_available

from finesight.models.compose.processing_finesight import FinesightProcessor


@dataclass
class Pair:
    """A tokenizer and an image processor of a model that has no processor of both."""

    tokenizer: Any
    image_processor: Any
    chat_template: str | None = None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both, as `transformers` reads them."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@dataclass
class NoVideo(PushToHubMixin):  # type: ignore[misc]  # by it `to_dict` is found
    """Stands for a processor of videos, which needs torchvision, and keeps its settings for saving."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    model_input_names: tuple[str, ...] = ()
    valid_kwargs: Any = transformers.processing_utils.VideosKwargs
    unused_input_names: tuple[str, ...] = ()
    _auto_class: None = None

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("settings", {})
        if name.startswith("__") or name not in settings:
            raise AttributeError(name)
        return settings[name]

    def to_dict(self) -> dict[str, Any]:
        """The settings as they were read."""
        return dict(self.settings)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, which may be one itself."""
    return processor if isinstance(processor, PreTrainedTokenizerBase) else processor.tokenizer


def image_processor_of(processor: Any) -> Any:
    """The image processor of a processor; None where it has none."""
    if isinstance(processor, Pair):
        return processor.image_processor
    if isinstance(processor, ProcessorMixin) and "image_processor" in processor.get_attributes():
        return processor.image_processor
    return None


def read_processor(place: str, config: Any, **where: Any) -> Any:
    """The processor of a folder or hub id; raises OSError, ValueError or ImportError as `transformers` does."""
    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    if name is None and config.model_type in _PAIRS:
        tokenizer = AutoTokenizer.from_pretrained(place, **where)
        return Pair(tokenizer, AutoImageProcessor.from_pretrained(place, **where))
    named = _named(place, where)
    if named == FinesightProcessor.__name__:
        return FinesightProcessor.from_pretrained(place, **where)
    cls = getattr(transformers, named or name or "", None)
    if cls is not None and not is_torchvision_available() and "video_processor" in cls.get_attributes():
        return _without_video(cls, place, where)
    return AutoProcessor.from_pretrained(place, **where)


_PAIRS = ("vision-encoder-decoder",)


def _settings(place: str, name: str, where: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON file of the folder; empty where there is none."""
    try:
        found = cached_file(place, name, _raise_exceptions_for_missing_entries=False, **where)
    except OSError:
        return {}
    return dict(json.loads(Path(found).read_text(encoding="utf-8"))) if found else {}


def _named(place: str, where: Mapping[str, Any]) -> str | None:
    """The class that the folder's own files name."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        found = _settings(place, name, where).get("processor_class")
        if found:
            return str(found)
    return None


def _without_video(cls: Any, place: str, where: Mapping[str, Any]) -> Any:
    """A processor with a stand-in for its processor of videos, which cannot be made without torchvision."""
    processor_dict, rest = cls.get_processor_dict(place, **where)
    settings = _settings(place, "video_preprocessor_config.json", where)
    settings = settings or dict(processor_dict.get("video_processor") or {})
    parts = []
    for name in cls.get_attributes():
        if name == "video_processor":
            parts.append(NoVideo(settings))
        elif "tokenizer" in name:
            parts.append(AutoTokenizer.from_pretrained(place, **where))
        else:
            parts.append(AutoImageProcessor.from_pretrained(place, **where))
    return without_check(cls, lambda: cls.from_args_and_dict(parts, processor_dict, **rest))


def without_check(cls: Any, make: Any) -> Any:
    """What `make` makes of a processor class, whose check of the classes of its parts lets a stand-in pass."""
    check = cls.check_argument_for_proper_class

    def checked(self: Any, name: str, argument: Any) -> Any:
        return None if isinstance(argument, NoVideo) else check(self, name, argument)

    with patch.object(cls, "check_argument_for_proper_class", checked):
        return make()
