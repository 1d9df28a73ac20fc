"""A run over weighted or repeated sources, stopped and continued: the same run."""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, rows, tiny_mapping, write_pictures

from finesight.config.load import parse_recipe
from finesight.core.errors import Interrupted, RunError
from finesight.workflows import train as workflow


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")


def mapping(folder: Path, run: str, **values: list[float]) -> dict[str, Any]:
    """A recipe over two tables of 12 and 20 pictures; `values` are a key of the sources and what it is in each."""
    whole = tiny_mapping(folder / "one.csv", folder / run)
    source = whole["data"]["train"]
    second = {**source, "path": str(folder / "two.csv")}
    ((key, each),) = values.items()
    whole["data"]["train"] = [{**source, key: each[0]}, {**second, key: each[1]}]
    whole["data"]["val"] = {"split": 0.25}
    return whole


@pytest.mark.parametrize(("key", "each"), [("weight", [3.0, 1.0]), ("repeat", [1, 2])])
def test_a_mixture_goes_on_where_it_was_stopped(tmp_path: Path, key: str, each: list[float]) -> None:
    write_pictures(tmp_path / "one.csv", 12)
    write_pictures(tmp_path / "two.csv", 20)
    unbroken = parse_recipe(mapping(tmp_path, "unbroken", **{key: each}))
    workflow.train(unbroken)
    stopped = parse_recipe(mapping(tmp_path, "stopped", **{key: each}))
    with pytest.raises(Interrupted):
        workflow.train(stopped, observer=Watcher("step", 5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    workflow.train(stopped, resume=True)
    assert essence(tmp_path / "stopped") == essence(tmp_path / "unbroken")
    drawn = [name for row in rows(tmp_path / "unbroken" / "samples.jsonl") for name in row["ids"]]
    train = json.loads((tmp_path / "unbroken" / "environment.json").read_text())["data"]["train"]
    seen = Counter(name.split("-")[0] for name in drawn)
    assert train["rows"] == 32
    assert seen["one"] > 0 and seen["two"] > 0
    if key == "weight":
        assert seen["one"] > 2 * seen["two"]
    other = mapping(tmp_path, "stopped", **{key: each[::-1]})
    with pytest.raises(RunError):
        workflow.train(parse_recipe(other), resume=True)
