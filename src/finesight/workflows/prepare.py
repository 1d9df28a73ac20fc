"""From a recipe to checked data and a model that is ready to learn."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from finesight.config.recipe import Recipe
from finesight.core.events import Observer
from finesight.core.ports import Ports
from finesight.data.dataset import ExampleSet, transform_of
from finesight.data.lengths import Limit
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
from finesight.models.parts import count, freeze, size_lines
from finesight.models.recompute import checkpoint_activations
from finesight.runtime.device import choose_device
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.notices import Notices
from finesight.training.precision import Precision, choose_precision
from finesight.workflows.course import ByNumber, Course, Streamed, open_stream
from finesight.workflows.features import remember_features
from finesight.workflows.places import adapter_of, model_place
from finesight.workflows.starting import Words, reading_of, starting_model

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
) -> Prepared:
    """Read and check all data, build ports, then the model from its parts; every fault is told before a step is made.

    `go_on` is called at each row and may raise to stop. Of several processes the first checks and encodes all; the
    others find that in its caches.
    """
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
        loaded, adapted = _learner(recipe, Words(samples.get("train"), head, tick), precision, notices)
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
    _say_size(prepared)
    return prepared


def order_of(recipe: Recipe, examples: ExampleSet) -> Order:
    """The order in which a run sees its training examples."""
    train = recipe.train
    return Order(
        examples.fingerprint,
        recipe.run.seed,
        train.batch_size,
        examples.lengths,
        train.length_window,
        train.overfit,
        Mixture.of(recipe.data.train, examples.samples.sources, examples.fingerprint, recipe.run.seed),
    )


def course_of(recipe: Recipe, prepared: Prepared, world: World = ALONE) -> Course:
    """What a run sees step by step: of several processes, this one's share."""
    share = Share(world.rank, world.size)
    size, wanted = recipe.train.batch_size, recipe.train.micro_batch
    micro = size if wanted == "auto" else wanted
    if prepared.stream is not None:
        assert prepared.head is not None
        return Streamed(prepared.stream, prepared.head, size, micro, prepared.policy, share)
    examples = prepared.splits["train"]
    return ByNumber(examples, order_of(recipe, examples), micro, prepared.policy, share)


def _learner(recipe: Recipe, words: Words, precision: Precision, notices: Notices) -> tuple[LoadedModel, Any]:
    """The model that learns, what does not learn frozen; and its adapter, where the recipe has one."""
    adapted = _adapted(recipe, precision, notices)
    if adapted is None:
        loaded = starting_model(recipe, words, notices)
        _freeze(loaded.model, recipe, notices)
    else:
        loaded = adapted.loaded
    for kind, text in loaded.ports.said:
        notices.add(kind, text)
    if recipe.train.gradient_checkpointing:
        checkpoint_activations(loaded.model)
    return loaded, adapted


def _adapted(recipe: Recipe, precision: Precision, notices: Notices) -> Any:
    """The recipe's adapter on its base; None where the recipe has none."""
    if recipe.adapter is None:
        return None
    from finesight.workflows.adapting import begin_adapter

    assert recipe.model.pretrained is not None  # the recipe was checked
    continued = adapter_of(recipe.model.pretrained)
    place = model_place(recipe.model.pretrained)
    reading = reading_of(recipe.model)
    return begin_adapter(place, continued, recipe.adapter, precision.name, recipe.run.seed, notices, reading)


def _freeze(model: Any, recipe: Recipe, notices: Notices) -> None:
    frozen = freeze(model, recipe.model.freeze)
    if frozen:
        notices.add("frozen", f"{len(frozen)} tensors that no output depends on: {', '.join(frozen)}")
    for part in recipe.model.freeze:
        notices.add("frozen", f"the {part.replace('_', ' ')} does not learn")


def _say_size(prepared: Prepared) -> None:
    for line in size_lines(prepared.model):
        _log.info("%s", line)
    for line in lines(prepared.outline):
        _log.info("%s", line)
    listed = len(prepared.policy.listed)
    if listed:
        _log.info("faults.csv lists %s rows that were left out or cut", f"{listed:,}")
