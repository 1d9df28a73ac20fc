"""TensorBoard and Weights & Biases: what `metrics.jsonl` and `timing_logs.csv` hold, where other tools look for it.

A tracker looks on. One that fails, whatever the reason, is told of once and left out from then on; nothing that a run
learns depends on it. The run's own files are the truth: a run that goes on tells its trackers all of them again, so
that nothing that was lost with a killed process is missing, and no step is there twice.
"""

import csv
import json
import logging
import math
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from finesight.config.train import Log, Wandb
from finesight.core.errors import RecipeError
from finesight.core.events import EvaluationReport, StepReport
from finesight.core.prediction import Score
from finesight.core.rundir import RunDirectory
from finesight.runtime.files import write_text
from finesight.runtime.notices import Notices
from finesight.training.records import is_logged, metrics_row

_log = logging.getLogger("finesight")

Values = Mapping[str, float]
Mode = Literal["online", "offline", "disabled"]

_CONNECT, _FINISH = 30.0, 10.0
"""Seconds that W&B may take to answer at the beginning, and to send what is left at the end, which also is in its files
here: a run whose time is over has no more to spare."""


class Tracker(Protocol):
    """One service."""

    def log(self, step: int, values: Values) -> None:
        """Values of a step, by names such as `train/loss` and `val/exact_match`; a step may come several times."""

    def close(self, step: int, scores: Values, status: int) -> None:
        """The run is over with an exit status; `scores` are those of the finished model."""


def check_trackers(log: Log) -> None:
    """Raise RecipeError where what a tracker needs is not installed."""
    wanted = {"tensorboard": log.tensorboard, "wandb": log.wandb is not None}
    for name, asked in wanted.items():
        if asked and find_spec(name) is None:
            raise RecipeError(
                f"`log.{name}` needs the package {name}, which is not installed",
                f"log.{name}",
                "`pip install finesight[track]`, or take it out",
            )


class Trackers:
    """An observer that tells every tracker of a run; in the first of several processes alone."""

    def __init__(self, trackers: Mapping[str, Tracker], every: int, notices: Notices) -> None:
        self._trackers, self._every, self._notices = dict(trackers), every, notices
        self._last = 0

    def on_step(self, report: StepReport) -> None:
        """The steps that `metrics.jsonl` has, too."""
        self._last = report.step
        if self._trackers and is_logged(report, self._every):
            self.log(report.step, _of_step(metrics_row(report), report.seconds))

    def on_evaluation(self, report: EvaluationReport) -> None:
        """All scores."""
        self.log(report.step, {f"{report.split}/{name}": value for name, value in report.values.items()})

    def on_phase(self, name: str, total: int) -> None:
        """Phases are not told."""

    def on_progress(self, done: int) -> None:
        """Nor is progress."""

    def log(self, step: int, values: Values) -> None:
        """Tell all trackers of values of a step."""
        self._last = max(self._last, step)
        for name in list(self._trackers):
            self._guarded(name, lambda name=name: self._trackers[name].log(step, values))  # type: ignore[misc]

    def close(self, scores: Iterable[Score], status: int) -> None:
        """End all trackers, with the scores of the finished model where there are any."""
        told = {
            f"final/{score.split}/{score.name}"
            if score.slice == "all"
            else f"final/{score.split}/{score.slice}/{score.name}": score.value
            for score in scores
        }
        for name in list(self._trackers):
            self._guarded(name, lambda name=name: self._trackers[name].close(self._last, told, status))  # type: ignore[misc]

    def _guarded(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except (Exception, SystemExit) as error:  # what can go wrong in a service is without number
            del self._trackers[name]
            _failed(name, error, self._notices)


def _failed(name: str, error: BaseException, notices: Notices) -> None:
    lines = str(error).strip().splitlines()
    why = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    notices.add("tracking", f"{name} failed and is left out from here on; the run goes on ({why})")


@contextmanager
def tracking(
    log: Log, name: str, run: RunDirectory, config: Mapping[str, Any], notices: Notices
) -> Iterator[Trackers]:
    """The trackers that a recipe asks for, told of all that the run's files hold so far, for the time of the run.

    `config` is what they show of the recipe, without secrets. `close` ends them with the scores; if something else ends
    the run, they are told that.
    """
    past = list(history(run)) if log.tensorboard or log.wandb else []
    made: dict[str, Tracker] = {}
    makers: dict[str, Callable[[], Tracker | None]] = {}
    if log.tensorboard:
        makers["TensorBoard"] = lambda: TensorBoard(run.tensorboard, bool(past), config)
    if log.wandb is not None:
        wanted = log.wandb
        makers["Weights & Biases"] = lambda: weights_and_biases(wanted, name, run, config, notices)
    for service, make in makers.items():
        try:
            tracker = make()
        except (Exception, SystemExit) as error:
            _failed(service, error, notices)
        else:
            made |= {} if tracker is None else {service: tracker}
    trackers = Trackers(made, log.every, notices)
    for step, values in past:
        trackers.log(step, values)
    try:
        yield trackers
    except BaseException as error:
        trackers.close((), getattr(error, "exit_status", 1))
        raise


def history(run: RunDirectory) -> Iterator[tuple[int, dict[str, float]]]:
    """What the files of a run hold, as trackers were told it: values by step, in order."""
    seconds = _seconds_by_step(run.timing)
    lines = run.metrics.read_text(encoding="utf-8").splitlines() if run.metrics.is_file() else []
    for row in map(json.loads, lines):
        if "name" in row:
            yield row["step"], {f"{row['split']}/{row['name']}": _number(row["value"])}
        else:
            yield row["step"], _of_step(row, seconds.get(row["step"], {"total": _number(row["seconds"])}))


def _seconds_by_step(path: Path) -> dict[int, dict[str, float]]:
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as stream:
        rows = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(stream)]
    return {
        int(row["step"]): {name: float(cell) for name, cell in row.items() if name not in ("step", "joules")}
        for row in rows
    }


def _number(value: float | None) -> float:
    """JSON has no word for what is no number."""
    return math.nan if value is None else value


def _of_step(row: Mapping[str, Any], seconds: Values) -> dict[str, float]:
    """A line of `metrics.jsonl` without what is no measure, and the seconds of the step's parts."""
    known = {name: value for name, value in row.items() if name not in ("step", "seconds", "skipped")}
    values = {f"train/{name}": _number(value) for name, value in known.items()}
    return values | {f"seconds/{name}": value for name, value in seconds.items()}


class TensorBoard:
    """Event files in the folder `tensorboard` of the run. On `resumed` ones a mark makes TensorBoard forget what the
    files before it hold."""

    def __init__(self, folder: Path, resumed: bool, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        make: Any = SummaryWriter  # its functions are not typed
        self._writer = make(str(folder), purge_step=0 if resumed else None, flush_secs=10)
        told = json.dumps(config, indent=2, ensure_ascii=False, default=str)
        self._writer.add_text("recipe", "\n".join(f"    {line}" for line in told.splitlines()), 0)

    def log(self, step: int, values: Values) -> None:
        """Scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, step: int, scores: Values, status: int) -> None:
        """Scores are scalars of the last step."""
        self.log(step, scores)
        self._writer.close()


class WeightsAndBiases:
    """A run of `wandb`, whose files are in the folder `wandb` of our run.

    Values of one step that come one after another are one row of its history.
    """

    def __init__(
        self, mode: Mode, wanted: Wandb, name: str, run: RunDirectory, config: Mapping[str, Any]
    ) -> None:
        # their library would tell its makers of each use
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        made = wandb.Settings(
            console="off",  # what is said is in log.txt
            silent=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            x_disable_meta=True,  # the command line, which may hold secrets
            x_disable_stats=True,
            init_timeout=_CONNECT,
            finish_timeout=_FINISH,
        )
        with _as_before():
            self._run = wandb.init(
                project=wanted.project,
                entity=wanted.entity,
                name=wanted.name or name,
                group=wanted.group,
                tags=list(wanted.tags),
                dir=str(run.path),
                mode=mode,
                id=_run_id(run),
                resume="allow",
                config=dict(config),
                settings=made,
            )

    def log(self, step: int, values: Values) -> None:
        """Values of a step; of a step before those that W&B knows, it keeps what it knows."""
        self._run.log(dict(values), step=step)

    def close(self, step: int, scores: Values, status: int) -> None:
        """Scores go into the summary; then its processes end."""
        self._run.summary.update(dict(scores))
        self._run.finish(exit_code=status)
        end_wandb()


def end_wandb() -> None:
    """End the process that `wandb` has beside this one, whether it has sent all or not."""
    import wandb

    made: Any = wandb
    ending = threading.Thread(target=made.teardown, daemon=True)
    ending.start()
    ending.join(_FINISH)
    if ending.is_alive():
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()
        ending.join(_FINISH)


def _run_id(run: RunDirectory) -> str:
    """The id of the W&B run that belongs to our run: made once, and kept beside W&B's files."""
    place = run.wandb / "id"
    if not place.is_file():
        run.wandb.mkdir(parents=True, exist_ok=True)
        write_text(place, uuid.uuid4().hex[:12] + "\n")
    return place.read_text(encoding="utf-8").strip()


@contextmanager
def _as_before() -> Iterator[None]:
    """`wandb` may not ask questions meanwhile, and what it puts in place of `sys.exit` is taken away afterwards."""
    before = sys.exit, sys.excepthook, sys.stdin
    with open(os.devnull, encoding="utf-8") as nobody:
        sys.stdin = nobody
        try:
            yield
        finally:
            sys.exit, sys.excepthook, sys.stdin = before


def wandb_mode(wanted: Wandb, environment: Mapping[str, str]) -> Mode:
    """`online`, `offline` or `disabled`: what the recipe says, else W&B's own WANDB_MODE, else online with a key."""
    if wanted.mode != "auto":
        return wanted.mode
    said: tuple[Mode, ...] = ("online", "offline", "disabled")
    for mode in said:
        if environment.get("WANDB_MODE") == mode:
            return mode
    return "online" if environment.get("WANDB_API_KEY") else "offline"


def weights_and_biases(
    wanted: Wandb, name: str, run: RunDirectory, config: Mapping[str, Any], notices: Notices
) -> Tracker | None:
    """The W&B tracker; offline where it cannot be reached, which is told."""
    mode = wandb_mode(wanted, os.environ)
    if mode == "disabled":
        _log.info("W&B: disabled by WANDB_MODE")
        return None
    if mode == "online":
        try:
            return WeightsAndBiases(mode, wanted, name, run, config)
        except (Exception, SystemExit) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            notices.add("tracking", f"W&B cannot be reached ({lines[0]}): its files stay here")
            end_wandb()  # it holds the id
    _log.info("W&B: offline, in %s; `wandb sync` on its newest folder sends all of the run", run.wandb)
    return WeightsAndBiases("offline", wanted, name, run, config)
