"""One training run: its collaborators put together from the recipe, restored, run and saved."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.batch import Batch
from finesight.core.events import Observer
from finesight.core.formats import FORMATS
from finesight.core.rundir import RunDirectory
from finesight.data.loading.loader import in_order
from finesight.data.loading.order import Share
from finesight.data.loading.workers import Workers
from finesight.data.policy import RowFault
from finesight.evaluation.score import score
from finesight.generation.predict import predict
from finesight.models.forward import SupervisedForward
from finesight.models.parts import parts_by_name
from finesight.planner.estimate import Cost
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.files import write_json
from finesight.runtime.signals import StopAsked, StopFlag
from finesight.training.checkpoint import BESIDE, Checkpoint, Checkpoints, bytes_needed, load_checkpoint
from finesight.training.loop import Again, Loop, LoopState, Timetable
from finesight.training.memory import OutOfMemory, give_back
from finesight.training.optim import build_optimizer, group_lines, state_bytes
from finesight.training.parallel import share_averages
from finesight.training.profiling import check_profile
from finesight.training.records import Records
from finesight.training.schedule import schedule_of
from finesight.training.sharded import gathered, outline
from finesight.training.state import (
    model_tensors,
    optimizer_tensors,
    owned,
    restore_model,
    restore_optimizer,
    room_of,
)
from finesight.training.step import Step, mean_loss
from finesight.training.stopping import Best
from finesight.workflows.audited import audit_of
from finesight.workflows.changes import Changes
from finesight.workflows.course import Course, steps_of
from finesight.workflows.engines import engine_of, unsliced
from finesight.workflows.explained import Explained
from finesight.workflows.fitting import Fitting
from finesight.workflows.numbers import chunked_loss, compiled_layers, sampling_of
from finesight.workflows.pace import Pace
from finesight.workflows.packed import try_packing
from finesight.workflows.plan import predicted_cost
from finesight.workflows.prepare import Prepared, course_of
from finesight.workflows.probe import PictureProbe
from finesight.workflows.saving import Saving

_log = logging.getLogger("finesight")


class Session:
    """The collaborators of one training run, put together from the recipe."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunDirectory,
        prepared: Prepared,
        checkpoints: Checkpoints,
        asked: StopFlag,
        observer: Observer | None,
        world: World = ALONE,
    ) -> None:
        self._recipe, self._run, self._prepared, self._checkpoints = recipe, run, prepared, checkpoints
        self._asked, self._observer, self._world = asked, observer, world
        train = recipe.train
        self._forward = SupervisedForward(prepared.model, prepared.ports.image)
        with world.turn():
            course = course_of(recipe, prepared, world)
            self._fitting = Fitting(recipe, run, course, prepared.notices, world)
            self._steps = steps_of(recipe, course)
            check_profile(recipe.profile, self._steps)
            if train.packing:  # before the model is in slices, which have numbers of their own
                try_packing(prepared, self._forward, self._course)
            self._chunked = chunked_loss(recipe, prepared, self._forward, self._course, world.strategy)
        self._loss = None if self._chunked is None else self._chunked.loss
        self._compiled = compiled_layers(recipe, prepared, self._forward)
        sliced = world.strategy == "fsdp"
        self._outline = outline(prepared.model, prepared.adapted) if sliced else None
        engine = engine_of(recipe, prepared, world, cache(self._course.spare))
        self._optimizer = build_optimizer(prepared.model, train, parts_by_name(prepared.model))
        for line in group_lines(self._optimizer, train):
            _log.info("%s", line)
        self._step = Step(
            prepared.model,
            self._forward,
            self._optimizer,
            prepared.precision,
            train.clip,
            recipe.run.seed,
            prepared.device,
            engine,
            train.label_smoothing,
            train.on_nan == "skip",
            self._loss,
            sampling_of(recipe, prepared, self._forward, self._chunked, self._steps),
        )
        self._records = Records(run, recipe.log.every, recipe.log.samples) if world.first else None
        val = prepared.splits.get("val")
        self._probe = None if val is None else PictureProbe(val, "val", recipe, prepared.notices, world)
        self._pace = Pace(asked, self._checkpoint_bytes)
        self._explained = Explained(recipe, run, prepared, world)
        share = self._checkpoint_bytes // (world.size if sliced else 1)
        self._saving = Saving(
            *(world, checkpoints, self._tensors, share, train.async_save, prepared.notices, self._pace)
        )
        self._checked = set(prepared.policy.listed)

    def restore(self, changes: Changes | None = None) -> LoopState:
        """The state to go on from: the newest whole checkpoint's, or that of a new run; `changes` were forced."""
        newest = self._world.once(self._newest)
        if newest is None:
            self._check_space()
            if self._records is not None:
                self._records.rewind(0, False)
            _log.info("begins at step 1 of %d", self._steps)
            return LoopState()
        saved = self._load(newest)
        restore_model(self._prepared.model, saved.tensors["model"], newest, self._learned_alone)
        restore_optimizer(self._optimizer, saved.tensors["optimizer"], newest)
        if saved.state["scaler"]:  # else the run had none so far
            self._step.scaler.load_state_dict(saved.state["scaler"])
        self._fitting.restore(saved.state)
        state = LoopState.restored(saved.step, saved.state["loop"])
        if changes is not None and changes.remeasured and state.best.value is not None:
            self._prepared.notices.add(
                "forced", "the best so far is forgotten: it was measured in another way"
            )
            state.best = Best()
        met = {kind: [RowFault(*row) for row in rows] for kind, rows in saved.state["met"].items()}
        self._prepared.policy.recall(**met)
        if self._records is not None:
            self._checkpoints.point("best", None if state.best.value is None else state.best.step)
            self._records.rewind(state.step, state.evaluated == state.step)
        _log.info("resumed after step %d of %d", state.step, self._steps)
        return state

    def take_best(self) -> Prepared:
        """What was prepared, with the weights of the best checkpoint; the whole model in every process."""
        self._compiled.take_out()
        best = self._world.once(lambda: str(self._checkpoints.best_or_last()))
        restore_model(self._prepared.model, self._load(best).tensors["model"], best, self._learned_alone)
        return self._prepared if self._outline is None else unsliced(self._prepared, self._outline)

    def _load(self, place: str) -> Checkpoint:
        """A checkpoint; of slices a sliced model reads its own alone."""
        sliced = self._world.strategy == "fsdp"
        room = room_of(self._prepared.model, self._optimizer, self._learned_alone) if sliced else None
        return load_checkpoint(Path(place), room)

    @property
    def _course(self) -> Course:
        """What is learned from step by step, in micro-batches that fit."""
        return self._fitting.course

    def _newest(self) -> str | None:
        found = self._checkpoints.newest()
        return None if found is None else str(found)

    def _check_space(self) -> None:
        """Refuse to begin what the disk cannot hold: all checkpoints that are there at once, and the finished model."""
        weights = bytes_needed({"model": owned(self._prepared.model, self._learned_alone)})
        saves = min(1 + self._steps // self._save_every, self._recipe.train.keep_last + BESIDE)
        needed = weights + saves * self._checkpoint_bytes
        self._world.once(lambda: self._checkpoints.check_space(needed))

    @property
    def _checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint, about."""
        weights = bytes_needed({"model": owned(self._prepared.model, self._learned_alone)})
        return weights + round(state_bytes(self._prepared.model, self._recipe.train))

    @property
    def _learned_alone(self) -> bool:
        """Whether checkpoints hold only what learns: an adapter's base is elsewhere, and known by its fingerprint."""
        return self._prepared.adapted is not None

    @property
    def _save_every(self) -> int:
        return self._recipe.train.save_every or self._evaluate_every

    @property
    def _evaluate_every(self) -> int:
        return self._recipe.evaluation.every or self._course.steps_per_epoch or self._steps

    @property
    def _mean_epoch(self) -> float:
        """Steps of an epoch: with `batch_tokens` they are unlike, and the mean ends the last one with the run."""
        epochs, first = self._recipe.train.epochs, self._course.steps_per_epoch
        return self._steps / epochs if epochs and first else first or math.inf

    def fit(self, state: LoopState, tracker: Observer | None = None) -> None:
        """Train from `state` to the end; `tracker` is told of it, too."""
        recipe, prepared = self._recipe, self._prepared
        train = recipe.train
        times = Timetable(
            steps=self._steps,
            steps_per_epoch=self._mean_epoch,
            evaluate_every=self._evaluate_every,
            save_every=self._save_every,
            measure=recipe.evaluation.best_by,
            stop=train.stop,
            nan_limit=train.nan_limit,
        )
        self._predict(state)
        if self._observer is not None:
            self._observer.on_phase("train", self._steps)
            self._observer.on_progress(state.step)
        prepared.model.train()
        looking_on = (self._records, tracker, self._observer, self._pace, *self._explained.observers)
        loop = Loop(
            step=self._step,
            schedule=schedule_of(train, self._steps),
            timetable=times,
            evaluate=self._measure if "val" in prepared.splits else None,
            save=self._save,
            observers=[one for one in looking_on if one is not None],
            asked=self._asked,
            world=self._world,
            gauges=self._explained.gauges(),
            durable=self._saving.wait,
            smaller=self._fitting.smaller,
        )
        audit = audit_of(recipe, self._run, prepared, self._world)
        self._step.audit = None if audit.done else audit
        with closing(self._saving):
            while not self._trained(loop, state):
                pass
        audit.close()

    def _trained(self, loop: Loop, state: LoopState) -> bool:
        """Train to the end; False where the next step is to be made in smaller micro-batches."""
        data, device = self._recipe.data, self._prepared.device
        workers = Workers(data.workers, data.timeout, self._stop_if_asked, device)
        source = self._course.windows(state.step, self._steps, workers)
        with self._explained.over(source, state.step, self._step.meter) as windows:
            try:
                loop.run(self._saving.checked(windows), state)
            except Again:
                self._saving.wait()  # no process is forked meanwhile
                return False
        return True

    def taken(self, state: LoopState) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the finished training took beside its time, and its energy."""
        return self._explained.taken(state, self._optimizer), self._explained.energy(state)

    def _predict(self, state: LoopState) -> None:
        """Write what the rest of the run will take. A model in slices is timed by all processes, another by one."""
        world, run = self._world, self._run
        if world.once(run.plan.is_file) or state.step >= self._steps:
            return
        if world.first or world.strategy == "fsdp":
            cost = self._predicted()
            if world.first:
                plan = {
                    "format": FORMATS["plan"],
                    **self._explained.planned(cost),
                    "measured": None,
                }
                write_json(run.plan, plan)

    def _predicted(self) -> Cost:
        """By one pass over the first window, in micro-batches that fit."""
        averages = state_bytes(self._prepared.model, self._recipe.train)
        while True:
            try:
                with self._compiled.left_out():
                    return predicted_cost(
                        *(self._prepared, self._forward, self._course, self._steps, averages),
                        processes=self._world.size,
                        loss=self._loss,
                    )
            except OutOfMemory as error:
                if not self._fitting.smaller(error):
                    raise
            self._step.forget()
            give_back(self._prepared.device)

    def _measure(self) -> dict[str, float]:
        """Validation loss, and the metrics over the first `evaluation.max_samples` answers."""
        recipe, prepared, world = self._recipe, self._prepared, self._world
        examples, settings = prepared.splits["val"], recipe.evaluation
        batches = in_order(examples, settings.batch_size, prepared.policy, Share(world.rank, world.size))

        def unless_asked() -> Iterator[Batch]:
            for batch in batches:
                self._stop_if_asked()
                yield batch

        def scores() -> dict[str, float]:
            rows = score(answers, settings.metrics, "val", seed=recipe.run.seed, resamples=1)
            return {row.name: row.value for row in rows if row.slice == "all"}

        if world.size > 1:
            share_averages(prepared.model)
        # slices are gathered in the numbers of the forward pass
        numbers = prepared.precision.autocast() if world.strategy == "fsdp" else nullcontext()
        with gathered(prepared.model), self._compiled.left_out(), numbers:
            loss = mean_loss(
                *(prepared.model, self._forward, unless_asked(), prepared.precision, prepared.device, world),
                loss=self._loss,
            )
            pictures = self._pictures()
            if not settings.max_samples:
                return {"val_loss": loss, **pictures}
            answers = predict(
                *(prepared.model, examples, recipe.generation, settings.batch_size, settings.max_samples),
                tick=self._stop_if_asked,
                policy=prepared.policy,
                world=world,
            )
        return {"val_loss": loss, **pictures, **world.once(scores)}

    def _pictures(self) -> dict[str, float]:
        """What the pictures of some validation samples are worth."""
        prepared, probe = self._prepared, self._probe
        assert probe is not None  # there are validation samples
        tick = self._stop_if_asked
        effect = probe(prepared.model, self._forward, prepared.precision, prepared.device, tick)
        return {} if effect is None else effect.values()

    def _stop_if_asked(self, _: int = 0) -> None:
        if self._asked():
            raise StopAsked

    def _save(self, state: Mapping[str, Any], step: int, best: bool) -> None:
        """Write a checkpoint of the run as it is now."""

        def facts() -> dict[str, Any]:
            alone = self._world.control is not None and self._world.control.alone
            met = self._met() if alone else self._met_by_all()
            scaler = dict(self._step.scaler.state_dict())
            return {"loop": dict(state), "scaler": scaler, "met": met, **self._fitting.state()}

        self._saving.save(step, facts, best)

    def _tensors(self, copy: bool) -> dict[str, dict[str, Any]]:
        sliced = self._world.strategy == "fsdp"
        model = model_tensors(self._prepared.model, self._learned_alone, sliced, copy)
        return {"model": model, "optimizer": optimizer_tensors(self._optimizer, sliced, copy)}

    def _met(self) -> dict[str, list[Any]]:
        """Rows that were met in use and left out, or cut."""
        policy = self._prepared.policy
        return {
            kind: [astuple(row) for row in rows if row not in self._checked]
            for kind, rows in (("bad", policy.faults), ("long", policy.long))
        }

    def _met_by_all(self) -> dict[str, list[Any]]:
        """The same of all processes; each then knows them."""
        for met in self._world.together(self._met()):
            self._prepared.policy.recall(
                **{kind: [RowFault(*row) for row in rows] for kind, rows in met.items()}
            )
        return self._met()
