"""Runs whose answers are fed from the model's own predictions, and whose loss is made in chunks."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, rows, tiny_recipe

from finesight.core.errors import Interrupted
from finesight.workflows import train as workflow

WAVE: dict[str, Any] = {
    "max_steps": 8,
    "scheduled_sampling": {"shape": "cyclic", "ratio": 1.0, "to": 0.2, "period": 4},
}


def steps(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder / "metrics.jsonl") if "loss" in row]


def test_it_goes_on_to_the_bit_and_chunks_change_nothing(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    own = {**WAVE, "loss_chunk": 5}
    workflow.train(tiny_recipe(tiny_data, tmp_path / "one", train=own))
    stopped = tiny_recipe(tiny_data, tmp_path / "two", train=own)
    with pytest.raises(Interrupted):
        workflow.train(stopped, observer=Watcher("step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    workflow.train(stopped, resume=True)
    assert essence(tmp_path / "two") == essence(tmp_path / "one")

    told = json.loads((tmp_path / "one" / "notices.json").read_text(encoding="utf-8"))
    said = " ".join(row["text"] for row in told)
    assert "6 of 8 steps feed answers from the model's own predictions" in said
    assert "logits are computed for at most 5 supervised positions at once" in said
    sampled = [row["step"] for row in steps(tmp_path / "one") if "sampling_seconds" in row]
    assert sampled == [2, 3, 4, 6, 7, 8], "a step whose ratio is 1 costs nothing"

    for name, other in (("whole", {**WAVE, "loss_chunk": "none"}), ("true", {"max_steps": 8})):
        workflow.train(tiny_recipe(tiny_data, tmp_path / name, train=other))
    ours, whole, true = (steps(tmp_path / name) for name in ("one", "whole", "true"))
    for one, another in zip(ours, whole, strict=True):
        assert one["loss"] == pytest.approx(another["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(another["grad_norm"], rel=1e-4)
    assert ours[0]["loss"] == pytest.approx(true[0]["loss"], rel=1e-6), "the ratio of step 1 is 1"
    assert abs(ours[2]["loss"] - true[2]["loss"]) > 1e-4
