"""What a person names to be converted: a recipe, or data by their place."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finesight.config.base import Section
from finesight.config.faults import faults_of
from finesight.config.load import ENDINGS, load_recipe, shipped_recipes
from finesight.config.overrides import override
from finesight.config.place import is_address, resolve_path
from finesight.config.recipe import Recipe
from finesight.config.sources import Source
from finesight.config.yaml import Document
from finesight.core.errors import DataError, Fault, RecipeError

_KINDS = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **dict.fromkeys((".parquet", ".pq", ".arrow", ".feather", ".ipc", ".arrows"), "parquet"),
    ".tar": "tar",
}
"""Kind of source by the ending of a file's name."""
_SAVED = ("state.json", "dataset_dict.json")


class _Given(Section):
    """A source that is given by its place and some keys."""

    data: Source
    """The source."""


def recipe_or_source(given: str, overrides: Sequence[str] = ()) -> Recipe | Source:
    """The recipe of this name or file; else a source of the file, folder or pattern, its kind by the ending.

    `overrides` are keys of the recipe (`data.train.prompt=…`), or of the source (`columns.answer=x`, `source=coco`).
    Raises a RecipeError with all that is wrong, or a DataError where nothing tells what the data are.
    """
    if given.lower().endswith(ENDINGS) or (given in shipped_recipes() and not Path(given).exists()):
        return load_recipe(given, overrides)
    own = [word for word in overrides if word.partition("=")[0].strip() == "source"]
    return source_of({"path": given} if own else {"path": given, "source": _kind_of(given)}, overrides, given)


def source_of(mapping: Mapping[str, Any], overrides: Sequence[str] = (), given: str = "the source") -> Source:
    """A source as a recipe has it; raises a RecipeError with all that is wrong."""
    document = override(Document({"data": dict(mapping)}, {}), [f"data.{word}" for word in overrides])
    try:
        return _Given.model_validate_json(json.dumps(document.value)).data
    except ValidationError as error:
        found = faults_of(error, _Given, {(): given, **document.places})
        raise RecipeError.of([_without_prefix(fault) for fault in found]) from error


def _without_prefix(fault: Fault) -> Fault:
    """A fault in words of the source alone: that it was put under `data` is nothing that a person has done."""
    return Fault(
        fault.what.replace("`data.", "`"),
        fault.where.replace("`data.", "`"),
        fault.mend.replace("`data.", "`"),
    )


def _kind_of(given: str) -> str:
    kind = _KINDS.get(Path(given).suffix.lower())
    if is_address(given) or (kind is not None and "*" in given):
        if kind is not None:
            return kind
    else:
        place = resolve_path(given, "RECIPE_OR_SOURCE")
        kind = _kind_of_folder(place) if place.is_dir() else kind
        if kind is not None:
            return kind
    kinds = ", ".join(dict.fromkeys(_KINDS.values()))
    raise DataError(
        "nothing tells what these data are", given, f"say it by `source=`: {kinds}, coco, folder or hub"
    )


def _kind_of_folder(folder: Path) -> str:
    names = [item.name.lower() for item in folder.iterdir() if not item.name.startswith(".")]
    if any(name in _SAVED for name in names):
        return "hub"
    for ending, kind in _KINDS.items():
        if kind in ("tar", "parquet") and any(name.endswith(ending) for name in names):
            return kind
    return "folder"
