"""Memory that does not suffice: told with its numbers, saved; or the same step in smaller micro-batches, said."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import Watcher, essence, rows, tiny_mapping

from finesight.config.load import parse_recipe
from finesight.core.batch import Batch
from finesight.core.errors import Interrupted, RunError
from finesight.models.forward import SupervisedForward
from finesight.training.memory import OutOfMemory
from finesight.workflows.train import train

STEPS = 6
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")


def mapping(data: Path, folder: Path, **own: Any) -> dict[str, Any]:
    """Nothing random but the order: steps of 4 samples in micro-batches of all of them."""
    settings = {"max_steps": STEPS, "micro_batch": "auto", "save_every": 2, **own}
    found = tiny_mapping(data, folder, train=settings, evaluation={"every": 3, "max_samples": 1})
    del found["data"]["transforms"]
    for part in ("vision", "decoder"):
        found["model"]["scratch"][part]["dropout"] = 0.0
    return found


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run for which memory suffices."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        train(parse_recipe(mapping(tiny_data, folder)))
    return folder


def ids(folder: Path, step: int) -> list[str]:
    return list(rows(folder / "samples.jsonl")[step - 1]["ids"])


@pytest.fixture
def lack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Lets memory suffice for `most` samples where one of them is `name`, while the model learns or is measured."""
    plain = SupervisedForward.__call__

    def begin(name: str, most: int, error: Exception, learning: bool = True) -> None:
        def forward(self: Any, batch: Batch) -> Any:
            if torch.is_grad_enabled() == learning and name in batch.ids and len(batch.ids) > most:
                raise error
            return plain(self, batch)

        monkeypatch.setattr(SupervisedForward, "__call__", forward)

    yield begin
    monkeypatch.setattr(SupervisedForward, "__call__", plain)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in rows(folder / "metrics.jsonl") if "loss" in row]


def is_nearly(folder: Path, other: Path) -> None:
    """The same samples in each step, and within the order of sums the same losses and weights."""
    assert losses(folder) == pytest.approx(losses(other), abs=1e-6)
    for step in range(1, STEPS + 1):
        assert ids(folder, step) == ids(other, step)
    ours, theirs = (load_file(one / "model" / "model.safetensors") for one in (folder, other))
    for name, value in theirs.items():
        if not name.endswith("k_proj.bias"):  # it moves no output: its gradient is rounding alone
            assert float((ours[name] - value).abs().max()) <= 1e-6, name


def test_a_step_that_does_not_fit_is_made_again_in_smaller_micro_batches(
    tiny_data: Path, tmp_path: Path, whole: Path, lack: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lack(
        ids(whole, 4)[3], 1, ERRORS[0]
    )  # the second time in the second micro-batch, after gradients of the first
    folder = tmp_path / "run"
    recipe = parse_recipe(mapping(tiny_data, folder, on_oom="shrink"))
    train(recipe)
    is_nearly(folder, whole)
    found = rows(folder / "metrics.jsonl")
    assert [(row["step"], row["broken_off"]) for row in found if "broken_off" in row] == [(4, 2)]
    said = [
        row["text"] for row in json.loads((folder / "notices.json").read_text()) if row["kind"] == "memory"
    ]
    assert len(said) == 2 and all(
        "step 4: memory does not suffice for a micro-batch of" in one for one in said
    )
    assert "4 samples with" in said[0] and "it goes on in micro-batches of 2 samples at most" in said[0]
    record = json.loads((folder / "environment.json").read_text())["out_of_memory"]
    assert [(one["step"], one["samples"]) for one in record] == [(4, 2), (4, 1)]
    state = json.loads((folder / "checkpoints" / f"step-{STEPS}" / "state.json").read_text())
    assert state["micro"] == {"asked": ["auto", None], "times": 2, "samples": 1, "tokens": None}

    # continued after the shrinking, where memory suffices again: the same run to the bit
    caplog.clear()
    again = parse_recipe(mapping(tiny_data, tmp_path / "again", on_oom="shrink"))
    with pytest.raises(Interrupted):
        train(again, observer=Watcher("step", 5, _stop))
    lack("nobody", 0, ERRORS[0])
    train(again, resume=True)
    ours, theirs = essence(tmp_path / "again"), essence(folder)
    for name, value in theirs.items():
        assert ours[name] == value, name
    assert "micro-batches are of 1 samples at most, since memory did not suffice, 2 times" in caplog.text


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_by_default_the_run_ends_with_the_numbers_and_goes_on_smaller(
    tiny_data: Path, tmp_path: Path, whole: Path, lack: Any
) -> None:
    lack(ids(whole, 4)[1], 2, ERRORS[2])
    folder = tmp_path / "run"
    with pytest.raises(OutOfMemory) as caught:
        train(parse_recipe(mapping(tiny_data, folder)))
    words = str(caught.value)
    assert caught.value.exit_status == 2
    assert "memory does not suffice for a micro-batch of 4 samples with" in words
    assert "on cpu this process has" in words and "bytes are free of" in words
    assert f"step 4, a micro-batch of the samples {', '.join(ids(whole, 4))}" in words
    assert "`train.on_oom: shrink`" in words and "what was learned in 3 steps is saved" in words
    assert (folder / "checkpoints" / "last").read_text() == "step-3\n"
    train(parse_recipe(mapping(tiny_data, folder, micro_batch=2)), resume=True)
    is_nearly(folder, whole)
    notices = [row["text"] for row in json.loads((folder / "notices.json").read_text())]
    assert "train.micro_batch: 'auto' became 2" in notices


def test_one_sample_cannot_be_made_smaller(tiny_data: Path, tmp_path: Path, whole: Path, lack: Any) -> None:
    lack(ids(whole, 2)[0], 0, ERRORS[1])
    with pytest.raises(OutOfMemory, match="a micro-batch of 1 sample with"):
        train(parse_recipe(mapping(tiny_data, tmp_path / "run", on_oom="shrink")))
    assert (tmp_path / "run" / "checkpoints" / "last").read_text() == "step-1\n"


def test_before_step_1_and_in_an_evaluation(tiny_data: Path, tmp_path: Path, whole: Path, lack: Any) -> None:
    lack(ids(whole, 1)[0], 2, ERRORS[0])
    folder = tmp_path / "run"
    settings = mapping(tiny_data, folder, on_oom="shrink")
    watcher = Watcher("step", 2, lambda: lack(validation(whole), 0, ERRORS[0], learning=False))
    with pytest.raises(OutOfMemory) as caught:
        train(parse_recipe(settings), observer=watcher)
    assert "where: evaluation.batch_size" in str(caught.value) and "bytes are free" in str(caught.value)
    assert "what was learned in 3 steps is saved" in str(caught.value)
    assert json.loads((folder / "environment.json").read_text())["out_of_memory"][0]["samples"] == 2


def validation(folder: Path) -> str:
    return str(rows(folder / "predictions" / "val.jsonl")[0]["id"])


def test_the_optimizer_and_the_recipe_of_a_finished_run_cannot_be_forced(
    whole: Path, tiny_data: Path
) -> None:
    for own, words in (({"optimizer": "adafactor"}, "state of one optimizer"), ({"lr": 1.0}, "is finished")):
        with pytest.raises(RunError, match=words):
            train(parse_recipe(mapping(tiny_data, whole, **own)), resume=True, force=True)
