"""How a run's processes share the work: its model made ready for that, right before the optimizer."""

from dataclasses import replace
from typing import Any

from finesight.config.recipe import Recipe
from finesight.runtime.distributed import World
from finesight.training.parallel import Engine, Replicated, Single, Spare, has_averages
from finesight.training.sharded import Sharded, fill, shard
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
