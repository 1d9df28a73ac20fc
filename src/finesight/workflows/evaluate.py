"""Evaluate a model or a run on a split of a recipe's data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finesight.config.load import load_recipe
from finesight.config.recipe import Recipe
from finesight.core.errors import RecipeError
from finesight.core.events import Observer
from finesight.core.rundir import RunDirectory
from finesight.data.dataset import ExampleSet
from finesight.data.lengths import Limit
from finesight.data.passes.parallel import cores
from finesight.data.passes.passing import Means
from finesight.data.policy import Policy
from finesight.data.sets import read_splits
from finesight.evaluation.table import results_document
from finesight.models.forward import SupervisedForward
from finesight.models.load import Reading
from finesight.models.spread import answering, input_device, settle
from finesight.runtime.device import choose_device
from finesight.runtime.distributed import World, joined
from finesight.runtime.files import write_json
from finesight.runtime.logs import errors_to
from finesight.runtime.notices import Notices
from finesight.training.precision import Precision
from finesight.workflows.held import held, say_held
from finesight.workflows.places import find_model, run_of
from finesight.workflows.probe import PictureProbe, say_effect
from finesight.workflows.scoring import answer_split, answered, score_split


def evaluate(
    model_or_run: str,
    *,
    split: str = "test",
    overrides: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    out: Path | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Answer every sample of `split` and score the answers; returns the document that `results.json` holds.

    Predictions and scores go to `out`; where absent, to `evaluations/<split>` in the run, so that the run's own results
    stay as they were. `model.load` among the overrides says in which numbers and on which devices the model is held,
    which is recorded in `loaded`. Of several processes (`torchrun`) each calls this and answers a share of the samples;
    the first one alone writes, and gives the document back. Raises RecipeError where there is no such split.
    """
    run = run_of(Path(model_or_run)) if Path(model_or_run).exists() else None
    if run is None:
        there = (
            "a model alone does"
            if Path(model_or_run).exists()
            else "there is nothing at this place, and a hub id does"
        )
        raise RecipeError(
            f"{there} not say what to evaluate on",
            model_or_run,
            "correct the path, or give a run, its `model/` or a checkpoint of it",
        )
    words = [*overrides, *([f"evaluation.metrics=[{','.join(metrics)}]"] if metrics else [])]
    recipe = load_recipe(str(run.recipe), words)
    folder = out or run.path / "evaluations" / split
    with joined("auto", recipe.parallel.timeout, recipe.run.device) as world:
        if world.control is None or world.first:
            return _evaluate(model_or_run, run, recipe, split, folder, observer, world)
        control = world.control
        with errors_to(folder / f"process-{world.rank}.log", lambda: control.ending):
            return _evaluate(model_or_run, run, recipe, split, folder, None, world)


def _evaluate(
    model_or_run: str,
    run: RunDirectory,
    recipe: Recipe,
    split: str,
    folder: Path,
    observer: Observer | None,
    world: World,
) -> dict[str, Any]:
    """Of several processes each answers a share of the samples; the first one scores and writes."""
    if world.control is not None and recipe.model.load.spread:
        raise RecipeError(
            f"{world.size} processes were started, and a model that is spread over devices answers in one",
            "model.load.spread",
            "start one process, or leave --spread out",
        )
    notices, policy = Notices(), Policy(recipe.data)
    device = choose_device(recipe.run.device, notices, recipe.run.threads, place=world.place)
    found = find_model(model_or_run, Reading(load=recipe.model.load, device=device.type))
    tick = observer.on_progress if observer else bool
    with world.turn():
        samples = read_splits(recipe.data, recipe.run.seed, policy, notices, tick)
        if split not in samples:
            raise RecipeError(
                f"there is no split `{split}`", str(run.recipe), f"use one of: {', '.join(samples)}"
            )
    limit = Limit(recipe.data.on_long, recipe.data.max_tokens)
    means = Means(cores(), recipe.data.timeout, tick, notices)
    with world.turn():
        sets = {
            name: ExampleSet(samples[name], found.loaded.ports, policy, limit=limit, name=name, means=means)
            for name in sorted({split, "train"} & samples.keys())
        }
    settle(found.loaded.model, device)
    facts = held(found)
    say_held(facts, notices)
    predictions = answer_split(
        found.loaded.model, sets[split], recipe, split, folder, observer, policy=policy, world=world
    )
    pictures = _pictures(found.loaded.model, sets[split], split, recipe, notices, world)
    if not world.first:
        return {}
    left = answered(sets[split], predictions)
    scores, comparisons = score_split(predictions, recipe, split, left, sets.get("train"), policy)
    document = {**results_document(scores, comparisons), "loaded": facts, **pictures}
    write_json(RunDirectory(folder).results, document)
    return {**document, "results": str(RunDirectory(folder).results)}


def _pictures(
    model: Any, examples: ExampleSet, split: str, recipe: Recipe, notices: Notices, world: World
) -> dict[str, Any]:
    """What the pictures of some samples are worth to the model."""
    device = input_device(model)
    probe = PictureProbe(examples, split, recipe, notices, world)
    forward = SupervisedForward(model, examples.ports.image)
    with answering(model):
        effect = probe(model, forward, Precision("fp32", device.type), device)
    if effect is None:
        return {}
    say_effect(effect, notices)
    return {"pictures": effect.document()}
