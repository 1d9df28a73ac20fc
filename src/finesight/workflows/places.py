"""What MODEL_OR_RUN may be: a run, its `model/` or `adapter/`, a checkpoint; a folder or hub id of model or adapter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finesight.config.load import load_recipe
from finesight.config.loading import Load
from finesight.config.recipe import Recipe
from finesight.core.errors import ModelError, RunError
from finesight.core.rundir import RunDirectory
from finesight.models.hub import hub_adapter
from finesight.models.load import AS_IT_IS, LoadedModel, Reading, build_from_config, load_model
from finesight.training.checkpoint import load_checkpoint
from finesight.training.state import restore_model
from finesight.workflows.rundirs import SKELETON, check_run

_ADAPTER_CONFIG = "adapter_config.json"
"""The file by which a folder is known to hold an adapter."""


@dataclass(frozen=True)
class Found:
    """A loaded model, and the run and recipe that it belongs to where there are any.

    `adapted` is what `workflows.adapting` knows of its adapter and base, where it has one.
    """

    loaded: LoadedModel
    run: RunDirectory | None
    recipe: Recipe | None
    adapted: Any = None


def run_of(place: Path) -> RunDirectory | None:
    """The run that a path is, or lies in (its model, its checkpoints); None where it is no part of one.

    Raises RunError for one that a newer finesight began.
    """
    for candidate in (place, *place.absolute().parents[:2]):
        if (candidate / "recipe.yaml").is_file() and (candidate / "environment.json").is_file():
            run = RunDirectory(candidate)
            check_run(run)
            return run
    return None


def model_place(model_or_run: str) -> str:
    """The folder of a model to load: a run's finished model or adapter, or the place itself.

    Raises RunError for an unfinished run.
    """
    place = Path(model_or_run)
    if (place / "recipe.yaml").is_file():
        if (place / "adapter" / _ADAPTER_CONFIG).is_file():
            return str(place / "adapter")
        if not (place / "model" / "config.json").is_file():
            raise RunError(
                "this run has no finished model",
                str(place),
                "finish it with `finesight train … --resume`, or name a checkpoint",
            )
        return str(place / "model")
    if not place.exists() and (
        place.is_absolute() or model_or_run.startswith((".", "runs/")) or model_or_run.count("/") != 1
    ):
        raise ModelError(
            "there is no such run or model",
            model_or_run,
            "give a run's directory, a model folder or a hub id",
        )
    return model_or_run


def find_model(model_or_run: str, reading: Reading = AS_IT_IS) -> Found:
    """Load what the person named; raises ModelError or RunError where it cannot be."""
    place = Path(model_or_run)
    run = run_of(place) if place.exists() else None
    recipe = load_recipe(str(run.recipe)) if run is not None else None
    adapter = adapter_of(model_or_run, reading)
    if adapter is not None:
        from finesight.workflows.adapting import open_adapter

        adapted = open_adapter(*adapter, reading=reading)
        return Found(adapted.loaded, run, recipe, adapted)
    if _is_checkpoint(place) and run is not None:
        if reading.load != Load():
            raise ModelError(
                "a checkpoint holds a whole model as it was trained, and is loaded in fp32 on one device",
                model_or_run,
                "write it as a folder by `finesight export CHECKPOINT FOLDER`, and name that",
            )
        loaded = build_from_config(str(run.checkpoints / SKELETON))
        restore_model(loaded.model, load_checkpoint(place).tensors["model"], str(place))
        return Found(loaded, run, recipe)
    return Found(load_model(model_place(model_or_run), reading=reading), run, recipe)


def adapter_of(model_or_run: str, reading: Reading = AS_IT_IS) -> tuple[Path, Path | None] | None:
    """The folder of the adapter that is named, and the checkpoint with its values where that is named; None where it is
    a whole model. An adapter on the hub is brought here, at the revision of the reading."""
    place = Path(model_or_run)
    run = run_of(place) if place.exists() else None
    if _is_checkpoint(place) and run is not None:
        folder, checkpoint = run.checkpoints / SKELETON, place
    else:
        folder, checkpoint = Path(model_place(model_or_run)), None
        if not folder.exists():
            folder = hub_adapter(str(model_or_run), reading.revision) or folder
    return (folder, checkpoint) if (folder / _ADAPTER_CONFIG).is_file() else None


def _is_checkpoint(place: Path) -> bool:
    return (place / "manifest.json").is_file()
