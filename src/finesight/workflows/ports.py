"""Ports of a recipe's model without its weights: what data can be checked with, on any machine, in seconds."""

from collections.abc import Iterable
from pathlib import Path

from finesight.config.recipe import Recipe
from finesight.core.ports import Ports
from finesight.models.fresh import fresh_config, fresh_processor
from finesight.models.load import AS_IT_IS, Reading, load_processor
from finesight.models.ports import ports_of
from finesight.models.scratch import build_config, build_processor, learn_tokenizer
from finesight.workflows.composed import composed_ports
from finesight.workflows.places import adapter_of, model_place, run_of
from finesight.workflows.rundirs import SKELETON
from finesight.workflows.starting import reading_of


def recipe_ports(recipe: Recipe, words: Iterable[str]) -> Ports:
    """Ports of the model that a recipe names; the tokenizer of one from scratch learns from the training `words`."""
    if recipe.model.pretrained is not None:
        return found_ports(recipe.model.pretrained, reading_of(recipe.model))
    if recipe.model.fresh is not None:
        fresh = recipe.model.fresh
        own = fresh_processor(fresh, learn_tokenizer(words, fresh.vocabulary))
        return ports_of(own, fresh_config(fresh, own))
    if recipe.model.compose is not None:
        return composed_ports(recipe.model.compose, words)
    scratch = recipe.model.scratch
    assert scratch is not None  # the recipe has one of the four
    processor = build_processor(scratch, words)
    return ports_of(processor, build_config(scratch, processor))


def found_ports(model_or_run: str, reading: Reading = AS_IT_IS) -> Ports:
    """Ports of a run, a checkpoint, a model's or adapter's folder or a hub id; raises ModelError or RunError."""
    adapter = adapter_of(model_or_run, reading)
    place = Path(model_or_run)
    run = run_of(place) if place.exists() else None
    if adapter is not None:
        from finesight.workflows.adapting import load_processor_of

        config, processor = load_processor_of(adapter[0])
    elif (place / "manifest.json").is_file() and run is not None:
        config, processor = load_processor(str(run.checkpoints / SKELETON))
    else:
        config, processor = load_processor(model_place(model_or_run), reading)
    return ports_of(processor, config)
