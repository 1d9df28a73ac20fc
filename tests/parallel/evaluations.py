"""What several processes do to answer and score the same samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import steps
import torch

from finesight.config.load import parse_recipe
from finesight.data.loading.loader import in_order
from finesight.data.loading.order import Share
from finesight.evaluation.score import score
from finesight.generation.predict import predict
from finesight.models.forward import SupervisedForward
from finesight.runtime.distributed import World
from finesight.runtime.notices import Notices
from finesight.training.step import mean_loss
from finesight.workflows.prepare import prepare


def evaluations(world: World, mapping: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """Loss, answers and scores in batches of each of some sizes; and what is left as it was."""
    recipe = parse_recipe(mapping)
    prepared = prepare(recipe, Notices(), world=world)
    model, examples = prepared.model, prepared.splits["train"]
    model.train()
    model.model.vision_tower.eval()
    modes = [part.training for part in model.modules()]
    forward = SupervisedForward(model, prepared.ports.image)
    found: dict[str, Any] = {}
    for size in sizes:
        batches = in_order(examples, size, share=Share(world.rank, world.size))
        loss = mean_loss(model, forward, batches, prepared.precision, prepared.device, world)
        answers = predict(model, examples, recipe.generation, size, world=world)
        values = world.once(
            lambda answers=answers: {
                row.name: row.value for row in score(answers, ("token_f1", "bleu"), "val", resamples=1)
            }
        )
        found[str(size)] = {
            "loss": loss, "scores": values, "answers": [[item.id, item.prediction] for item in answers],
        }  # fmt: skip
    found["kept"] = modes == [part.training for part in model.modules()] and torch.is_grad_enabled()
    return found


def replicas(world: World) -> dict[str, Any]:
    """The toy model's steps in replicas, whatever their number."""
    model = steps.Seeing().double()
    told = steps.run(
        model, steps.engine_for("ddp", model, world, torch.float64), world, "mixed", torch.float64
    )
    return {"told": told, "values": steps.values(model)}


def three(world: World, mapping: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    return {"replicas": replicas(world), "evaluations": evaluations(world, mapping, sizes)}
