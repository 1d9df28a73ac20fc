"""Models of any family, from folders that `transformers` wrote, or from a hub id of the same layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig

from finesight.core.errors import ModelError
from finesight.core.ports import Ports
from finesight.models.compose.sources import know_composed
from finesight.models.kinds import auto_class
from finesight.models.ports import ports_of
from finesight.models.processors import read_processor
from finesight.models.quiet import no_progress_bars


@dataclass(frozen=True)
class LoadedModel:
    """A `transformers` model with its processor and ports."""

    model: Any
    processor: Any
    ports: Ports


def load_processor(place: str) -> tuple[Any, Any]:
    """Configuration and processor of a model folder or hub id; no weights are read."""
    try:
        know_composed()
        config = AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model can be read there: {_first_line(error)}", place, _cure(place)) from error
    if auto_class(config) is None:
        raise ModelError(
            f"models of the family `{config.model_type}` do not answer in words",
            place,
            "use an image-text-to-text model, a captioner, or a text model",
        )
    try:
        return config, read_processor(place, config)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"its processor cannot be read: {_first_line(error)}", place, _cure(place)
        ) from error


def load_model(place: str, quantization: Any = None) -> LoadedModel:
    """The model with its weights in fp32, or as a `BitsAndBytesConfig` says; missing, unknown or wrong-shaped weights
    are errors."""
    config, processor = load_processor(place)
    try:
        with no_progress_bars():
            model, facts = auto_class(config).from_pretrained(
                place,
                config=config,
                dtype="float32",
                output_loading_info=True,
                use_safetensors=True,
                quantization_config=quantization,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"its weights cannot be read: {_first_line(error)}", place, _cure(place)) from error
    wrong = [f"{kind}: {', '.join(map(str, sorted(facts[kind])[:5]))}" for kind in _WRONG if facts.get(kind)]
    if wrong:
        raise ModelError(
            f"its weights do not fit its configuration ({'; '.join(wrong)})", place, "save the model again"
        )
    return LoadedModel(model, processor, ports_of(processor, config, place))


_WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys")
"""What `transformers` tells of weights that it did not find a place or a value for."""


def build_from_config(place: str) -> LoadedModel:
    """The model of a folder without weights (a checkpoint's skeleton), with random values."""
    config, processor = load_processor(place)
    return LoadedModel(auto_class(config).from_config(config), processor, ports_of(processor, config, place))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _cure(place: str) -> str:
    if Path(place).exists():
        return "give a folder that `transformers` saved with its processor"
    return "correct the path, or check the hub id and the connection"
