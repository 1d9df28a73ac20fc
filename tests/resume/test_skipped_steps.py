"""Steps whose loss is no number: left out, counted, limited; and the run goes on as if it had never been stopped."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny_runs import Watcher, essence, tiny_recipe
from torch import Tensor

from finesight.core.batch import Batch
from finesight.core.errors import Interrupted, TrainingError
from finesight.models.forward import SupervisedForward
from finesight.workflows import train as workflow

pytestmark = pytest.mark.usefixtures("no_report")

SKIP = {"on_nan": "skip", "max_steps": 12}


@pytest.fixture
def bad_sample(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Samples whose logits are no numbers while the model learns."""
    names: list[str] = []
    plain = SupervisedForward.__call__

    def broken(self: Any, batch: Batch) -> Tensor:
        logits = plain(self, batch)
        return logits * math.nan if self._model.training and set(names) & set(batch.ids) else logits

    monkeypatch.setattr(SupervisedForward, "__call__", broken)
    return names


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_they_are_left_out_and_counted(tiny_data: Path, tmp_path: Path, bad_sample: list[str]) -> None:
    first = tiny_recipe(tiny_data, tmp_path / "whole", train=SKIP)
    workflow.train(first)
    seen = [
        json.loads(line)["ids"] for line in (tmp_path / "whole" / "samples.jsonl").read_text().splitlines()
    ]
    bad_sample.append(seen[3][0])
    bad = [number for number, ids in enumerate(seen, 1) if bad_sample[0] in ids]

    workflow.train(tiny_recipe(tiny_data, tmp_path / "one", train=SKIP))
    steps = [row for row in rows(tmp_path / "one") if "loss" in row]
    assert [row["step"] for row in steps if row.get("skipped")] == bad
    assert [row["step"] for row in steps if row["loss"] is None] == bad
    weights = load_file(tmp_path / "one" / "model" / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())
    log = (tmp_path / "one" / "log.txt").read_text(encoding="utf-8")
    assert f"step {bad[0]} is skipped: the loss is nan" in log and bad_sample[0] in log

    stopped = tiny_recipe(tiny_data, tmp_path / "two", train=SKIP)
    with pytest.raises(Interrupted):
        workflow.train(
            stopped, observer=Watcher("step", bad[0], lambda: os.kill(os.getpid(), signal.SIGTERM))
        )
    workflow.train(stopped, resume=True)
    assert essence(tmp_path / "two") == essence(tmp_path / "one")


def test_no_more_than_the_limit(tiny_data: Path, tmp_path: Path, bad_sample: list[str]) -> None:
    workflow.train(tiny_recipe(tiny_data, tmp_path / "whole", train=SKIP))
    seen = [
        json.loads(line)["ids"] for line in (tmp_path / "whole" / "samples.jsonl").read_text().splitlines()
    ]
    bad_sample.extend(ids[0] for ids in seen[3:6])
    bad = [number for number, ids in enumerate(seen, 1) if set(bad_sample) & set(ids)]
    recipe = tiny_recipe(tiny_data, tmp_path / "run", train={**SKIP, "nan_limit": 2})
    with pytest.raises(TrainingError, match="2 others were skipped before") as caught:
        workflow.train(recipe)
    assert caught.value.faults[0].where.startswith(f"step {bad[2]}, samples")
    assert (tmp_path / "run" / "checkpoints" / "last").read_text().strip() == f"step-{bad[2] - 1}"
