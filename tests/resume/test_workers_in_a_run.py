"""A run whose workers are killed, freeze or meet what nobody foresaw ends in time, saved, with nobody left behind."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_runs
from tiny_runs import essence, finish, steps_made, tiny_mapping

SAMPLE = 7


def _with_a_fault(fault: str, mapping: dict[str, Any], resume: bool, log: str) -> None:
    """Train in a process in which looking at one sample does something else."""
    from finesight.data.dataset import ExampleSet

    plain = ExampleSet.__getitem__

    def get(self: Any, key: tuple[int, int]) -> Any:
        if key[1] == SAMPLE and fault == "sleeps":
            time.sleep(1000)
        if key[1] == SAMPLE and fault == "raises":
            raise ZeroDivisionError("nobody foresaw this")
        return plain(self, key)

    ExampleSet.__getitem__ = get  # type: ignore[method-assign]
    tiny_runs._child(mapping, resume, log)


def begin(mapping: dict[str, Any], fault: str = "", resume: bool = False) -> Any:
    context = tiny_runs.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_runs", "finesight.workflows.train"])
    log = mapping["run"]["dir"].rstrip("/") + ".stderr"
    process = context.Process(target=_with_a_fault, args=(fault, mapping, resume, log))
    process.start()
    return process


def group(number: int) -> list[psutil.Process]:
    """The processes of a process group, zombies too."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == number:
                found.append(process)
        except ProcessLookupError:
            pass
    return found


def mapping_of(data: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    mapping = tiny_mapping(data, folder)
    mapping["data"] |= {"workers": 2, **settings}
    return mapping


def told(folder: Path) -> str:
    return Path(f"{folder}.stderr").read_text()


def is_resumed(mapping: dict[str, Any], finished_run: Path) -> None:
    """What is saved continues as if nothing had happened."""
    process = begin(mapping, resume=True)
    assert finish(process) == 0, told(Path(mapping["run"]["dir"]))
    ours, theirs = essence(Path(mapping["run"]["dir"])), essence(finished_run)
    for name, value in theirs.items():
        assert ours[name] == value, name


@pytest.mark.parametrize("fault", ["sleeps", "raises"])
def test_a_sample_that_cannot_be_prepared(
    fault: str, tiny_data: Path, tmp_path: Path, finished_run: Path
) -> None:
    mapping = mapping_of(tiny_data, tmp_path / "run", timeout=2)
    process = begin(mapping, fault)
    assert finish(process) == 1
    words = told(tmp_path / "run")
    assert "pictures.csv, row" in words and "sample `pictures-" in words
    assert (
        "was silent for 2 seconds" if fault == "sleeps" else "ZeroDivisionError: nobody foresaw this"
    ) in words
    made = steps_made(tmp_path / "run")
    assert f"what was learned in {made} steps is saved: --resume goes on from there" in words
    assert group(process.pid) == []
    is_resumed(mapping_of(tiny_data, tmp_path / "run"), finished_run)


def until_it_waits(folder: Path, process: Any) -> None:
    """Until the run has a worker, and makes no step for two seconds: it waits for the sample that never comes."""
    made, since = -1, time.monotonic()
    while time.monotonic() - since < 2:
        if steps_made(folder) != made or len(group(process.pid)) < 2:
            made, since = steps_made(folder), time.monotonic()
        assert process.is_alive(), told(folder)
        time.sleep(0.05)


def test_asked_to_stop_while_it_waits_for_data(tiny_data: Path, tmp_path: Path, finished_run: Path) -> None:
    mapping = mapping_of(tiny_data, tmp_path / "run")
    process = begin(mapping, "sleeps")
    until_it_waits(tmp_path / "run", process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    assert finish(process) == 75, told(tmp_path / "run")
    assert time.monotonic() - began < 10
    assert f"stopped after step {steps_made(tmp_path / 'run')} of 12" in told(tmp_path / "run")
    assert group(process.pid) == []
    is_resumed(mapping, finished_run)


def test_workers_that_are_killed(tiny_data: Path, tmp_path: Path, finished_run: Path) -> None:
    mapping = mapping_of(tiny_data, tmp_path / "run")
    process = begin(mapping, "sleeps")
    until_it_waits(tmp_path / "run", process)
    for worker in group(process.pid):
        if worker.pid != process.pid:
            worker.kill()
    assert finish(process) == 1
    assert "was ended by signal 9 (SIGKILL)" in told(tmp_path / "run")
    assert "Traceback" not in told(tmp_path / "run")
    assert group(process.pid) == []
    is_resumed(mapping, finished_run)
