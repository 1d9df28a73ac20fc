"""What the parts of a composed model have in common: their configurations, and how faults of theirs are told."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from finesight.config.compose import DERIVED
from finesight.core.errors import ModelError
from finesight.core.formats import check_format
from finesight.models.compose.modeling_finesight import (
    FinesightEfficientNetLiteConfig,
    FinesightLlavaConfig,
    FinesightLlavaForConditionalGeneration,
)
from finesight.runtime.quiet import no_progress_bars

_log = logging.getLogger("finesight")

COMPOSED = ("llava", FinesightLlavaConfig.model_type)
"""Model types of which a vision encoder or a language model can be taken out."""

READ_ERRORS = (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError)
"""What `transformers` raises where something cannot be read."""


def know_composed() -> None:
    """Let the auto classes of `transformers` load a composed model with the code of this package, not of a folder."""
    AutoConfig.register(FinesightLlavaConfig.model_type, FinesightLlavaConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        FinesightLlavaConfig, FinesightLlavaForConditionalGeneration, exist_ok=True
    )


def check_composed(config: Any, place: str) -> None:
    """Raise ModelError for a model that a newer finesight has composed in a way that is not known here."""
    if config.model_type == FinesightLlavaConfig.model_type:
        check_format("composed", config.finesight_format, place, ModelError)


def said(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def reading_weights(where: str) -> Iterator[None]:
    """While weights are read: no bars of progress; raises ModelError at `where` for those that cannot be read."""
    try:
        with no_progress_bars():
            yield
    except READ_ERRORS as error:
        raise ModelError(
            f"its weights cannot be read: {said(error)}", where, "save it as safetensors"
        ) from error


def config_at(place: str, key: str) -> Any:
    """The configuration of a model folder or hub id."""
    know_composed()
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (*READ_ERRORS, StrictDataclassError) as error:
        raise ModelError(
            f"no model can be read there: {said(error)}",
            f"{key}.pretrained: {place}",
            "correct the path, or check the hub id and the connection",
        ) from error
    check_composed(config, place)
    return config


def config_from(values: Mapping[str, Any], key: str) -> Any:
    """A configuration of `transformers` from a recipe; a key that it does not know is an error."""
    kind = values["model_type"]
    own = {FinesightEfficientNetLiteConfig.model_type: FinesightEfficientNetLiteConfig}
    try:
        form = own.get(kind) or CONFIG_MAPPING[kind]
    except KeyError as error:
        raise ModelError(
            f"`transformers` knows no `model_type: {kind}`",
            key,
            "use a name such as siglip_vision_model or llama",
        ) from error
    known = {field.name for field in fields(form)} | set(form.attribute_map)
    strange = sorted(values.keys() - known - {"model_type"})
    if strange:
        raise ModelError(
            f"a {kind} has no `{'`, `'.join(strange)}`",
            key,
            f"its values are {', '.join(sorted(known - _OF_ALL - set(DERIVED)))}",
        )
    try:
        return form(**{name: value for name, value in values.items() if name != "model_type"})
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ModelError(
            f"this is no configuration of a {kind}: {' '.join(str(error).split())}", key, "correct the value"
        ) from error


_OF_ALL = {field.name for field in fields(FinesightEfficientNetLiteConfig.__mro__[1])}
"""Values that every configuration has, of which few are of use here."""


def whole(facts: Mapping[str, Any], place: str, behind: Callable[[str], bool]) -> None:
    """Refuse weights that are missing or of another shape, but for what lies `behind` all that is read.

    What a folder holds beyond the part that is taken from it is left out, and logged.
    """
    wrong = {
        kind: sorted(str(name) for name in facts[kind] if not behind(str(name)))
        for kind in ("missing_keys", "mismatched_keys")
        if facts.get(kind)
    }
    told = [f"{kind}: {', '.join(names[:5])}" for kind, names in wrong.items() if names]
    if told:
        raise ModelError(
            f"its weights do not fit its configuration ({'; '.join(told)})", place, "save the model again"
        )
    if facts.get("unexpected_keys"):
        names = sorted(map(str, facts["unexpected_keys"]))
        _log.info("%s: %d tensors are left out, such as %s", place, len(names), ", ".join(names[:3]))
