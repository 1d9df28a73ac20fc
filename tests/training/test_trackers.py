"""TensorBoard's and W&B's own files hold what `metrics.jsonl` holds, each step once, however often a run was ended."""

import json
import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_runs import Watcher, begin, finish, rows, steps_made, tiny_mapping, wait_for, write_pictures
from wandb_files import history, run_of, summary

from finesight.config.load import parse_recipe
from finesight.config.train import Log, Wandb
from finesight.core.errors import FinesightError, Interrupted, RecipeError
from finesight.core.events import EvaluationReport, StepReport
from finesight.core.rundir import RunDirectory
from finesight.runtime.environment import shown
from finesight.runtime.notices import Notices
from finesight.training import trackers as module
from finesight.training.trackers import Trackers, check_trackers, tracking, wandb_mode
from finesight.workflows import train as workflow
from finesight.workflows.train import train

KEY = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_abcdefghijklm"


def _services(of: int) -> list[int]:
    """Processes of W&B that belong to a process."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words and "wandb-core" in words[0] and str(of) in words:
            found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both trackers, killed, continued, stopped by SIGTERM, and continued to its end."""
    folder = tmp_path_factory.mktemp("tracked")
    mapping = tiny_mapping(
        write_pictures(folder / "pictures.csv"),
        folder / "run",
        log={
            "every": 2, "tensorboard": True,
            "wandb": {"project": "toys", "tags": ["a", "b"], "group": "g", "mode": "offline"},
        },
        train={"save_every": 3},
    )  # fmt: skip
    mapping["description"] = f"with {TOKEN}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        killed = begin(mapping)
        wait_for(lambda: steps_made(folder / "run") >= 5, killed)
        os.kill(killed.pid, signal.SIGKILL)
        assert finish(killed) == -signal.SIGKILL
        end = time.monotonic() + 20
        while _services(killed.pid):
            assert time.monotonic() < end, "W&B's process outlives the run that was killed"
            time.sleep(0.05)
        stop = Watcher("step", 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(parse_recipe(mapping), resume=True, observer=stop)
        assert not _services(os.getpid()), "nothing of W&B outlives the run"
        train(parse_recipe(mapping), resume=True)
        assert not _services(os.getpid())
    return folder / "run"


def _expected(run: Path) -> dict[int, dict[str, float]]:
    """What metrics.jsonl says, by step, under the trackers' names."""
    found: dict[int, dict[str, float]] = {}
    for row in rows(run / "metrics.jsonl"):
        values = found.setdefault(row["step"], {})
        if "name" in row:
            values[f"{row['split']}/{row['name']}"] = row["value"]
        else:
            measured = {name: value for name, value in row.items() if name not in ("step", "seconds")}
            values |= {f"train/{name}": value for name, value in measured.items()}
    return found


def _scores(run: Path) -> dict[str, float]:
    scores = json.loads((run / "results.json").read_text())["scores"]
    return {f"final/{row['split']}/{row['name']}": row["value"] for row in scores if row["slice"] == "all"}


def test_tensorboard_holds_what_metrics_hold(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "tensorboard"))
    events.Reload()
    expected, found = _expected(tracked), dict[int, dict[str, float]]()
    assert list(expected) == [1, 2, 4, 5, 6, 8, 10, 12]
    for name in events.Tags()["scalars"]:
        seen = events.Scalars(name)
        assert len({event.step for event in seen}) == len(seen), f"a step of {name} is there twice"
        for event in seen:
            found.setdefault(event.step, {})[name] = event.value
    for step, values in expected.items():
        for name, value in values.items():
            assert found[step][name] == pytest.approx(value, rel=1e-6), (step, name)  # fp32
        timed = {name for name in found[step] if name.startswith("seconds/")}
        assert timed >= {
            f"seconds/{name}" for name in ("data", "forward", "backward", "optimizer", "total")
        } or ("train/loss" not in values)
    assert found.keys() == expected.keys()
    for name, value in _scores(tracked).items():
        assert found[12][name] == pytest.approx(value, rel=1e-6)
    rate = found[12]["train/tokens"] / found[12]["seconds/total"]
    assert found[12]["train/tokens_per_second"] == pytest.approx(rate, rel=1e-3)


def test_the_newest_wandb_file_holds_the_whole_run(tracked: Path) -> None:
    files = sorted(
        (tracked / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime
    )
    assert len(files) == 3
    known = (tracked / "wandb" / "id").read_text().strip()
    for path in files[1:]:  # of the first, what W&B had not yet written was lost with the kill
        run = run_of(path)
        assert (run.run_id, run.project, run.display_name) == (known, "toys", "tiny"), "one run, continued"
        assert (list(run.tags), run.run_group) == (["a", "b"], "g")
    found, expected = history(files[-1]), _expected(tracked)
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert values.items() <= found[step].items()
    assert _scores(tracked).items() <= summary(files[-1]).items()
    config = {item.key: json.loads(item.value_json) for item in run_of(files[-1]).config.update}
    assert config["train"]["lr"] == 3e-3 and config["run"]["seed"] == 5
    assert config["description"] == "with ***"


def test_no_secret_is_written(tracked: Path) -> None:
    for path in tracked.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert KEY.encode() not in data, path
            outside = {"tensorboard", "wandb"}.isdisjoint(path.relative_to(tracked).parts)
            assert outside or TOKEN.encode() not in data, path


def test_a_run_is_the_same_with_trackers_and_without(tracked: Path, tmp_path: Path) -> None:
    mapping = tiny_mapping(tracked.parent / "pictures.csv", tmp_path / "run", train={"save_every": 3})
    mapping["log"]["every"] = 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        train(parse_recipe(mapping))
    clocks = ("_per_second", "mfu", "joules")
    ours, theirs = (
        [
            (step, name, row[name])
            for step, row in _expected(run).items()
            for name in row
            if not name.endswith(clocks)
        ]
        for run in (tracked, tmp_path / "run")
    )
    assert len(ours) > 50 and ours == theirs
    model = "model/model.safetensors"
    assert (tracked / model).read_bytes() == (tmp_path / "run" / model).read_bytes()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_extra_is_told_before_any_work(
    name: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda asked: None if asked == name else object())
    settings: dict[str, Any] = {"tensorboard": True} if name == "tensorboard" else {"wandb": {"project": "p"}}
    with pytest.raises(RecipeError) as caught:
        train(parse_recipe(tiny_mapping(tiny_data, tmp_path / "run", log=settings)))
    (fault,) = caught.value.faults
    assert (caught.value.exit_status, fault.where) == (2, f"log.{name}")
    assert "pip install finesight[track]" in fault.mend
    assert not (tmp_path / "run").exists()
    check_trackers(Log())


class _Fails:
    """A tracker whose service goes away after so many calls."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error = after, error
        self.seen: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if not self.left:
            raise self.error
        self.left -= 1
        self.seen.append((step, dict(values)))

    def close(self, step: int, scores: Mapping[str, float], status: int) -> None:
        self.log(step, {**scores, "status": status})


def _report(step: int, loss: float = 1.0) -> StepReport:
    return StepReport(step, 9, step / 9, loss, 0.1, 2.0, 4, 40, 20, {"data": 0.5, "total": 2.0})


@pytest.mark.parametrize("error", [OSError("No space left on device"), SystemExit(1), RuntimeError()])
def test_a_tracker_that_fails_is_told_once_and_left_out(error: BaseException) -> None:
    notices = Notices()
    lost, kept = _Fails(1, error), _Fails(100, error)
    trackers = Trackers({"lost": lost, "kept": kept}, 3, notices)
    for step in range(1, 10):
        trackers.on_step(_report(step, math.nan if step == 4 else 1.0))
    trackers.on_evaluation(EvaluationReport(9, "val", {"val_loss": 0.5}, True))
    trackers.close((), 0)
    assert [step for step, _ in lost.seen] == [1]
    assert [step for step, _ in kept.seen] == [1, 3, 6, 9, 9, 9]
    assert kept.seen[0][1]["train/tokens_per_second"] == 20.0
    assert kept.seen[-2][1] == {"val/val_loss": 0.5} and kept.seen[-1][1] == {"status": 0}
    (row,) = notices.rows()
    assert row["count"] == 1 and str(row["text"]).startswith("lost failed and is left out")


def test_wandb_that_cannot_be_reached_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(module, "_CONNECT", 1.0)
    notices = Notices()
    log = Log(wandb=Wandb(project="p", mode="online"))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with tracking(log, "n", RunDirectory(tmp_path), {"a": 1}, notices) as trackers:
        assert before == {number: signal.getsignal(number) for number in before}
        trackers.on_step(_report(1))
        trackers.close((), 0)
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert history(path)[1]["train/loss"] == 1.0
    (row,) = notices.rows()
    assert "cannot be reached" in str(row["text"]) and KEY not in str(row["text"])


@pytest.mark.parametrize(
    ("mode", "environment", "chosen"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
    ],
)
def test_modes(mode: Any, environment: dict[str, str], chosen: str) -> None:
    assert wandb_mode(Wandb(project="p", mode=mode), environment) == chosen


def test_secrets_of_a_recipe_are_not_shown() -> None:
    recipe = {
        "a": {"api_key": "x", "max_new_tokens": 3},
        "path": "https://me:word@host/x",
        "b": [TOKEN, 1, None],
    }
    assert shown(recipe) == {
        "a": {"api_key": "***", "max_new_tokens": 3}, "path": "https://***@host/x", "b": ["***", 1, None],
    }  # fmt: skip


@pytest.mark.parametrize(
    "wandb", [{"project": "p", "mode": "sometimes"}, {"tags": ["a"]}, {"project": "p", "tag": "a"}]
)
def test_wrong_values(wandb: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(FinesightError) as caught:
        parse_recipe(tiny_mapping(tiny_data, tmp_path, log={"wandb": wandb}))
    assert all(fault.where.startswith("log.wandb") for fault in caught.value.faults)
