"""Two processes save, are killed, find their slices damaged, or have too little memory: nothing is lost, none hangs."""

import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import worlds
from test_runs_together import STEPS, alone, data, mapping, same_run, wait_for_steps
from tiny_runs import rows, steps_made
from worlds import Running, start, trained

from finesight.config.load import parse_recipe
from finesight.core.errors import RunError
from finesight.runtime.notices import Notices
from finesight.training.checkpoint import Checkpoints, load_checkpoint
from finesight.workflows.train import train

__all__ = ["alone", "data"]


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in slices, both of whose processes were killed once, at a random moment after two saves."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    running = start(mapping(data, folder, parallel={"strategy": "fsdp"}))
    wait_for_steps(running, folder, 7)
    kill(running, 0.1)
    return folder


def kill(running: Running, most: float) -> None:
    time.sleep(random.Random(str(most)).uniform(0, most))
    for process in running.processes:
        os.kill(process.pid or 0, signal.SIGKILL)
    assert set(running.end()) <= {0, -9}


def test_killed_slices_go_on(
    data: Path, alone: Path, killed: Path, tmp_path: Path, proof_factor: int
) -> None:
    """T1: both processes are killed at random moments; two go on, bit for bit as two that nobody killed."""
    folder = shutil.copytree(killed, tmp_path / "run")
    wanted = mapping(data, folder, parallel={"strategy": "fsdp"})
    for number in range(0 if proof_factor == 1 else 2 * proof_factor):
        running = start(wanted, resume=True)
        before = steps_made(folder)
        end = time.monotonic() + 60
        while steps_made(folder) <= min(before, STEPS - 1) and time.monotonic() < end and _live(running):
            time.sleep(0.005)
        kill(running, 0.05 + number / 1000)
    same_run(trained(wanted, resume=True), alone)
    assert not list((folder / "checkpoints").glob("*.partial"))
    if proof_factor > 1:
        whole = trained(mapping(data, tmp_path / "whole", parallel={"strategy": "fsdp"}))
        last = (whole / "checkpoints" / "last").read_text().strip()
        assert _essence(folder, last) == _essence(whole, last)


def _live(running: Running) -> bool:
    return any(process.is_alive() for process in running.processes)


def _essence(folder: Path, last: str) -> dict[str, bytes]:
    """Files of the run, and every value of its last slices; their container is filled up to multiples of 64 bytes, from
    wherever a slice begins in it."""
    files = ["losses_log.csv", "samples.jsonl", "model/model.safetensors", "predictions/val.jsonl"]
    saved = load_checkpoint(folder / "checkpoints" / last).tensors
    values = {
        f"{group}/{name}": value.numpy().tobytes()
        for group, tensors in saved.items()
        for name, value in tensors.items()
    }
    assert {"model", "optimizer"} == set(saved) and len(values) > 50
    return values | {name: (folder / name).read_bytes() for name in files}


def test_damaged_slices_are_noticed(killed: Path, tmp_path: Path) -> None:
    """Each file of the newest checkpoint with a byte flipped, cut short and removed: the one before is used."""
    folder = shutil.copytree(killed / "checkpoints", tmp_path / "checkpoints")
    store = Checkpoints(folder, Notices())
    newest = store.newest()
    assert newest is not None
    names = sorted(path.name for path in newest.iterdir())
    assert {"__0_0.distcp", "__1_0.distcp", "manifest.json", "slices.json", "state.json"} == set(names)
    shutil.copytree(newest, tmp_path / "whole")
    before = sorted(path.name for path in folder.glob("step-*") if path.name != newest.name)
    assert before
    for name in names:
        for damage in ("flipped", "cut", "missing"):
            shutil.rmtree(newest, ignore_errors=True)
            shutil.copytree(tmp_path / "whole", newest)
            data = (newest / name).read_bytes()
            middle = data.index(b"sha256") + 12 if name == "manifest.json" else len(data) // 2
            if damage == "missing":
                (newest / name).unlink()
            elif damage == "cut":
                (newest / name).write_bytes(data[:middle])
            else:
                (newest / name).write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
            with pytest.raises(RunError, match="not whole"):
                load_checkpoint(newest)
            found = store.newest()
            assert found is not None and found.name in before, (name, damage)


def _lacking(place: tuple[int, int, int, str], wanted: Mapping[str, Any], rank: int, name: str) -> None:
    """Train in a process; that of `rank` has too little memory for a sample."""
    from finesight.models.forward import SupervisedForward

    plain = SupervisedForward.__call__

    def forward(self: Any, batch: Any) -> Any:
        if place[0] == rank and name in batch.ids and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, batch)

    SupervisedForward.__call__ = forward  # type: ignore[method-assign]
    worlds._train(place, wanted, False)


@pytest.mark.parametrize(("strategy", "rank", "saved"), [("ddp", 1, 4), ("ddp", 0, 4), ("fsdp", 1, 3)])
def test_where_one_has_too_little_memory_all_stop_and_say_whose(
    strategy: str, rank: int, saved: int, data: Path, alone: Path, tmp_path: Path, proof_factor: int
) -> None:
    """C11: replicas save the step before, slices have their last checkpoint; the run goes on in smaller parts."""
    if proof_factor == 1 and (strategy, rank) != ("ddp", 1):
        pytest.skip("in `make proof`: it takes seconds")
    name = rows(alone / "samples.jsonl")[4]["ids"][rank]  # of step 5, in its first epoch
    folder = tmp_path / "run"
    wanted = mapping(
        data, folder, parallel={"strategy": strategy, "timeout": 60.0}, train={"on_oom": "shrink"}
    )
    running = Running(tmp_path / "logs", 2, _lacking, wanted, rank, name)
    assert running.end() == [2, 2], running.said()
    said = running.logs[0].read_text()
    assert "memory does not suffice for a micro-batch of" in said and "bytes are free of" in said
    assert "Traceback" not in running.said()
    if rank:
        assert f"process {rank}: memory does not suffice" in said
    assert (folder / "checkpoints" / "last").read_text() == f"step-{saved}\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        train(parse_recipe(mapping(data, folder, train={"micro_batch": 1})), resume=True)
    same_run(folder, alone)
