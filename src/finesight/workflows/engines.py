"""How a run's processes share the work: its model made ready for that, right before the optimizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.errors import FinesightError
from finesight.runtime.distributed import World
from finesight.training.checkpoint import Checkpoint, Checkpoints
from finesight.training.parallel import Engine, Replicated, Single, Spare, has_averages
from finesight.training.sharded import Sharded, fill, shard
from finesight.training.slices import write_slices
from finesight.workflows.prepare import Prepared


def engine_of(recipe: Recipe, prepared: Prepared, world: World, spare: Spare) -> Engine:
    """The engine of the recipe's strategy; with `fsdp` the model is cut into slices, in place."""
    notices = prepared.notices
    if world.control is None:
        if recipe.parallel.strategy in ("ddp", "fsdp"):
            started = f"`parallel.strategy: {recipe.parallel.strategy}`, and one process was started"
            notices.add("parallel", f"{started}: it trains alone (`torchrun` starts several)")
        return Single()
    if has_averages(prepared.model):
        notices.add("parallel", "averages of batch norms are over the samples of process 0 alone")
    many = f"{world.size} processes train one model"
    if world.strategy == "ddp":
        notices.add("parallel", f"{many}; each holds all of it (ddp)")
        return Replicated(prepared.model, world.rank, world.size, spare)
    whole = shard(prepared.model, prepared.precision.name, prepared.device, recipe.parallel.reshard)
    kept = f"; {whole} quantised tensors are whole in each" if whole else ""
    notices.add("parallel", f"{many}; each holds a slice of every layer (fsdp){kept}")
    return Sharded(prepared.model, world.rank, world.size, spare)


def unsliced(prepared: Prepared, outlined: tuple[Any, Any]) -> Prepared:
    """What was prepared, with its sliced model put together again in every process; all processes call it."""
    model, adapted = outlined
    fill(model, prepared.model, prepared.device)
    return replace(prepared, model=model, adapted=adapted)


def save_in_slices(world: World, checkpoints: Checkpoints, saved: Checkpoint, best: bool) -> None:
    """Write a checkpoint of a sliced model, each process its own slices; process 0 makes and closes its folder."""
    failed: Exception | None = None
    if not world.first:
        folder = world.together()[0]
        if folder is not None:
            _write(world, Path(folder), saved)
        world.together()
        return
    announced = False

    def write(folder: Path) -> None:
        nonlocal announced
        announced = True
        world.together(str(folder))
        _write(world, folder, saved)

    try:
        checkpoints.save(saved, best, write)
    except FinesightError as error:
        failed = error
    if not announced:  # there was no room, or nothing to write
        world.together(error=failed)
    world.together(error=failed)


def _write(world: World, folder: Path, saved: Checkpoint) -> None:
    with world.telling():
        write_slices(folder, saved.tensors)
