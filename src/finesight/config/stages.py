"""Recipes of several stages: each is the recipe with some keys changed, and begins with the model of the one before."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from finesight.config.base import Section

ORIGINS = ("scratch", "fresh", "compose", "pretrained")
"""Keys of `model` that say where it comes from."""


class Stage(Section):
    """One stage of training."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the stage: letters, digits, `.`, `_` and `-`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """What differs from the recipe, in its own sections; `null` takes a key out."""


def stage_mappings(recipe: Mapping[str, Any], directory: str) -> list[dict[str, Any]]:
    """The recipe of each stage as a mapping, from one with `stages`.

    The last has the run's own `directory`; those before lie in its `stages/`, and each begins with the model of
    the one before it.
    """
    stages = recipe["stages"]
    base = {key: value for key, value in recipe.items() if key != "stages"}
    found: list[dict[str, Any]] = []
    for number, stage in enumerate(stages, 1):
        last = number == len(stages)
        place = directory if last else f"{directory}/stages/{number}-{stage['name']}"
        own = dict(base)
        if found:
            own["model"] = {"pretrained": found[-1]["run"]["dir"]}
        own = _merged(own, stage.get("set", {}))
        own["run"] = {**own["run"], "dir": place}
        found.append(own)
    return found


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, section by section. A source, or a model's origin, is replaced as a whole."""
    found = dict(under)
    if any(key in over and over[key] is not None for key in ORIGINS):
        found = {key: value for key, value in found.items() if key not in ORIGINS}
    for key, value in over.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(found.get(key), Mapping) and "source" not in value:
            found[key] = _merged(found[key], value)
        else:
            found[key] = value
    return found
