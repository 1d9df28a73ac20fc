"""Train: recipe → checked data → model → loop → best weights → scores → plain folder → report."""

import json
import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from finesight.config.duration import seconds_of
from finesight.config.load import dump, stage_recipes
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
from finesight.workflows.changes import Changes, began_with, check_sameness
from finesight.workflows.finished import finished_card, finished_folder, save_finished, save_start
from finesight.workflows.plan import measured_cost
from finesight.workflows.prepare import Prepared, prepare
from finesight.workflows.probe import PictureProbe, say_effect
from finesight.workflows.report import build_report
from finesight.workflows.rundirs import SKELETON, open_run
from finesight.workflows.scoring import answer_split, answered, keep_pictures, score_split
from finesight.workflows.session import Session

_log = logging.getLogger("finesight")


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    force: bool = False,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Run a recipe to its end and return a summary; see `finesight train --help`. With `force`, a run is resumed over
    changes of its recipe, data or base, which are named and recorded.

    Raises FinesightError for what the person can mend, and Interrupted (exit status 75) where the run was asked to
    stop: everything is then saved, and the same call with `resume` goes on. Of several processes each calls this; the
    first one writes the run, and it alone gives back the summary.
    """
    began = time.monotonic()
    if force and not resume:
        raise RunError("`--force` says over what a run is continued", "--force", "give --resume, too")
    with joined(recipe.parallel.strategy, recipe.parallel.timeout, recipe.run.device) as world:
        if world.control is None or world.first:
            return _stages(recipe, (resume, force), dry_run, observer, world, began)
        control = world.control
        with errors_to(Path(recipe.directory) / f"process-{world.rank}.log", lambda: control.ending):
            return _stages(recipe, (resume, force), dry_run, None, world, began)


def _stages(
    recipe: Recipe,
    how: tuple[bool, bool],
    dry_run: bool,
    observer: Observer | None,
    world: World,
    began: float,
) -> dict[str, Any]:
    stages, (resume, force) = stage_recipes(recipe), how
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
            if begun and force and (Path(own.directory) / "results.json").is_file():
                _log.info("this stage is finished, and stays as it is")
                continue
            _run(own, (begun, begun and force), observer, world, began)
    return _run(stages[-1], how, observer, world, began)


def _run(
    recipe: Recipe, how: tuple[bool, bool], observer: Observer | None, world: World, began: float
) -> dict[str, Any]:
    """One run to its end, or to that of its time, which `began` with the command; begun, resumed or forced on."""
    with _opened(recipe, how, world) as (run, changes), stop_on_signals() as asked:
        if recipe.train.time_limit is not None:
            asked.until(began + seconds_of(recipe.train.time_limit))
        if world.once(run.results.is_file):
            _log.info("this run is finished: nothing is trained again")
        else:
            if world.control is not None:
                world.control.hurried = asked
            with logging_to(run.log) if world.first else nullcontext():
                _train(recipe, run, changes, how[1], asked, observer, world)
        if not world.first:
            return {}
        report = build_report(run.path)
    return _summary(run, report)


@contextmanager
def _opened(recipe: Recipe, how: tuple[bool, bool], world: World) -> Iterator[tuple[RunDirectory, Changes]]:
    """The run directory, which the first process holds for all of them."""
    with ExitStack() as held:
        found = world.once(lambda: asdict(held.enter_context(open_run(recipe, *how))[1]))
        yield RunDirectory(Path(recipe.directory)), Changes(**found)


def _train(
    recipe: Recipe,
    run: RunDirectory,
    changes: Changes,
    force: bool,
    asked: StopFlag,
    observer: Observer | None,
    world: World,
) -> None:
    notices = Notices()
    go_on = partial(_stop_if, asked, "while the data were checked")
    words = run.checkpoints / SKELETON / "tokenizer.json" if force else None
    prepared = prepare(recipe, notices, observer, go_on, world, words)
    known = len(prepared.policy.listed)
    checkpoints = Checkpoints(run.checkpoints, notices, recipe.train.keep_last)
    begun = world.once(run.environment.is_file)
    changes = Changes(
        **world.once(lambda: asdict(_checked(recipe, run, prepared, changes, force, checkpoints)))
    )
    session = Session(recipe, run, prepared, checkpoints, asked, observer, world)
    state = session.restore(changes)
    if begun:
        world.once(lambda: _go_on(recipe, run, prepared, changes))
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


def _checked(
    recipe: Recipe,
    run: RunDirectory,
    prepared: Prepared,
    changes: Changes,
    force: bool,
    checkpoints: Checkpoints,
) -> Changes:
    """Refuse to continue what changed, unless that is forced; write what a new run begins with. Gives all changes."""
    check_sameness(run, prepared.facts(), prepared.fingerprints, changes, force)
    for kind, some in (("forced", changes.named), ("changed", changes.told)):
        for words in some:
            prepared.notices.add(kind, words)
    checkpoints.clean()
    if not run.environment.is_file():
        facts = {**environment(), **prepared.facts(), "seed": recipe.run.seed, "resumed": []}
        write_json(run.environment, {"format": FORMATS["run"], **facts})
        save_start(run, prepared)
    return changes


def _go_on(recipe: Recipe, run: RunDirectory, prepared: Prepared, changes: Changes) -> None:
    """Write what a run is continued with, once it is known that it can be."""
    began, facts = began_with(run), prepared.facts()
    assert began is not None  # it is being continued
    now: dict[str, Any] = {**environment(), "compute": facts["compute"]}
    if changes.named:
        now |= {"forced": changes.named}
        now |= {key: facts[key] for key in ("data", "base") if key in facts}
        write_text(run.recipe, dump(recipe))
    write_json(run.environment, {**began, "resumed": [*began["resumed"], now]})
    save_start(run, prepared)


def _stop_if(asked: StopFlag, when: str) -> None:
    """Raise where the run was asked to stop in a phase that has nothing to save."""
    if asked():
        raise Interrupted(
            f"stopped {when}; nothing is lost", "this run", "continue with the same command and --resume"
        )


def _list_faults(run: RunDirectory, prepared: Prepared, world: World) -> None:
    if not world.first:
        return
    rows = [(fault.file, fault.row, fault.column, fault.reason) for fault in prepared.policy.listed]
    write_table(run.faults, ("file", "row", "column", "reason"), rows)


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
