"""A packed run, and one whose steps are of so many tokens, stopped and continued: the same run, whoever prepares it."""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, rows, tiny_mapping

from finesight.config.load import parse_recipe
from finesight.core.errors import Interrupted
from finesight.workflows import train as workflow

KINDS: dict[str, dict[str, Any]] = {
    "packed": {"packing": True},
    "packed-tokens": {"packing": True, "batch_tokens": 150, "micro_tokens": 90},
    "tokens": {"batch_tokens": 200},
}


def mapping(data: Path, folder: Path, kind: str, workers: int) -> dict[str, Any]:
    train: dict[str, Any] = {**KINDS[kind], "max_steps": 20, "gradient_checkpointing": kind == "packed"}
    if "batch_tokens" in train:
        train |= {"batch_size": None, "micro_batch": "auto"}
    found = tiny_mapping(data, folder, train=train, evaluation={"every": 10, "max_samples": 0})
    found["evaluation"] |= {"metrics": ["exact_match"]}
    found["data"]["workers"] = workers
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_and_ten_more_are_twenty(
    kind: str, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    workflow.train(parse_recipe(mapping(tiny_data, tmp_path / "unbroken", kind, 0)))
    stopped = parse_recipe(mapping(tiny_data, tmp_path / "stopped", kind, 2))
    with pytest.raises(Interrupted):
        workflow.train(stopped, observer=Watcher("step", 10, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    workflow.train(stopped, resume=True)
    assert essence(tmp_path / "stopped") == essence(tmp_path / "unbroken")
    steps = [row for row in rows(tmp_path / "unbroken" / "metrics.jsonl") if "loss" in row]
    if kind != "packed":
        assert all(
            row["tokens"] / (1 - row["padding"]) <= KINDS[kind]["batch_tokens"] + 1e-6 for row in steps
        )
        assert len({row["samples"] for row in steps}) > 2, "samples a step vary"
    assert all(row["padding"] == 0 for row in steps) or kind == "tokens"
    drawn = [name for row in rows(tmp_path / "unbroken" / "samples.jsonl") for name in row["ids"]]
    plan = json.loads((tmp_path / "unbroken" / "plan.json").read_text())
    for name in ("samples", "tokens", "supervised_tokens", "positions"):
        assert plan["predicted"][name] == plan["measured"][name]
    passes = Counter(drawn)
    assert len(passes) == 32 and max(passes.values()) - min(passes.values()) <= 1, "each once an epoch"
    told = [
        row
        for row in json.loads((tmp_path / "unbroken" / "notices.json").read_text())
        if row["kind"] == "packing"
    ]
    assert len(told) == (kind != "tokens")
