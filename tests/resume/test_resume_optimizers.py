"""Runs with other optimizers, rates by group and schedules, stopped and continued, are the unbroken ones."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, rows, tiny_recipe

from finesight.core.errors import Interrupted, ModelError
from finesight.training.schedule import schedule_of
from finesight.workflows import train as workflow

pytestmark = pytest.mark.usefixtures("no_report")

OWN: dict[str, Any] = {
    "schedule": "wsd", "decay": 4, "label_smoothing": 0.1, "max_steps": 8,
    "groups": [{"match": "vision_tower", "lr": 1e-4}, {"match": "*.bias", "weight_decay": 0.2}],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["adafactor", "adamw8bit"])
def test_it_goes_on_to_the_bit(kind: str, tiny_data: Path, tmp_path: Path) -> None:
    own = {**OWN, "optimizer": kind}
    unbroken, stopped = (tiny_recipe(tiny_data, tmp_path / name, train=own) for name in ("one", "two"))
    workflow.train(unbroken)
    with pytest.raises(Interrupted):
        workflow.train(stopped, observer=Watcher("step", 3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    workflow.train(stopped, resume=True)
    assert essence(tmp_path / "two") == essence(tmp_path / "one")
    told = (tmp_path / "one" / "log.txt").read_text(encoding="utf-8")
    assert "learning rate 0.0001" in told
    assert "decay 0.2" in told


def test_what_the_recipe_says_reaches_the_steps(tiny_data: Path, tmp_path: Path) -> None:
    """The rates of the schedule, and the loss of spread targets; validation is without them."""
    plain = {key: value for key, value in OWN.items() if key != "label_smoothing"}
    first = {}
    for name, own in (("spread", OWN), ("plain", plain)):
        recipe = tiny_recipe(tiny_data, tmp_path / name, train=own)
        workflow.train(recipe)
        steps = [row for row in rows(tmp_path / name / "metrics.jsonl") if "loss" in row]
        schedule = schedule_of(recipe.train, 8)
        assert [row["lr"] for row in steps] == [schedule.rate(row["step"]) for row in steps]
        first[name] = steps[0]["loss"]
    assert first["spread"] != first["plain"]


def test_a_group_of_nothing_is_told_before_a_step(tiny_data: Path, tmp_path: Path) -> None:
    own = {"groups": [{"match": "ears.*", "lr": 1e-4}]}
    with pytest.raises(ModelError, match=r"`ears\.\*` matches nothing that learns"):
        workflow.train(tiny_recipe(tiny_data, tmp_path / "run", train=own))
