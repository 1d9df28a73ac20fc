"""Checkpoints that are written beside the training: what they hold, when they count, and what ends them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from safetensors.torch import save_file
from tiny_runs import Watcher, essence, finish, steps_made, tiny_mapping, tiny_recipe, wait_for

from finesight.config.load import load_recipe, parse_recipe
from finesight.core.errors import Interrupted, RunError
from finesight.training import checkpoint as module
from finesight.training.background import Background
from finesight.training.checkpoint import load_checkpoint
from finesight.workflows import saving
from finesight.workflows.train import train


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Puts something before the writing of each checkpoint's tensors."""

    def before(do: Callable[[Path], None]) -> None:
        def write(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
            if file.name == "model.safetensors":
                do(file.parent)
            save_file(dict(tensors), file)

        monkeypatch.setattr(module, "save_file", write)

    return before


class Waiting:
    """Lets the writer wait until the run has made so many steps more; and takes notes."""

    def __init__(self, folder: Path, steps: int = 1, seconds: float = 10, last: int = 12) -> None:
        self.folder, self.steps, self.seconds, self.last = folder, steps, seconds, last
        self.meanwhile: dict[str, int] = {}
        self.others: dict[str, list[str]] = {}

    def __call__(self, place: Path) -> None:
        name = place.name.removesuffix(".partial")
        number, end = int(name[5:]), time.monotonic() + self.seconds
        while (
            steps_made(self.folder) < number + self.steps and time.monotonic() < end and number != self.last
        ):
            time.sleep(0.005)
        self.meanwhile[name] = steps_made(self.folder) - number
        there = sorted(path.name for path in place.parent.glob("step-*") if path != place)
        pointers = (place.parent / one for one in ("last", "best"))
        pointed = [path.read_text().strip() for path in pointers if path.is_file()]
        self.others[name] = [*there, *pointed]


def test_values_are_those_of_the_call(
    tiny_data: Path, tmp_path: Path, finished_run: Path, writer: Any
) -> None:
    """S42, C3: the very next steps change weights and averages in place before anything is written."""
    own = {"save_every": 2, "keep_last": 9}
    plain = tiny_recipe(tiny_data, tmp_path / "plain", train={**own, "async_save": False})
    train(plain)
    folder = tmp_path / "run"
    waiting = Waiting(folder)
    writer(waiting)
    train(tiny_recipe(tiny_data, folder, train={**own, "async_save": True}))
    assert waiting.meanwhile.pop("step-12") == 0, "the end waits"
    assert set(waiting.meanwhile.values()) <= {1, 2}
    assert waiting.others["step-4"] == ["step-2", "step-2"], "`last` moves once the next one is there"
    for step in range(2, 13, 2):
        ours, theirs = (
            load_checkpoint(one / "checkpoints" / f"step-{step}") for one in (folder, tmp_path / "plain")
        )
        for group, tensors in theirs.tensors.items():
            assert all(torch.equal(ours.tensors[group][name], value) for name, value in tensors.items()), step
        states = [
            {**one.state, "loop": {**one.state["loop"], "seconds": 0, "clocks": 0}} for one in (ours, theirs)
        ]
        assert states[0] == states[1]
    assert "beside the training, which waited" in (folder / "log.txt").read_text()
    found, wanted = essence(folder), essence(finished_run)
    assert found["model/model.safetensors"] == wanted["model/model.safetensors"]


def test_no_room_for_a_copy(
    tiny_data: Path, tmp_path: Path, finished_run: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "free_bytes", lambda: 1000)
    folder = tmp_path / "run"
    waiting = Waiting(folder, seconds=0.05)
    writer(waiting)
    train(tiny_recipe(tiny_data, folder))
    assert set(waiting.meanwhile.values()) == {0}
    (said,) = (row for row in json.loads((folder / "notices.json").read_text()) if row["kind"] == "saving")
    assert "more than a quarter of the free memory (1,000 bytes)" in said["text"]
    assert essence(folder) == essence(finished_run)


def test_stopped_during_a_write(tiny_data: Path, tmp_path: Path, finished_run: Path, writer: Any) -> None:
    folder = tmp_path / "run"
    writer(Waiting(folder, steps=99, seconds=0.4))
    with pytest.raises(Interrupted, match="after step 6 of 12"):
        train(tiny_recipe(tiny_data, folder), observer=Watcher("step", 6, _twice))
    assert sorted(path.name for path in (folder / "checkpoints").glob("step-*")) == ["step-5", "step-6"]
    assert (folder / "checkpoints" / "last").read_text() == "step-6\n"
    train(tiny_recipe(tiny_data, folder), resume=True)
    assert essence(folder) == essence(finished_run)


def _twice() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def test_stopped_in_the_first_step(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finesight.training.step import Step

    plain = Step.__call__

    def step(self: Any, *arguments: Any) -> Any:
        _twice()
        return plain(self, *arguments)

    monkeypatch.setattr(Step, "__call__", step)
    with pytest.raises(Interrupted, match="after step 1 of 12"):
        train(tiny_recipe(tiny_data, tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / "last").read_text() == "step-1\n"


@pytest.mark.parametrize("lasting", [True, False])
def test_a_writer_that_fails_ends_the_run(
    lasting: bool, tiny_data: Path, tmp_path: Path, writer: Any
) -> None:
    folder = tmp_path / "run"
    failed = []

    def fail(place: Path) -> None:
        if place.name.startswith("step-5") or (failed and not lasting):
            return
        failed.append(place.name)
        raise OSError(28, "No space left on device")

    writer(fail)
    with pytest.raises(
        RunError, match=r"the disk is full: [\d,]+ bytes are needed, [\d,]+ bytes are free"
    ) as caught:
        train(tiny_recipe(tiny_data, folder, train={"async_save": True}))
    assert caught.value.exit_status == 2
    assert failed[0] == "step-10.partial"
    assert str(folder / "checkpoints") in str(caught.value)
    last = (folder / "checkpoints" / "last").read_text().strip()
    assert last == "step-5" if lasting else last in ("step-10", "step-11")  # as far as it came meanwhile
    assert ("steps is saved: --resume" in str(caught.value)) == (not lasting)
    assert not list((folder / "checkpoints").glob("*.partial"))


def _hanging(mapping: dict[str, Any], log: str) -> None:
    """Train in a process whose writer never ends the checkpoint of step 10."""

    def write(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
        save_file(dict(tensors), file)
        if file.parent.name.startswith("step-10") and file.name.startswith("model"):
            threading.Event().wait()

    module.save_file = write
    tiny_runs._child(mapping, False, log)


def test_killed_during_a_write(tiny_data: Path, tmp_path: Path, finished_run: Path) -> None:
    """C1: the former checkpoint is the newest; what was half written is cleaned."""
    folder = tmp_path / "run"
    context = tiny_runs.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_runs", "finesight.workflows.train"])
    process = context.Process(target=_hanging, args=(tiny_mapping(tiny_data, folder), f"{folder}.stderr"))
    process.start()
    wait_for(lambda: steps_made(folder) >= 11, process)
    os.kill(process.pid or 0, signal.SIGKILL)
    assert finish(process) == -signal.SIGKILL
    assert (folder / "checkpoints" / "step-10.partial" / "model.safetensors").is_file()
    assert (folder / "checkpoints" / "last").read_text() == "step-5\n"
    train(tiny_recipe(tiny_data, folder), resume=True)
    assert not list((folder / "checkpoints").glob("*.partial"))
    assert essence(folder) == essence(finished_run)


def test_a_second_run_from_the_record_alone(tmp_path: Path, finished_run: Path) -> None:
    """T45."""
    train(load_recipe(str(finished_run / "recipe.yaml"), [f"run.dir={tmp_path / 'again'}"]))
    assert essence(tmp_path / "again") == essence(finished_run)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small file system")
def test_a_disk_that_fills_up_while_a_run_learns(tiny_data: Path, tmp_path: Path) -> None:
    """T4: 64 MiB, filled by somebody else after the first save, and before the start."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    ballast = disk / "ballast"

    def fill(left: int) -> None:
        ballast.write_bytes(b"")
        free = shutil.disk_usage(disk).free
        ballast.write_bytes(bytes(free - left))

    try:
        recipe = parse_recipe(tiny_mapping(tiny_data, disk / "run"))
        fill(2**20)
        with pytest.raises(
            RunError, match=r"the disk is full: [\d,]+ bytes are needed, [\d,]+ bytes are free"
        ):
            train(recipe)
        assert steps_made(disk / "run") == 0
        ballast.unlink()
        with pytest.raises(
            RunError, match=r"the disk is full: [\d,]+ bytes are needed, [\d,]+ bytes are free"
        ):
            train(recipe, resume=True, observer=Watcher("step", 7, lambda: fill(200_000)))
        assert (disk / "run" / "checkpoints" / "last").read_text() == "step-5\n"
        assert load_checkpoint(disk / "run" / "checkpoints" / "step-5").step == 5
        ballast.unlink()
        train(recipe, resume=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_work_in_the_background_raises_once() -> None:
    background = Background()
    release = threading.Event()

    def fail() -> None:
        release.wait(5)
        raise ValueError("in the thread")

    background.begin(fail)
    background.check()  # it is at work
    release.set()
    with pytest.raises(ValueError, match="in the thread"):
        background.wait()
    background.wait()
    background.check()
    assert background.seconds == background.longest > 0
