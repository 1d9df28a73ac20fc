"""One training run: its collaborators put together from the recipe, restored, run and saved."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import astuple
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.batch import Batch
from finesight.core.events import Observer
from finesight.core.formats import FORMATS
from finesight.core.rundir import RunDirectory
from finesight.data.loading.loader import in_order
from finesight.data.loading.workers import Workers
from finesight.data.policy import RowFault
from finesight.evaluation.score import score
from finesight.generation.predict import predict
from finesight.models.forward import SupervisedForward
from finesight.planner.estimate import ADAM_BYTES
from finesight.runtime.files import write_json
from finesight.runtime.signals import StopFlag
from finesight.training.checkpoint import MOST_AT_ONCE, Checkpoint, Checkpoints, bytes_needed, load_checkpoint
from finesight.training.loop import Loop, LoopState, StopAsked, Timetable
from finesight.training.optim import build_optimizer
from finesight.training.records import Records
from finesight.training.schedule import Schedule, warmup_steps
from finesight.training.state import model_tensors, optimizer_tensors, restore_model, restore_optimizer
from finesight.training.step import Step, mean_loss
from finesight.workflows.course import steps_of
from finesight.workflows.packed import try_packing
from finesight.workflows.plan import predicted_cost
from finesight.workflows.prepare import Prepared, course_of

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
    ) -> None:
        self._recipe, self._run, self._prepared, self._checkpoints = recipe, run, prepared, checkpoints
        self._asked, self._observer = asked, observer
        train = recipe.train
        self._course = course_of(recipe, prepared)
        self._steps = steps_of(recipe, self._course)
        self._optimizer = build_optimizer(prepared.model, train)
        self._forward = SupervisedForward(prepared.model, prepared.ports.image)
        self._step = Step(
            prepared.model,
            self._forward,
            self._optimizer,
            prepared.precision,
            train.clip,
            recipe.run.seed,
            prepared.device,
        )
        self._records = Records(run, recipe.log.every, recipe.log.samples)
        self._checked = set(prepared.policy.listed)

    def restore(self) -> LoopState:
        """The state to go on from: the newest whole checkpoint's, or that of a new run."""
        newest = self._checkpoints.newest()
        if newest is None:
            self._check_space()
            self._records.rewind(0, False)
            _log.info("begins at step 1 of %d", self._steps)
            return LoopState()
        saved = load_checkpoint(newest)
        restore_model(self._prepared.model, saved.tensors["model"], str(newest), self._learned_alone)
        restore_optimizer(self._optimizer, saved.tensors["optimizer"], str(newest))
        self._step.scaler.load_state_dict(saved.state["scaler"])
        state = LoopState.restored(saved.step, saved.state["loop"])
        met = {kind: [RowFault(*row) for row in rows] for kind, rows in saved.state["met"].items()}
        self._prepared.policy.recall(**met)
        self._checkpoints.point("best", None if state.best.value is None else state.best.step)
        self._records.rewind(state.step, state.evaluated == state.step)
        _log.info("resumed after step %d of %d", state.step, self._steps)
        return state

    def _check_space(self) -> None:
        """Refuse to begin what the disk cannot hold: all checkpoints that are there at once, and the finished model."""
        parameters = list(self._prepared.model.parameters())
        weights = bytes_needed({"model": model_tensors(self._prepared.model, self._learned_alone)})
        averages = sum(ADAM_BYTES * p.numel() for p in parameters if p.requires_grad)
        saves = 1 + self._steps // self._save_every
        self._checkpoints.check_space(weights + min(saves, MOST_AT_ONCE) * (weights + averages))

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

    def fit(self, state: LoopState) -> None:
        """Train from `state` to the end."""
        recipe, prepared = self._recipe, self._prepared
        train = recipe.train
        times = Timetable(
            steps=self._steps,
            steps_per_epoch=self._mean_epoch,
            evaluate_every=self._evaluate_every,
            save_every=self._save_every,
            measure=recipe.evaluation.best_by,
            stop=train.stop,
        )
        if train.packing and state.step < self._steps:
            try_packing(prepared, self._forward, self._course)
        if not self._run.plan.is_file() and state.step < self._steps:
            cost = predicted_cost(prepared, self._forward, self._course, self._steps)
            plan = {"format": FORMATS["plan"], "predicted": cost.document(), "measured": None}
            write_json(self._run.plan, plan)
        if self._observer is not None:
            self._observer.on_phase("train", self._steps)
            self._observer.on_progress(state.step)
        prepared.model.train()
        loop = Loop(
            step=self._step,
            schedule=Schedule(
                train.lr, self._steps, warmup_steps(train.warmup, self._steps), train.schedule, train.min_lr
            ),
            timetable=times,
            evaluate=self._measure if "val" in prepared.splits else None,
            save=self._save,
            observers=[self._records, *([self._observer] if self._observer else [])],
            asked=self._asked,
        )
        workers = Workers(recipe.data.workers, recipe.data.timeout, self._stop_if_asked)
        with closing(self._course.windows(state.step, self._steps, workers)) as source:
            loop.run(source, state)

    def _measure(self) -> dict[str, float]:
        """Validation loss, and the metrics over the first `evaluation.max_samples` answers."""
        recipe, prepared = self._recipe, self._prepared
        examples, settings = prepared.splits["val"], recipe.evaluation
        batches = in_order(examples, settings.batch_size, prepared.policy)

        def unless_asked() -> Iterator[Batch]:
            for batch in batches:
                self._stop_if_asked()
                yield batch

        values = {
            "val_loss": mean_loss(
                prepared.model, self._forward, unless_asked(), prepared.precision, prepared.device
            )
        }
        if settings.max_samples:
            answers = predict(
                prepared.model,
                examples,
                recipe.generation,
                settings.batch_size,
                settings.max_samples,
                tick=self._stop_if_asked,
                policy=prepared.policy,
            )
            scores = score(answers, settings.metrics, "val", seed=recipe.run.seed, resamples=1)
            values |= {row.name: row.value for row in scores if row.slice == "all"}
        return values

    def _stop_if_asked(self, _: int = 0) -> None:
        if self._asked():
            raise StopAsked

    def _tensors(self) -> dict[str, dict[str, Any]]:
        model = model_tensors(self._prepared.model, self._learned_alone)
        return {"model": model, "optimizer": optimizer_tensors(self._optimizer)}

    def _save(self, state: Mapping[str, Any], step: int, best: bool) -> None:
        policy = self._prepared.policy
        met = {
            kind: [astuple(row) for row in rows if row not in self._checked]
            for kind, rows in (("bad", policy.faults), ("long", policy.long))
        }
        scaler = self._step.scaler.state_dict()
        saved = Checkpoint(step, self._tensors(), {"loop": dict(state), "scaler": scaler, "met": met})
        self._checkpoints.save(saved, best)
