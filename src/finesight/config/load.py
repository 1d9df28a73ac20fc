"""From a name, a file or a mapping to a recipe that is whole and right, or to everything that is wrong with it."""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finesight.config.faults import faults_of, with_nearest_sources
from finesight.config.overrides import override
from finesight.config.recipe import Recipe
from finesight.config.stages import stage_mappings
from finesight.config.yaml import MAX_BYTES, Document, KeyPath, read_document, write
from finesight.core.errors import Fault, RecipeError
from finesight.core.formats import check_format

ENDINGS = (".yaml", ".yml")


def load_recipe(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a file if it exists, else one that ships) and put `section.key=value` words over it.

    Raises a RecipeError with every fault that was found. A section's own consistency, such as sizes that divide
    each other, is looked at once each of its values is right.
    """
    where = os.fspath(name_or_path)
    return _validated(override(read_document(_recipe_bytes(where), where), overrides), where)


def parse_recipe(
    mapping: Mapping[str, Any], where: str = "the recipe", overrides: Sequence[str] = ()
) -> Recipe:
    """A recipe from a plain mapping, such as one written in Python. Raises as `load_recipe` does."""
    return _validated(override(Document(dict(mapping), {}), overrides), where)


def stage_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipes of a recipe's stages, in their order; the recipe itself where it has none.

    Raises RecipeError with the faults of all stages.
    """
    if not recipe.stages:
        return [recipe]
    found, faults = [], list[Fault]()
    plain = recipe.model_dump(mode="json", exclude_none=True)
    for stage, mapping in zip(recipe.stages, stage_mappings(plain, recipe.directory), strict=True):
        try:
            found.append(parse_recipe(mapping, f"stage `{stage.name}`"))
        except RecipeError as error:
            faults += [
                Fault(one.what, f"stage `{stage.name}`: {one.where}", one.mend) for one in error.faults
            ]
    if faults:
        raise RecipeError.of(faults)
    return found


def inspected_stage(recipe: Recipe, name: str | None) -> Recipe:
    """A recipe with the data of one of its stages, and with the model that its first stage begins with.

    A later stage begins with a trained model that may not be there yet, and reads and writes words as the first does.
    Raises RecipeError where no stage has this name.
    """
    if name is None:
        return recipe
    names = [stage.name for stage in recipe.stages]
    if name not in names:
        told = f"its stages are {', '.join(names)}" if names else "it has no stages"
        raise RecipeError(f"no stage is called `{name}`", "--stage", f"{told}")
    first, *_ = stages = stage_recipes(recipe)
    chosen = stages[names.index(name)].model_dump(mode="json", exclude_none=True)
    model = first.model_dump(mode="json", exclude_none=True)["model"]
    without = {key: value for key, value in chosen.items() if key != "adapter"}
    return parse_recipe({**without, "model": model}, f"stage `{name}`")


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; reading it gives an equal recipe."""
    return write(recipe.model_dump(mode="json", exclude_none=True))


def shipped_recipes() -> dict[str, str]:
    """Name and description of each recipe that ships."""
    descriptions = {}
    for name in _shipped_names():
        document = read_document(recipe_text(name).encode(), name)
        descriptions[name] = str(document.value.get("description", ""))
    return descriptions


def recipe_text(name: str) -> str:
    """The text of a shipped recipe."""
    names = _shipped_names()
    if name not in names:
        raise RecipeError(f"no recipe named `{name}` ships with finesight", name, _choose(name, names))
    return _shipped_file(name).read_text(encoding="utf-8")


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _validated(document: Document, where: str) -> Recipe:
    place = document.places.get(("format",), where)
    check_format("recipe", document.value.get("format"), place, RecipeError, others=True)
    try:
        return _strict(document.value)
    except ValidationError as error:
        raise RecipeError.of(_faults(error, document.value, {(): where, **document.places})) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"this recipe cannot be read: {error}", where, "use text, numbers, lists and mappings"
        ) from error


def _strict(value: Mapping[str, Any]) -> Recipe:
    """Validate in strict JSON mode: a list becomes a tuple, but "1" does not become 1."""
    return Recipe.model_validate_json(json.dumps(value, default=_path_text))


def _faults(error: ValidationError, value: Mapping[str, Any], places: Mapping[KeyPath, str]) -> list[Fault]:
    faults = faults_of(error, Recipe, places)
    mended = with_nearest_sources(error, Recipe, value)
    if mended is not None:
        try:
            _strict(mended)
        except ValidationError as second:
            faults += [fault for fault in _faults(second, mended, places) if fault not in faults]
    return faults


def _path_text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no value of a recipe")


def _recipe_bytes(where: str) -> bytes:
    path, names = Path(where), _shipped_names()
    try:
        if path.is_dir() and where not in names:  # a run's own folder hides no recipe of the same name
            inside = path / "recipe.yaml"
            cure = f"give {inside}" if inside.is_file() else "give a recipe's file or name"
            raise RecipeError(f"`{where}` is a folder, not a recipe", where, cure)
        if path.exists() and not path.is_dir():
            with path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"the recipe cannot be opened: {error}", where[:200], "give the path of a readable file"
        ) from error
    if where in names:
        return _shipped_file(where).read_bytes()
    raise RecipeError(
        f"there is no file `{where}`, and no recipe of this name ships with finesight",
        str(Path.cwd()),
        _choose(where, names) + _neighbours(path),
    )


def _choose(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(Path(name).stem, names, n=1, cutoff=0.5)
    return (f"did you mean `{near[0]}`? " if near else "") + f"shipped recipes: {', '.join(names)}"


def _neighbours(path: Path) -> str:
    """The recipe files of like name beside the missing one."""
    if not path.parent.is_dir():
        return ""
    names = [item.name for item in path.parent.iterdir() if item.suffix in ENDINGS]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"; in {path.parent}: {', '.join(near)}" if near else ""


def _shipped_names() -> list[str]:
    names = [item.name for item in (files("finesight") / "recipes").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _shipped_file(name: str) -> Path:
    return Path(str(files("finesight") / "recipes" / f"{name}.yaml"))
