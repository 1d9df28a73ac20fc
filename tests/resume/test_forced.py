"""A run that is continued over changes, since somebody forces it: each is named, and recorded."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, rows, tiny_mapping, write_pictures

from finesight.cli.main import run as command
from finesight.config.load import parse_recipe
from finesight.core.errors import Interrupted, RunError
from finesight.workflows.train import train


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")


def mapping(data: Path, folder: Path, **own: Any) -> dict[str, Any]:
    return tiny_mapping(
        data, folder, train={"max_steps": 8, **own}, evaluation={"every": 2, "max_samples": 1}
    )


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, Path]:
    """A run that was stopped after step 4, and its data."""
    data, folder = write_pictures(tmp_path / "own.csv", 16), tmp_path / "run"
    watcher = Watcher("step", 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(parse_recipe(mapping(data, folder)), observer=watcher)
    return data, folder


def kept(folder: Path) -> dict[str, bytes]:
    """What says of a run what it is."""
    files = [folder / "recipe.yaml", folder / "environment.json", *(folder / "checkpoints").rglob("*.*")]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


def test_forced_over_other_data_and_another_rate(stopped: tuple[Path, Path]) -> None:
    data, folder = stopped
    words = (folder / "checkpoints" / "skeleton" / "tokenizer.json").read_text()
    write_pictures(data, 24)
    data.write_text(
        data.read_text().replace("red", "crimson")
    )  # a tokenizer of its own would know other words
    wanted = parse_recipe(mapping(data, folder, lr=0.01))
    with pytest.raises(RunError, match="--force"):
        train(wanted, resume=True)
    train(wanted, resume=True, force=True)
    record = json.loads((folder / "environment.json").read_text())
    (resumed,) = record["resumed"]
    rate, data_told = resumed["forced"]
    assert rate == "train.lr: 0.003 became 0.01"
    assert data_told.startswith("the data changed since this run began (train: ")
    assert resumed["data"]["train"]["fingerprint"] != record["data"]["train"]["fingerprint"]
    notices = [
        row["text"] for row in json.loads((folder / "notices.json").read_text()) if row["kind"] == "forced"
    ]
    assert notices == [rate, data_told, "the best so far is forgotten: it was measured in another way"]
    assert (folder / "checkpoints" / "skeleton" / "tokenizer.json").read_text() == words
    assert (folder / "model" / "tokenizer.json").read_text() == words
    assert "lr: 0.01" in (folder / "recipe.yaml").read_text()
    assert [row["step"] for row in rows(folder / "samples.jsonl")] == list(range(1, 9))
    assert json.loads((folder / "results.json").read_text())["training"]["best_step"] > 4
    assert train(wanted, resume=True)["status"] == "finished"  # nothing is to be forced any more


def test_what_cannot_be_forced_changes_nothing(stopped: tuple[Path, Path]) -> None:
    data, folder = stopped
    before = kept(folder)
    wider = mapping(data, folder)
    wider["model"]["scratch"]["decoder"]["mlp"] = 64
    with pytest.raises(RunError, match="has the shape"):
        train(parse_recipe(wider), resume=True, force=True)
    assert kept(folder) == before
    with pytest.raises(RunError, match="give --resume"):
        train(parse_recipe(mapping(data, folder)), force=True)
    record = json.loads((folder / "environment.json").read_text())
    record["versions"]["torch"] = (
        "2.0.0"  # another library is told, and may change, like where copies are made
    )
    (folder / "environment.json").write_text(json.dumps(record))
    train(parse_recipe(mapping(data, folder, async_save=False)), resume=True, force=True)
    (resumed,) = json.loads((folder / "environment.json").read_text())["resumed"]
    assert "forced" not in resumed
    notices = json.loads((folder / "notices.json").read_text())
    (changed,) = (row["text"] for row in notices if row["kind"] == "changed")
    assert changed.startswith("torch 2.0.0 became ")


def test_the_command_says_what_force_belongs_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["train", "quickstart", "--force"]) == 2
    assert "give --resume, too" in capsys.readouterr().err
