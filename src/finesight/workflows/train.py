"""Train: recipe → checked data → model → loop → best weights → scores → plain folder → report."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.batch import Batch
from finesight.core.errors import Interrupted, RunError
from finesight.core.events import Observer
from finesight.core.prediction import Comparison, Score
from finesight.core.rundir import FORMAT, RunDirectory
from finesight.data.loader import in_order, windows
from finesight.evaluation.score import score
from finesight.evaluation.table import results_document
from finesight.export.card import model_card
from finesight.export.folder import save_folder, save_skeleton
from finesight.generation.predict import predict
from finesight.models.forward import SupervisedForward
from finesight.planner.estimate import ADAM_BYTES
from finesight.runtime.environment import environment
from finesight.runtime.files import write_json, write_table, write_text
from finesight.runtime.logs import logging_to
from finesight.runtime.notices import Notices
from finesight.runtime.signals import StopFlag, stop_on_signals
from finesight.training.checkpoint import MOST_AT_ONCE, Checkpoint, Checkpoints, bytes_needed, load_checkpoint
from finesight.training.loop import Loop, LoopState, StopAsked, Timetable
from finesight.training.optim import build_optimizer
from finesight.training.records import Records
from finesight.training.schedule import Schedule, warmup_steps
from finesight.training.state import model_tensors, optimizer_tensors, restore_model, restore_optimizer
from finesight.training.step import Step, mean_loss
from finesight.workflows.places import SKELETON
from finesight.workflows.plan import measured_cost, predicted_cost
from finesight.workflows.prepare import Prepared, order_of, prepare
from finesight.workflows.report import build_report
from finesight.workflows.rundirs import open_run
from finesight.workflows.scoring import answer_split, keep_pictures, score_split

_log = logging.getLogger("finesight")


def train(
    recipe: Recipe, *, resume: bool = False, dry_run: bool = False, observer: Observer | None = None
) -> dict[str, Any]:
    """Run a recipe to its end and return a summary; see `finesight train --help`.

    Raises FinesightError for what the person can mend, and Interrupted (exit status 75) where the run was asked to
    stop: everything is then saved, and the same call with `resume` goes on.
    """
    if dry_run:
        from finesight.workflows.dry_run import try_one_batch

        return try_one_batch(recipe, observer)
    with open_run(recipe, resume) as run, stop_on_signals() as asked:
        if run.results.is_file():
            _log.info("this run is finished: nothing is trained again")
        else:
            with logging_to(run.log):
                _train(recipe, run, asked, observer)
        report = build_report(run.path)
    return _summary(recipe, run, report)


def _train(recipe: Recipe, run: RunDirectory, asked: StopFlag, observer: Observer | None) -> None:
    notices = Notices()
    prepared = prepare(recipe, notices, observer, lambda: _stop_if(asked, "while the data were checked"))
    _same_data(run, prepared)
    _record_environment(run, recipe, prepared)
    write_table(run.faults, ("file", "row", "column", "reason"), _fault_rows(prepared))
    checkpoints = Checkpoints(run.checkpoints, notices)
    checkpoints.clean()
    save_skeleton(run.checkpoints / SKELETON, prepared.model.config, prepared.processor)

    session = _Session(recipe, run, prepared, checkpoints, asked, observer)
    state = session.restore()
    session.fit(state)
    write_json(run.notices, notices.rows())
    best = checkpoints.best_or_last()
    restore_model(prepared.model, load_checkpoint(best).tensors["model"], str(best))
    card = model_card(recipe, prepared.facts())
    save_folder(run.model, prepared.model, prepared.processor, prepared.ports, recipe.generation, card)
    _finish(recipe, run, prepared, state, asked, observer)


def _stop_if(asked: StopFlag, when: str) -> None:
    """Raise where the run was asked to stop in a phase that has nothing to save."""
    if asked():
        raise Interrupted(
            f"stopped {when}; nothing is lost", "this run", "continue with the same command and --resume"
        )


def _record_environment(run: RunDirectory, recipe: Recipe, prepared: Prepared) -> None:
    """Write what the run began with; what it is continued with is added under `resumed`."""
    began = _began_with(run)
    if began is None:
        record = {
            "format": FORMAT,
            **environment(),
            **prepared.facts(),
            "seed": recipe.run.seed,
            "resumed": [],
        }
    else:
        now = {**environment(), "compute": prepared.facts()["compute"]}
        record = {**began, "resumed": [*began["resumed"], now]}
    write_json(run.environment, record)


def _began_with(run: RunDirectory) -> dict[str, Any] | None:
    return json.loads(run.environment.read_text(encoding="utf-8")) if run.environment.is_file() else None


def _fault_rows(prepared: Prepared) -> list[tuple[object, ...]]:
    return [(fault.file, fault.row, fault.column, fault.reason) for fault in prepared.policy.faults]


def _same_data(run: RunDirectory, prepared: Prepared) -> None:
    """Refuse to continue a run over other data than it began with."""
    began, now = _began_with(run), prepared.fingerprints
    if began is None:
        return
    before = began["data"]
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if before.get(name, {}).get("fingerprint") != now.get(name)]
    if changed:
        counts = "; ".join(
            f"{name}: {before.get(name, {}).get('samples', 0)} samples then, {len(prepared.splits.get(name, ()))} now"
            for name in changed
        )
        raise RunError(
            f"the data changed since this run began ({counts})",
            ", ".join(f"data.{name}" for name in changed),
            "put the data back as they were, or begin another run by `run.name=…`",
        )


class _Session:
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
        self._order = order_of(recipe, prepared.splits["train"])
        self._steps = train.max_steps or (train.epochs or 1) * self._order.steps_per_epoch
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

    def restore(self) -> LoopState:
        """The state to go on from: the newest whole checkpoint's, or that of a new run."""
        newest = self._checkpoints.newest()
        if newest is None:
            self._check_space()
            self._records.rewind(0, False)
            _log.info("begins at step 1 of %d", self._steps)
            return LoopState()
        saved = load_checkpoint(newest)
        restore_model(self._prepared.model, saved.tensors["model"], str(newest))
        restore_optimizer(self._optimizer, saved.tensors["optimizer"], str(newest))
        self._step.scaler.load_state_dict(saved.state["scaler"])
        state = LoopState.restored(saved.step, saved.state["loop"])
        self._checkpoints.point("best", None if state.best.value is None else state.best.step)
        self._records.rewind(state.step, state.evaluated == state.step)
        _log.info("resumed after step %d of %d", state.step, self._steps)
        return state

    def _check_space(self) -> None:
        """Refuse to begin what the disk cannot hold: all checkpoints that are there at once, and the finished model."""
        parameters = list(self._prepared.model.parameters())
        weights = bytes_needed({"model": model_tensors(self._prepared.model)})
        averages = sum(ADAM_BYTES * p.numel() for p in parameters if p.requires_grad)
        saves = 1 + self._steps // self._save_every
        self._checkpoints.check_space(weights + min(saves, MOST_AT_ONCE) * (weights + averages))

    @property
    def _save_every(self) -> int:
        return self._recipe.train.save_every or self._evaluate_every

    @property
    def _evaluate_every(self) -> int:
        return self._recipe.evaluation.every or self._order.steps_per_epoch

    def fit(self, state: LoopState) -> None:
        """Train from `state` to the end."""
        recipe, prepared = self._recipe, self._prepared
        train = recipe.train
        times = Timetable(
            steps=self._steps,
            steps_per_epoch=self._order.steps_per_epoch,
            evaluate_every=self._evaluate_every,
            save_every=self._save_every,
            measure=recipe.evaluation.best_by,
            stop=train.stop,
        )
        micro = train.batch_size if train.micro_batch == "auto" else train.micro_batch
        source = windows(
            prepared.splits["train"], self._order, state.step, self._steps, micro, recipe.data.workers
        )
        if not self._run.plan.is_file() and state.step < self._steps:
            cost = predicted_cost(prepared, self._forward, self._order, self._steps, micro)
            write_json(self._run.plan, {"format": FORMAT, "predicted": cost.document(), "measured": None})
        if self._observer is not None:
            self._observer.on_phase("train", self._steps)
            self._observer.on_progress(state.step)
        prepared.model.train()
        Loop(
            step=self._step,
            schedule=Schedule(
                train.lr, self._steps, warmup_steps(train.warmup, self._steps), train.schedule, train.min_lr
            ),
            timetable=times,
            evaluate=self._measure if "val" in prepared.splits else None,
            save=self._save,
            observers=[self._records, *([self._observer] if self._observer else [])],
            asked=self._asked,
        ).run(source, state)

    def _measure(self) -> dict[str, float]:
        """Validation loss, and the metrics over the first `evaluation.max_samples` answers."""
        recipe, prepared = self._recipe, self._prepared
        examples, settings = prepared.splits["val"], recipe.evaluation
        batches = in_order(examples, settings.batch_size)

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
            )
            scores = score(answers, settings.metrics, "val", seed=recipe.run.seed, resamples=1)
            values |= {row.name: row.value for row in scores if row.slice == "all"}
        return values

    def _stop_if_asked(self, _: int = 0) -> None:
        if self._asked():
            raise StopAsked

    def _tensors(self) -> dict[str, dict[str, Any]]:
        return {"model": model_tensors(self._prepared.model), "optimizer": optimizer_tensors(self._optimizer)}

    def _save(self, state: Mapping[str, Any], step: int, best: bool) -> None:
        saved = Checkpoint(
            step, self._tensors(), {"loop": dict(state), "scaler": self._step.scaler.state_dict()}
        )
        self._checkpoints.save(saved, best)


def _finish(
    recipe: Recipe,
    run: RunDirectory,
    prepared: Prepared,
    state: LoopState,
    asked: StopFlag,
    observer: Observer | None,
) -> None:
    """Answer and score the test samples (or the validation samples), and close the books; `results.json` comes last."""
    split = next((name for name in ("test", "val") if name in prepared.splits), None)
    scores: list[Score] = []
    comparisons: list[Comparison] = []
    began = time.perf_counter()
    if split is not None:
        examples = prepared.splits[split]
        predictions = answer_split(
            prepared.model,
            examples,
            recipe,
            split,
            run.path,
            observer,
            lambda: _stop_if(asked, f"while answering {split}, after the last step"),
        )
        scores, comparisons = score_split(predictions, recipe, split, examples, prepared.splits["train"])
        keep_pictures(run, split, predictions, examples, recipe.report.pictures)
    if run.plan.is_file():
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
        measured = measured_cost(recipe, prepared, state.step, state.seconds)
        write_json(run.plan, {**plan, "measured": measured.document()})
    document = results_document(scores, comparisons)
    facts = {"steps": state.step, "best_step": state.best.step or state.step, "best": state.best.value}
    seconds = {"train": state.seconds, "evaluate": time.perf_counter() - began}
    write_text(run.model / "README.md", model_card(recipe, prepared.facts(), scores))
    write_json(
        run.results,
        {**document, "training": {**facts, "best_by": recipe.evaluation.best_by}, "seconds": seconds},
    )


def _summary(recipe: Recipe, run: RunDirectory, report: Path) -> dict[str, Any]:
    results = json.loads(run.results.read_text(encoding="utf-8"))
    question = (
        recipe.data.train[0].prompt if isinstance(recipe.data.train, tuple) else recipe.data.train.prompt
    )
    asked = f' "{question}"' if question else ""
    return {
        "status": "finished",
        "run": str(run.path),
        "model": str(run.model),
        "report": str(report),
        "scores": results["scores"],
        "baselines": results.get("baselines", []),
        "seconds": results["seconds"],
        "next": f"finesight generate {run.path} --image PICTURE{asked}",
    }
