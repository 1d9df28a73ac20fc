"""The first steps of the shipped recipes, loss by loss: what should not alter the learning must not.

The stored losses change with a stated reason alone: run once with FINESIGHT_GOLDEN=write, and say why in the commit.
"""

import json
import os
from pathlib import Path

import pytest

import finesight as fs

pytestmark = pytest.mark.usefixtures("no_report")

HERE = Path(__file__).parent
SHORT = {
    "train.max_steps": 12,
    "train.batch_size": 8,
    "data.test": None,
    "data.train.max_samples": 64,
    "data.val.max_samples": 8,
    "evaluation.every": 12,
    "evaluation.max_samples": 0,
    "log.every": 1,
    "run.threads": 1,
}
"""Twelve steps of a recipe over a few of its samples."""

TOLERANCE = 1e-3
"""Of another processor's or library version's rounding, twelve steps in; a change of what is learned is far over it."""


@pytest.mark.parametrize("name", ["quickstart"])
def test_first_losses_are_as_they_were(name: str, tmp_path: Path) -> None:
    fs.train(name, **{**SHORT, "run.dir": str(tmp_path / "run")})
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    stored = HERE / f"{name}.json"
    if os.environ.get("FINESIGHT_GOLDEN") == "write":
        stored.write_text(json.dumps(losses, indent=1) + "\n")
    assert losses == pytest.approx(json.loads(stored.read_text()), abs=TOLERANCE)
