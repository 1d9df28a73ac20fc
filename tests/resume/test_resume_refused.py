"""What a run is not continued over, and the phases in which it can be asked to stop; all in this process."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, rows, tiny_mapping, tiny_recipe, write_pictures

from finesight.config.load import parse_recipe
from finesight.core.errors import FinesightError, Interrupted, RunError
from finesight.runtime.locks import locked
from finesight.workflows.train import train


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    from finesight.workflows import train as workflow

    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")


def _stop_at(kind: str, step: int = 0, number: signal.Signals = signal.SIGTERM) -> Watcher:
    def twice() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    return Watcher(kind, step, twice)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("kind", "step", "saved"),
    [
        ("progress check data", 3, None),
        ("train", 0, "step-0"),
        ("step", 3, "step-3"),
        ("evaluation", 5, "step-5"),
        ("answer val", 0, "step-12"),
    ],
)
def test_stops_in_every_phase_and_goes_on(
    kind: str,
    step: int,
    saved: str | None,
    number: signal.Signals,
    tmp_path: Path,
    tiny_data: Path,
    finished_run: Path,
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    recipe = tiny_recipe(tiny_data, tmp_path / "run")
    with pytest.raises(Interrupted) as caught:
        train(recipe, observer=_stop_at(kind, step, number))
    assert caught.value.exit_status == 75
    assert "--resume" in str(caught.value)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    last = tmp_path / "run" / "checkpoints" / "last"
    assert (last.read_text().strip() if last.is_file() else None) == saved
    if number == signal.SIGTERM:
        train(recipe, resume=True)
        assert essence(tmp_path / "run") == essence(finished_run)


def test_stops_inside_an_evaluation_and_measures_again(
    tmp_path: Path, tiny_data: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finesight.workflows import session as workflow

    plain, calls = workflow.predict, []

    def predict(*arguments: Any, **named: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 2:  # the evaluation at step 10
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments, **named)

    monkeypatch.setattr(workflow, "predict", predict)
    recipe = tiny_recipe(tiny_data, tmp_path / "run")
    with pytest.raises(Interrupted):
        train(recipe)
    measured = [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl") if "name" in row]
    assert set(measured) == {5}
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-10" / "state.json").read_text())
    assert state["loop"]["evaluated"] == 5
    monkeypatch.setattr(workflow, "predict", plain)
    train(recipe, resume=True)
    assert essence(tmp_path / "run") == essence(finished_run)


def test_without_validation_an_early_stop_never_makes_untrained_weights_the_best(
    tmp_path: Path, tiny_data: Path
) -> None:
    mapping = tiny_mapping(tiny_data, tmp_path / "run", train={"max_steps": 4})
    mapping["data"].pop("val")
    with pytest.raises(Interrupted):
        train(parse_recipe(mapping), observer=_stop_at("train"))
    train(parse_recipe(mapping), resume=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert not (checkpoints / "best").exists()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["training"]["best_step"] == 4


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, Path]:
    """A run that was stopped after step 3, and its own data."""
    data = write_pictures(tmp_path / "own.csv", 16)
    with pytest.raises(Interrupted):
        train(tiny_recipe(data, tmp_path / "run"), observer=_stop_at("step", 3))
    return data, tmp_path / "run"


def test_a_changed_recipe_is_refused_and_each_change_named(stopped: tuple[Path, Path]) -> None:
    data, folder = stopped
    changed = tiny_mapping(data, folder, train={"lr": 0.5, "batch_size": 8})
    changed["run"]["threads"] = 2  # this may change
    with pytest.raises(RunError) as caught:
        train(parse_recipe(changed), resume=True)
    told = str(caught.value)
    assert "train.lr: 0.003 became 0.5" in told
    assert "train.batch_size: 4 became 8" in told
    assert "threads" not in told
    assert "run.name" in told, "how to mend it"


def test_changed_data_are_refused_and_named(stopped: tuple[Path, Path]) -> None:
    data, folder = stopped
    text = data.read_text()
    kept = (folder / "environment.json").read_bytes()
    data.write_text(text[: text.rindex("red")] + "gold" + text[text.rindex("red") + 3 :])
    with pytest.raises(RunError, match="the data changed since this run began") as caught:
        train(tiny_recipe(data, folder), resume=True)
    assert "data.train" in str(caught.value) or "data.val" in str(caught.value)
    assert (folder / "environment.json").read_bytes() == kept
    lines = text.splitlines(keepends=True)
    data.write_text("".join(lines[:-1]))
    with pytest.raises(RunError, match="samples then"):
        train(tiny_recipe(data, folder), resume=True)
    data.write_text(text)
    train(tiny_recipe(data, folder), resume=True)
    assert len(json.loads((folder / "environment.json").read_text())["resumed"]) == 1


def test_an_existing_run_is_refused(stopped: tuple[Path, Path]) -> None:
    data, folder = stopped
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="exists and holds files") as caught:
        train(tiny_recipe(data, folder))
    assert "--resume" in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_two_processes_on_one_run(stopped: tuple[Path, Path]) -> None:
    data, folder = stopped
    child = os.fork() if hasattr(os, "fork") else None
    if child is None:
        pytest.skip("needs fork")
    if child == 0:
        with locked(folder / ".lock"):
            (folder.parent / "held").touch()
            while not (folder.parent / "enough").exists():
                pass
        os._exit(0)
    while not (folder.parent / "held").exists():
        pass
    try:
        with pytest.raises(RunError, match="another process is working on this run"):
            train(tiny_recipe(data, folder), resume=True)
    finally:
        (folder.parent / "enough").touch()
        os.waitpid(child, 0)
    assert train(tiny_recipe(data, folder), resume=True)["status"] == "finished"


def test_a_start_that_failed_on_its_data_can_be_mended(tmp_path: Path) -> None:
    from finesight.core.errors import DataError

    data = write_pictures(tmp_path / "own.csv", 16)
    text = data.read_text()
    data.write_text(text.replace("answer", "anzwer", 1))
    folder = tmp_path / "run"
    with pytest.raises(DataError):
        train(tiny_recipe(data, folder))
    data.write_text(text)
    assert train(tiny_recipe(data, folder, train={"max_steps": 2, "lr": 0.1}))["status"] == "finished"


def test_a_start_that_failed_on_its_recipe_can_be_mended(tmp_path: Path, tiny_data: Path) -> None:
    """What is known to be wrong only once there is a model: nothing was learned, so nothing stands in the way."""
    folder, few = tmp_path / "run", {"max_steps": 2}
    for wrong in (
        {"train": {**few, "groups": [{"match": "zzz.*", "lr": 1e-3}]}},
        {"train": few, "profile": {"steps": [3, 9]}},
    ):
        with pytest.raises(FinesightError, match=r"zzz|profile"):
            train(tiny_recipe(tiny_data, folder, **wrong))
    assert train(tiny_recipe(tiny_data, folder, train={"max_steps": 2, "lr": 0.1}))["status"] == "finished"
    assert json.loads((folder / "environment.json").read_text())["resumed"] == []


def test_a_directory_that_is_no_run_is_left_alone(tmp_path: Path, tiny_data: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "precious").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(RunError):
            train(tiny_recipe(tiny_data, folder), resume=resume)
    own = tmp_path / "own"
    own.mkdir()
    (own / "recipe.yaml").write_text("mine")
    with pytest.raises(RunError):
        train(tiny_recipe(tiny_data, own))
    assert (own / "recipe.yaml").read_text() == "mine"
    assert sorted(path.name for path in folder.rglob("*")) == ["model", "precious"]
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(RunError, match="a file, not a directory"):
        train(tiny_recipe(tiny_data, folder))


@pytest.mark.parametrize(
    ("damaged", "begins"), [(1, "resumed after step 10 of 12"), (2, "begins at step 1 of 12")]
)
def test_a_damaged_checkpoint_costs_some_steps_and_nothing_else(
    damaged: int,
    begins: str,
    tmp_path: Path,
    tiny_data: Path,
    finished_run: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "finesight")
    recipe, folder = tiny_recipe(tiny_data, tmp_path / "run"), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(recipe, observer=_stop_at("step", 11))
    (folder / "checkpoints" / "step-11" / "model.safetensors").write_bytes(b"damaged")
    if damaged == 2:
        file = folder / "checkpoints" / "step-10" / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    caplog.clear()
    train(recipe, resume=True)
    assert begins in caplog.text
    assert "step-11 is not used: model.safetensors has 7 bytes" in caplog.text
    assert ("step-10 is not used: optimizer.safetensors is damaged" in caplog.text) == (damaged == 2)
    assert essence(folder) == essence(finished_run)
