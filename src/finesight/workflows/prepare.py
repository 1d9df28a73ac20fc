"""From a recipe to checked data and a model that is ready to learn."""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finesight.config.recipe import Recipe
from finesight.config.train import Train
from finesight.core.errors import DataError, RecipeError
from finesight.core.events import Observer
from finesight.core.ports import Ports
from finesight.core.rundir import RunDirectory
from finesight.data.dataset import ExampleSet, transform_of
from finesight.data.lengths import Limit
from finesight.data.loading.layout import Budget, Layout
from finesight.data.loading.mixture import Mixture
from finesight.data.loading.order import Order, Share
from finesight.data.loading.stream import StreamSet
from finesight.data.outline import lines, outline
from finesight.data.passes.parallel import cores
from finesight.data.passes.passing import Means
from finesight.data.policy import Policy
from finesight.data.sets import read_splits
from finesight.data.stream_rows import Head
from finesight.export.loading import Kind
from finesight.models.load import LoadedModel
from finesight.models.packing import PackedRows
from finesight.models.parts import check_frozen, count, freeze, frozen_lines, size_lines
from finesight.models.recompute import checkpoint_activations
from finesight.runtime.device import choose_device
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.notices import Notices
from finesight.training.precision import Precision, choose_precision
from finesight.workflows.course import ByNumber, Course, Streamed, open_stream
from finesight.workflows.features import remember_features
from finesight.workflows.places import adapter_of, model_place
from finesight.workflows.rundirs import SKELETON
from finesight.workflows.starting import Words, reading_of, starting_model

_LEAST_WINDOW, _MOST_WINDOW = 1024, 10_000
"""Samples among which those of a step are chosen by length: fewer leave rows open, more tie a sample to its like."""
_MOST_NAMED = 8
"""Samples that a message names."""

_log = logging.getLogger("finesight")


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation need.

    `splits` has `val` and `test` where the recipe does, and `train` unless the training samples are a `stream`; its
    first rows are then the `head`.
    """

    model: Any
    processor: Any
    ports: Ports
    splits: Mapping[str, ExampleSet]
    device: torch.device
    precision: Precision
    policy: Policy
    notices: Notices
    stream: StreamSet | None = None
    head: Head | None = None
    adapted: Any = None
    """The adapter and its base, a `workflows.adapting.Adapted`, where the recipe has an adapter."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of data and encoder, by split."""
        stream = {} if self.stream is None else {"train": self.stream.fingerprint}
        return stream | {name: examples.fingerprint for name, examples in self.splits.items()}

    @cached_property
    def outline(self) -> dict[str, dict[str, Any]]:
        """What is known of each split."""
        return outline(self.splits)

    @property
    def kind(self) -> Kind:
        """How the model is asked."""
        if self.ports.image is None:
            return "text" if self.ports.encoder is None else "text2text"
        return "chat" if self.ports.image.placeholder else "captions"

    def facts(self) -> dict[str, Any]:
        """What `environment.json` says of data and model."""
        parts = {
            name: {"total": part.total, "trainable": part.trainable}
            for name, part in count(self.model).items()
        }
        where = {
            "device": str(self.device),
            "precision": self.precision.name,
            "threads": torch.get_num_threads(),
        }
        stream = {} if self.stream is None else {"train": self.stream.facts()}
        bad, listed = len(self.policy.faults), len(self.policy.listed)
        faults = {"bad_rows": bad, "too_long": listed - bad}
        data = {**stream, **self.outline}
        family = self.model.config.model_type
        base = {} if self.adapted is None else {"base": self.adapted.base.facts()}
        known = {"data": data, "faults": faults, "family": family, "kind": self.kind, "parameters": parts}
        return {**known, **base, "compute": where}


def prepare(
    recipe: Recipe,
    notices: Notices,
    observer: Observer | None = None,
    go_on: Callable[[], object] = bool,
    world: World = ALONE,
    words: Path | None = None,
) -> Prepared:
    """Read and check all data, build ports, then the model from its parts; every fault is told before a step is made.

    `go_on` is called at each row and may raise to stop. Of several processes the first checks and encodes all; the
    others find that in its caches. A tokenizer to be learned has the `words` of this file, if it is there.
    """
    _check_load(recipe)
    run = recipe.run
    device = choose_device(run.device, notices, run.threads, recipe.data.workers, world.place)
    precision = choose_precision(recipe.train.precision, device.type, notices)
    policy = Policy(recipe.data)
    if observer is not None:
        observer.on_phase("check data", 0)

    def tick(rows: int) -> None:
        go_on()
        if observer is not None:
            observer.on_progress(rows)

    with world.turn():
        rows, head = open_stream(recipe, policy, notices, tick) if recipe.data.streams else (None, None)
        samples = read_splits(recipe.data, run.seed, policy, notices, tick)
    with world.turn():
        loaded, adapted = _learner(recipe, Words(samples.get("train"), head, tick, words), precision, notices)
        if recipe.train.packing:
            PackedRows(loaded.model)  # raises where it is known that it cannot
    transform = transform_of(recipe.data.transforms) if not recipe.train.overfit else None
    limit = Limit(recipe.data.on_long, recipe.data.max_tokens)
    splits = {}
    with world.turn():
        for name, chosen in samples.items():
            if observer is not None:
                observer.on_phase(f"encode {name}", len(chosen))
            splits[name] = ExampleSet(
                *(chosen, loaded.ports, policy, transform if name == "train" else None, run.seed),
                limit=limit,
                name=name,
                means=Means(cores(), recipe.data.timeout, tick, notices),
            )
    if policy.faults:
        notices.add("dropped", "rows that could not be used are listed in faults.csv", len(policy.faults))
    with world.turn():
        loaded.model.to(device)
        remember_features(recipe, loaded.model, splits, precision, notices, observer, tick)
    stream = None if rows is None else StreamSet(rows, loaded.ports, run.seed, limit, transform)
    prepared = Prepared(
        *(loaded.model, loaded.processor, loaded.ports, splits, device, precision, policy, notices),
        stream=stream,
        head=head,
        adapted=adapted,
    )
    return _said(prepared)


def order_of(recipe: Recipe, examples: ExampleSet) -> Order:
    """The order in which a run sees its training examples; raises DataError where one is longer than a step may be."""
    train = recipe.train
    longest_fits(train, examples)
    return Order(
        examples.fingerprint,
        recipe.run.seed,
        train.batch_size or 1,
        examples.lengths,
        0 if train.packing else train.length_window,
        train.overfit,
        Mixture.of(recipe.data.train, examples.samples.sources, examples.fingerprint, recipe.run.seed),
        _budget(train, examples),
    )


def _budget(train: Train, examples: ExampleSet) -> Budget | None:
    """Where steps are of so many tokens: which samples make one."""
    if train.batch_tokens is None:
        return None
    together = max(1, train.batch_tokens // max(1, examples.tokens // len(examples)))
    window = (
        min(max(_LEAST_WINDOW, train.length_window * together), _MOST_WINDOW) if train.length_window else 0
    )
    return Budget(train.batch_tokens, train.packing, examples.sizes, window)


def longest_fits(train: Train, examples: ExampleSet) -> None:
    """Raise DataError, naming the samples, where some are longer than `batch_tokens` or `micro_tokens`."""
    bounds = {"train.batch_tokens": train.batch_tokens, "train.micro_tokens": train.micro_tokens}
    for key, most in bounds.items():
        long = [] if most is None else np.flatnonzero(examples.lengths > most).tolist()
        if long:
            named = "; ".join(
                f"`{examples.samples.id(at)}` of {examples.samples.origin(at)} has {examples.lengths[at]}"
                for at in long[:_MOST_NAMED]
            )
            more = f"; and {len(long) - _MOST_NAMED:,} more" if len(long) > _MOST_NAMED else ""
            raise DataError(
                f"{len(long):,} samples have more than the {most} tokens of `{key}`: {named}{more}",
                key,
                f"raise it to {int(examples.lengths.max())}, or give `data.max_tokens` and `data.on_long`",
            )


def course_of(recipe: Recipe, prepared: Prepared, world: World = ALONE) -> Course:
    """What a run sees step by step: of several processes, this one's share."""
    layout, share = layout_of(recipe.train), Share(world.rank, world.size)
    if prepared.stream is not None:
        assert prepared.head is not None
        assert recipe.train.batch_size is not None  # the recipe was checked
        size = recipe.train.batch_size
        return Streamed(prepared.stream, prepared.head, size, layout, prepared.policy, share)
    examples = prepared.splits["train"]
    return ByNumber(examples, order_of(recipe, examples), layout, prepared.policy, share)


def layout_of(train: Train) -> Layout:
    """How the samples of a step become micro-batches."""
    samples = train.batch_size if train.micro_batch == "auto" else train.micro_batch
    return Layout(sys.maxsize if samples is None else samples, train.micro_tokens, train.packing)


def _check_load(recipe: Recipe) -> None:
    """Refuse to train a model that is held as only one that answers can be."""
    load = recipe.model.load
    if load.spread:
        raise RecipeError(
            "a model whose weights are spread over devices, or lie on the disk, only answers: it cannot be trained",
            "model.load.spread",
            "take it out; to train on less memory, give an `adapter` with `quantize: nf4`, and "
            "`train.gradient_checkpointing: true`",
        )
    if load.quantize is not None:
        raise RecipeError(
            "weights in few bits do not learn: `model.load` is for a model that only answers",
            "model.load.quantize",
            "take it out; an adapter learns on a quantised base by `adapter.quantize`",
        )


def _learner(recipe: Recipe, words: Words, precision: Precision, notices: Notices) -> tuple[LoadedModel, Any]:
    """The model that learns, what does not learn frozen; and its adapter, where the recipe has one."""
    adapted = _adapted(recipe, precision, notices)
    if adapted is None:
        loaded = starting_model(recipe, words, notices)
        _freeze(loaded.model, recipe, notices)
    else:
        loaded = adapted.loaded
        check_frozen(loaded.model, recipe.model.freeze)
    for kind, text in loaded.ports.said:
        notices.add(kind, text)
    if recipe.train.gradient_checkpointing:
        checkpoint_activations(loaded.model, recipe.train.packing)
    return loaded, adapted


def _adapted(recipe: Recipe, precision: Precision, notices: Notices) -> Any:
    """The recipe's adapter on its base; None where the recipe has none."""
    if recipe.adapter is None:
        return None
    from finesight.workflows.adapting import begin_adapter, begun_with

    assert recipe.model.pretrained is not None  # the recipe was checked
    reading = reading_of(recipe.model)
    continued = adapter_of(recipe.model.pretrained, reading)
    place = model_place(recipe.model.pretrained)
    if continued is None and reading.revision is None:
        begun = RunDirectory(Path(recipe.directory)).checkpoints / SKELETON
        reading = replace(reading, revision=begun_with(begun, place))
    return begin_adapter(place, continued, recipe.adapter, precision.name, recipe.run.seed, notices, reading)


def _freeze(model: Any, recipe: Recipe, notices: Notices) -> None:
    frozen = freeze(model, recipe.model.freeze)
    if frozen:
        notices.add("frozen", f"{len(frozen)} tensors that no output depends on: {', '.join(frozen)}")
    for line in frozen_lines(model, recipe.model.freeze):
        notices.add("frozen", line)


def _said(prepared: Prepared) -> Prepared:
    """What was prepared; its sizes are told."""
    for line in size_lines(prepared.model):
        _log.info("%s", line)
    for line in lines(prepared.outline):
        _log.info("%s", line)
    listed = len(prepared.policy.listed)
    if listed:
        _log.info("faults.csv lists %s rows that were left out or cut", f"{listed:,}")
    return prepared
