"""Train: recipe → checked data → model → loop → best weights → scores → plain folder → report."""

import json
import logging
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from finesight.config.duration import seconds_of
from finesight.config.load import stage_recipes
from finesight.config.recipe import Recipe
from finesight.core.errors import Interrupted, RunError
from finesight.core.events import Observer
from finesight.core.formats import FORMATS, check_format
from finesight.core.prediction import Comparison, Score
from finesight.core.rundir import RunDirectory
from finesight.evaluation.pictures import PictureEffect
from finesight.evaluation.table import results_document
from finesight.models.forward import SupervisedForward
from finesight.runtime.distributed import World, joined
from finesight.runtime.environment import environment, shown
from finesight.runtime.files import write_json, write_table, write_text
from finesight.runtime.logs import errors_to, logging_to
from finesight.runtime.notices import Notices
from finesight.runtime.signals import StopFlag, stop_on_signals
from finesight.training.checkpoint import Checkpoints
from finesight.training.loop import LoopState
from finesight.training.trackers import check_trackers, tracking
from finesight.workflows.finished import finished_card, finished_folder, save_finished, save_start
from finesight.workflows.plan import measured_cost
from finesight.workflows.prepare import Prepared, prepare
from finesight.workflows.probe import PictureProbe, say_effect
from finesight.workflows.report import build_report
from finesight.workflows.rundirs import open_run
from finesight.workflows.scoring import answer_split, answered, keep_pictures, score_split
from finesight.workflows.session import Session

_log = logging.getLogger("finesight")


def train(
    recipe: Recipe, *, resume: bool = False, dry_run: bool = False, observer: Observer | None = None
) -> dict[str, Any]:
    """Run a recipe to its end and return a summary; see `finesight train --help`.

    Raises FinesightError for what the person can mend, and Interrupted (exit status 75) where the run was asked to
    stop: everything is then saved, and the same call with `resume` goes on. Of several processes each calls this; the
    first one writes the run, and it alone gives back the summary.
    """
    began = time.monotonic()
    with joined(recipe.parallel.strategy, recipe.parallel.timeout, recipe.run.device) as world:
        if world.control is None or world.first:
            return _stages(recipe, resume, dry_run, observer, world, began)
        control = world.control
        with errors_to(Path(recipe.directory) / f"process-{world.rank}.log", lambda: control.ending):
            return _stages(recipe, resume, dry_run, None, world, began)


def _stages(
    recipe: Recipe, resume: bool, dry_run: bool, observer: Observer | None, world: World, began: float
) -> dict[str, Any]:
    stages = stage_recipes(recipe)
    for own in stages:
        check_trackers(own.log)
    if dry_run:
        from finesight.workflows.dry_run import try_one_batch

        if recipe.stages:
            _log.info("of %d stages the first is tried: the others begin with its model", len(stages))
        if not world.first:
            return {}
        return try_one_batch(stages[0], observer)
    for number, (stage, own) in enumerate(zip(recipe.stages, stages, strict=False), 1):
        _log.info("stage %d of %d: %s, in %s", number, len(stages), stage.name, own.directory)
        if own is not stages[-1]:
            begun = resume and (Path(own.directory) / "recipe.yaml").is_file()
            _run(own, begun, observer, world, began)
    return _run(stages[-1], resume, observer, world, began)


def _run(
    recipe: Recipe, resume: bool, observer: Observer | None, world: World, began: float
) -> dict[str, Any]:
    """One run to its end, or to that of its time, which `began` with the command."""
    with _opened(recipe, resume, world) as run, stop_on_signals() as asked:
        if recipe.train.time_limit is not None:
            asked.until(began + seconds_of(recipe.train.time_limit))
        if world.once(run.results.is_file):
            _log.info("this run is finished: nothing is trained again")
        else:
            if world.control is not None:
                world.control.hurried = asked
            with logging_to(run.log) if world.first else nullcontext():
                _train(recipe, run, asked, observer, world)
        if not world.first:
            return {}
        report = build_report(run.path)
    return _summary(run, report)


@contextmanager
def _opened(recipe: Recipe, resume: bool, world: World) -> Iterator[RunDirectory]:
    """The run directory, which the first process holds for all of them."""
    with ExitStack() as held:
        world.once(lambda: str(held.enter_context(open_run(recipe, resume)).path))
        yield RunDirectory(Path(recipe.directory))


def _train(
    recipe: Recipe, run: RunDirectory, asked: StopFlag, observer: Observer | None, world: World
) -> None:
    notices = Notices()
    go_on = partial(_stop_if, asked, "while the data were checked")
    prepared = prepare(recipe, notices, observer, go_on, world)
    known = len(prepared.policy.listed)
    checkpoints = Checkpoints(run.checkpoints, notices, recipe.train.keep_last)
    world.once(lambda: _begin(recipe, run, prepared, checkpoints))

    session = Session(recipe, run, prepared, checkpoints, asked, observer, world)
    state = session.restore()
    looking_on = tracking(recipe.log, recipe.run.name, run, shown(recipe.model_dump(mode="json")), notices)
    with looking_on if world.first else nullcontext() as trackers:
        try:
            _list_faults(run, prepared, world)
            session.fit(state, trackers)
        finally:
            _list_faults(run, prepared, world)
        taken = session.taken(state)
        prepared = session.take_best()
        world.once(lambda: save_finished(finished_folder(run, recipe), recipe, prepared))
        measured = _measure(recipe, run, prepared, asked, observer, world)
        effect = _pictures(recipe, prepared, asked, world)
        if trackers is None:
            return
        trackers.close([*measured[0], *(effect.scores() if effect else ())], 0)
    met = len(prepared.policy.listed) - known
    if met:
        told = "rows that were met in use are left out, or cut; they are listed in faults.csv"
        notices.add("dropped", told, met)
    _list_faults(run, prepared, world)
    write_json(run.notices, notices.rows())
    _finish(recipe, run, prepared, state, measured, taken, effect)


def _begin(recipe: Recipe, run: RunDirectory, prepared: Prepared, checkpoints: Checkpoints) -> None:
    """Refuse to continue what changed; write what the run begins with."""
    _same_data(run, prepared)
    _same_base(run, prepared)
    _record_environment(run, recipe, prepared)
    checkpoints.clean()
    save_start(run, prepared)


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
            "format": FORMATS["run"],
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


def _list_faults(run: RunDirectory, prepared: Prepared, world: World) -> None:
    if not world.first:
        return
    rows = [(fault.file, fault.row, fault.column, fault.reason) for fault in prepared.policy.listed]
    write_table(run.faults, ("file", "row", "column", "reason"), rows)


def _same_data(run: RunDirectory, prepared: Prepared) -> None:
    """Refuse to continue a run over other data than it began with."""
    began, now = _began_with(run), prepared.fingerprints
    if began is None:
        return
    before, facts = began["data"], prepared.facts()["data"]
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if before.get(name, {}).get("fingerprint") != now.get(name)]
    if changed:
        counts = "; ".join(
            f"{name}: {_samples(before.get(name))} then, {_samples(facts.get(name))} now" for name in changed
        )
        raise RunError(
            f"the data changed since this run began ({counts})",
            ", ".join(f"data.{name}" for name in changed),
            "put the data back as they were, or begin another run by `run.name=…`",
        )


def _same_base(run: RunDirectory, prepared: Prepared) -> None:
    """Refuse to continue an adapter on another base model than it began with."""
    began = _began_with(run)
    if began is None or prepared.adapted is None:
        return
    before, now = began.get("base") or {}, prepared.adapted.base.facts()
    if before.get("fingerprint") != now["fingerprint"]:
        raise RunError(
            f"the base model changed since this run began: {now['place']}",
            "model.pretrained",
            "put the base back as it was, or begin another run by `run.name=…`",
        )


def _samples(facts: Mapping[str, Any] | None) -> str:
    found = (facts or {}).get("samples", 0)
    return "a stream" if found is None else f"{found} samples"


def _measure(
    recipe: Recipe,
    run: RunDirectory,
    prepared: Prepared,
    asked: StopFlag,
    observer: Observer | None,
    world: World,
) -> tuple[list[Score], list[Comparison], float]:
    """Answer and score the test samples (or the validation samples); and the seconds that it took."""
    split = next((name for name in ("test", "val") if name in prepared.splits), None)
    began = time.perf_counter()
    if split is None:
        return [], [], 0.0
    examples, policy = prepared.splits[split], prepared.policy
    predictions = answer_split(
        *(prepared.model, examples, recipe, split, run.path, observer),
        go_on=lambda: _stop_if(asked, f"while answering {split}, after the last step"),
        policy=policy,
        world=world,
    )
    if not world.first:
        return [], [], 0.0
    samples = answered(examples, predictions)
    scores, comparisons = score_split(
        predictions, recipe, split, samples, prepared.splits.get("train"), policy
    )
    keep_pictures(run, split, predictions, samples, recipe.report.pictures)
    return scores, comparisons, time.perf_counter() - began


def _pictures(recipe: Recipe, prepared: Prepared, asked: StopFlag, world: World) -> PictureEffect | None:
    """What the pictures of the samples that were scored are worth to the finished model."""
    split = next((name for name in ("test", "val") if name in prepared.splits), None)
    if split is None:
        return None
    probe = PictureProbe(prepared.splits[split], split, recipe, prepared.notices, world)
    forward = SupervisedForward(prepared.model, prepared.ports.image)
    go_on = partial(_stop_if, asked, f"while answering {split}, after the last step")
    effect = probe(prepared.model, forward, prepared.precision, prepared.device, go_on)
    if effect is not None:
        say_effect(effect, prepared.notices)
    return effect


def _finish(
    recipe: Recipe,
    run: RunDirectory,
    prepared: Prepared,
    state: LoopState,
    measured: tuple[list[Score], list[Comparison], float],
    taken: tuple[dict[str, Any], dict[str, Any]],
    effect: PictureEffect | None = None,
) -> None:
    """Close the books; `results.json` comes last."""
    scores, comparisons, seconds = measured
    more, energy = taken
    clocks = {"validation": state.clocks.evaluation, "saving": state.clocks.saving}
    if run.plan.is_file():
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
        check_format("plan", plan.get("format"), str(run.plan), RunError)
        write_json(run.plan, {**plan, "measured": measured_cost(prepared, state, **more).document()})
    write_text(finished_folder(run, recipe) / "README.md", finished_card(recipe, prepared, scores))
    facts = {"steps": state.step, "best_step": state.best.step or state.step, "best": state.best.value}
    write_json(
        run.results,
        {
            **results_document(scores, comparisons),
            "training": {**facts, "best_by": recipe.evaluation.best_by},
            "seconds": {"train": state.seconds, "evaluate": seconds, **clocks},
            "energy": energy,
            **({} if effect is None else {"pictures": effect.document()}),
        },
    )


def _summary(run: RunDirectory, report: Path) -> dict[str, Any]:
    results = json.loads(run.results.read_text(encoding="utf-8"))
    check_format("results", results.get("format"), str(run.results), RunError)
    return {
        "status": "finished",
        "run": str(run.path),
        "model": str(run.adapter if run.adapter.is_dir() else run.model),
        "report": str(report),
        "scores": results["scores"],
        "baselines": results.get("baselines", []),
        "seconds": results["seconds"],
        "next": f"finesight generate {run.path}{_picture(run)}{_question(run)}",
    }


def _picture(run: RunDirectory) -> str:
    """The option for a picture, for a model that sees any."""
    kind = json.loads(run.environment.read_text(encoding="utf-8")).get("kind", "chat")
    return " --image PICTURE" if kind in ("chat", "captions") else ""


def _question(run: RunDirectory) -> str:
    """A question that the run was measured with, quoted for a shell; nothing where it answered none."""
    for split in ("test", "val"):
        if run.predictions(split).is_file():
            with open(run.predictions(split), encoding="utf-8") as rows:
                asked = json.loads(rows.readline())["prompt"]
            return f" {shlex.quote(asked)}" if asked else ""
    return ""
