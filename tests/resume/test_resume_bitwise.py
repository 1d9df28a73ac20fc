"""A run that is killed, stopped or cut in two is, once continued, the run that was never interrupted: bit for bit."""

import hashlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import begin, essence, finish, rows, steps_made, tiny_mapping, wait_for

from finesight.training.schedule import Schedule, part_of_steps

STEPS = 60 if os.environ.get("FINESIGHT_PROOF_FACTOR", "1") == "1" else 200
LONG = {"max_steps": STEPS, "stop": {"patience": 50, "threshold": 0.001}}


def _mapping(data: Path, folder: Path, workers: int = 0) -> dict[str, Any]:
    mapping = tiny_mapping(data, folder, train=LONG)
    mapping["data"]["workers"] = workers
    return mapping


def _complete(mapping: dict[str, Any], resume: bool) -> Path:
    process = begin(mapping, resume=resume)
    folder = Path(mapping["run"]["dir"])
    assert finish(process) == 0, Path(f"{folder}.stderr").read_text()
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> dict[str, Any]:
    """What the run is when nothing happens to it."""
    return essence(_complete(_mapping(tiny_data, tmp_path_factory.mktemp("unbroken") / "run"), resume=False))


def _assert_same(folder: Path, unbroken: dict[str, Any]) -> None:
    continued = essence(folder)
    for name, value in unbroken.items():
        assert continued[name] == value, name


@pytest.mark.proof
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments(
    workers: int, tmp_path: Path, tiny_data: Path, unbroken: dict[str, Any], proof_factor: int
) -> None:
    kills = 2 if proof_factor == 1 else max(5, 2 * proof_factor)
    draw = random.Random(kills * 10 + workers)
    mapping = _mapping(tiny_data, tmp_path / "run", workers)
    moments = sorted(draw.uniform(1, STEPS) for _ in range(kills))
    for number, moment in enumerate(moments):
        process = begin(mapping, resume=number > 0)
        wait_for(lambda moment=moment: steps_made(tmp_path / "run") >= moment, process)
        if process.is_alive():
            process.join(draw.uniform(0, 0.05))  # anywhere in the steps, saves and evaluations that follow
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (tmp_path / "run.stderr").read_text()
    # at once: neither a worker that outlives its parent for seconds nor a half-written file is in the way
    _assert_same(_complete(mapping, resume=True), unbroken)


def test_killed_before_anything_is_saved(tmp_path: Path, tiny_data: Path, unbroken: dict[str, Any]) -> None:
    mapping = _mapping(tiny_data, tmp_path / "run")
    process = begin(mapping)
    wait_for((tmp_path / "run" / "recipe.yaml").is_file, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _assert_same(_complete(mapping, resume=True), unbroken)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 2)], ids=["ctrl-c", "term-to-the-group"]
)
def test_asked_to_stop_between_steps(
    number: signal.Signals, workers: int, tmp_path: Path, tiny_data: Path, unbroken: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    mapping = _mapping(tiny_data, folder, workers)
    process = begin(mapping)
    wait_for(lambda: steps_made(folder) >= 22, process)
    made = steps_made(folder)
    os.killpg(process.pid, number)
    os.killpg(process.pid, number)  # a second signal changes nothing
    assert finish(process) == 75, (tmp_path / "run.stderr").read_text()
    last = (folder / "checkpoints" / "last").read_text().strip()
    stopped = steps_made(folder)
    assert last == f"step-{stopped}", "no finished step is lost"
    assert stopped <= made + 2
    assert f"stopped after step {stopped} of {STEPS}" in (tmp_path / "run.stderr").read_text()
    _assert_same(_complete(mapping, resume=True), unbroken)


def test_ten_and_ten_steps_are_twenty(tmp_path: Path, tiny_data: Path) -> None:
    whole, halves = (
        tiny_mapping(tiny_data, tmp_path / name, train={"max_steps": 20, "precision": "bf16"})
        for name in ("whole", "halves")
    )
    _complete(whole, resume=False)
    process = begin(halves)
    wait_for(lambda: steps_made(tmp_path / "halves") >= 9, process)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 75
    _assert_same(_complete(halves, resume=True), essence(tmp_path / "whole"))


def test_rate_is_the_closed_form_over_interruptions(tmp_path: Path, tiny_data: Path) -> None:
    mapping = tiny_mapping(
        tiny_data,
        tmp_path / "run",
        train={"max_steps": 24, "warmup": 0.25, "schedule": "cosine", "min_lr": 0.1},
    )
    for number, step in enumerate((4, 11, 17)):
        process = begin(mapping, resume=number > 0)
        wait_for(lambda step=step: steps_made(tmp_path / "run") >= step, process)
        os.kill(process.pid, signal.SIGTERM)
        assert finish(process) == 75
    _complete(mapping, resume=True)
    schedule = Schedule(3e-3, 24, part_of_steps(0.25, 24), "cosine", 0.1)
    logged = [(row["step"], row["lr"]) for row in rows(tmp_path / "run" / "metrics.jsonl") if "lr" in row]
    assert logged == [(step, pytest.approx(schedule.rate(step), rel=1e-12)) for step in range(1, 25)]


def test_early_stopping_is_the_same_over_an_interruption(tmp_path: Path, tiny_data: Path) -> None:
    stop = {"max_steps": 40, "stop": {"patience": 2, "threshold": 10.0}}  # nothing improves by so much
    mappings = [tiny_mapping(tiny_data, tmp_path / name, train=stop) for name in ("whole", "cut")]
    _complete(mappings[0], resume=False)
    process = begin(mappings[1])
    wait_for(lambda: steps_made(tmp_path / "cut") >= 8, process)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _complete(mappings[1], resume=True)
    assert essence(tmp_path / "cut") == essence(tmp_path / "whole")
    training = json.loads((tmp_path / "cut" / "results.json").read_text())["training"]
    assert training["steps"] == 15  # the first evaluation is the best there was; two more without progress
    _complete(mappings[1], resume=True)
    assert steps_made(tmp_path / "cut") == 15


def _hashes(folder: Path) -> dict[str, str]:
    drawn = {"report.html", "loss_curve.png", "timing_curve.png"}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in drawn]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_finished_run_stays_as_it_is(finished_run: Path, tiny_data: Path) -> None:
    before = _hashes(finished_run)
    _complete(tiny_mapping(tiny_data, finished_run), resume=True)
    assert _hashes(finished_run) == before
