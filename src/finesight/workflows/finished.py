"""What a run saves for others: its finished `model/` or `adapter/`, and what its checkpoints need to become a model."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from finesight.config.recipe import Recipe
from finesight.core.prediction import Score
from finesight.core.rundir import RunDirectory
from finesight.export.card import adapter_card, model_card
from finesight.export.folder import save_adapter_folder, save_folder, save_skeleton
from finesight.workflows.prepare import Prepared
from finesight.workflows.rundirs import SKELETON


def finished_folder(run: RunDirectory, recipe: Recipe) -> Path:
    """Where a run's finished model is: `adapter/` where it trains one, else `model/`."""
    return run.model if recipe.adapter is None else run.adapter


def save_finished(folder: Path, recipe: Recipe, prepared: Prepared) -> None:
    """Write the model as it stands, or its adapter alone, as a folder that others load."""
    card = finished_card(recipe, prepared)
    write = _adapter_writer(prepared, weights=True)
    if write is None:
        save_folder(folder, prepared.model, prepared.processor, prepared.ports, recipe.generation, card)
    else:
        save_adapter_folder(folder, write, prepared.processor, prepared.ports, recipe.generation, card)


def finished_card(recipe: Recipe, prepared: Prepared, scores: Sequence[Score] = ()) -> str:
    """The README of what a run has made."""
    card = model_card if prepared.adapted is None else adapter_card
    return card(recipe, prepared.facts(), scores)


def save_start(run: RunDirectory, prepared: Prepared) -> None:
    """Write what every checkpoint of a run needs beside its own tensors."""
    write = _adapter_writer(prepared, weights=False)
    save_skeleton(run.checkpoints / SKELETON, prepared.model.config, prepared.processor, write)


def _adapter_writer(prepared: Prepared, weights: bool) -> Callable[[Path], object] | None:
    if prepared.adapted is None:
        return None
    from finesight.adapters.save import write_adapter

    return partial(
        write_adapter, attached=prepared.adapted.attached, base=prepared.adapted.base, weights=weights
    )
