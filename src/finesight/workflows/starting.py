"""The model that a run begins with: new, composed, or one that was trained before."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finesight.config.model import Model
from finesight.config.recipe import Recipe
from finesight.data.sets import SampleSet
from finesight.data.stream_rows import Head
from finesight.models.fresh import fresh_config, fresh_model, fresh_processor
from finesight.models.load import LoadedModel, Reading
from finesight.models.old import load_weights
from finesight.models.ports import ports_of
from finesight.models.scratch import build_model, learn_tokenizer, processor_with
from finesight.runtime.notices import Notices
from finesight.workflows.composed import composed_model
from finesight.workflows.course import words_of
from finesight.workflows.places import adapter_of, find_model
from finesight.workflows.tokenizer import learned_tokenizer


@dataclass(frozen=True)
class Words:
    """The texts that a tokenizer may learn from: training samples, or the first of a stream.

    `tick` is called with the number of samples that are read, and may raise to stop. `kept` is the file of a tokenizer
    that was learned before, from other texts: a run that goes on keeps its words.
    """

    train: SampleSet | None
    head: Head | None
    tick: Callable[[int], object]
    kept: Path | None = None

    def tokenizer(self, vocabulary: int) -> str:
        """The tokenizer that they give, as JSON."""
        learned = self._learned(vocabulary)
        if self.kept is None or not self.kept.is_file():
            return learned
        model = json.loads(self.kept.read_text(encoding="utf-8"))["model"]
        return json.dumps(json.loads(learned) | {"model": model}, ensure_ascii=False)

    def _learned(self, vocabulary: int) -> str:
        if self.train is not None:
            return learned_tokenizer(vocabulary, self.train, self.tick)
        assert self.head is not None
        return learn_tokenizer(words_of(self.head.samples), vocabulary)


def starting_model(recipe: Recipe, words: Words, notices: Notices) -> LoadedModel:
    """The model with its weights; raises ModelError or RunError where there is none."""
    model = recipe.model
    loaded = _starting(recipe, words, notices)
    if model.weights is not None:
        count = load_weights(loaded.model, model.weights)
        notices.add("weights", f"the model begins with {count} tensors of {model.weights}")
    return loaded


def reading_of(model: Model) -> Reading:
    """How the recipe wants `pretrained` to be read."""
    return Reading(model.revision, model.trust_remote_code, model.allow.missing, model.allow.unexpected)


def _starting(recipe: Recipe, words: Words, notices: Notices) -> LoadedModel:
    model = recipe.model
    if model.pretrained is not None:
        return _trained(model.pretrained, reading_of(model), notices)
    if model.compose is not None:
        return composed_model(model.compose, recipe.run.seed, words.tokenizer, notices)
    if model.fresh is not None:
        processor = fresh_processor(model.fresh, words.tokenizer(model.fresh.vocabulary))
        made = fresh_model(fresh_config(model.fresh, processor), recipe.run.seed)
    else:
        assert model.scratch is not None  # the recipe has one of the four
        processor = processor_with(model.scratch, words.tokenizer(model.scratch.tokenizer.vocabulary))
        made = build_model(model.scratch, processor, recipe.run.seed)
    return LoadedModel(made, processor, ports_of(processor, made.config))


def _trained(pretrained: str, reading: Reading, notices: Notices) -> LoadedModel:
    """A model as it is, or an adapter merged into its base."""
    adapter = adapter_of(pretrained, reading)
    if adapter is None:
        return find_model(pretrained, reading).loaded
    from finesight.workflows.adapting import open_merged

    return open_merged(*adapter, notices)
