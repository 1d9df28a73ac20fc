"""A run that ends by itself before its time is over, and goes on."""

import os
import signal
import time
from pathlib import Path

import pytest
from tiny_runs import Watcher, essence, tiny_recipe

from finesight.config.duration import seconds_of
from finesight.config.train import Train
from finesight.core.errors import Interrupted
from finesight.runtime import signals
from finesight.runtime.signals import StopFlag
from finesight.workflows import train as workflow

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        ("90m", 5400),
        ("2h30m", 9000),
        ("45s", 45),
        ("1:30:00", 5400),
        ("2-00:00:10", 172810),
        ("1d", 86400),
    ],
)
def test_times_as_people_write_them(text: str | int, seconds: int) -> None:
    assert seconds_of(text) == seconds
    assert Train(max_steps=1, time_limit=text).time_limit == text


@pytest.mark.parametrize("text", ["", "soon", "1:30", "90 m", "-5m", "0m", "1:2:3", "m"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        Train(max_steps=1, time_limit=text)


def test_the_flag_leaves_the_time_that_stopping_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flag = StopFlag()
    flag.until(200.0)
    now[0] = 189.0
    assert not flag()
    flag.need(3.0)
    flag.need(1.0)
    assert not StopFlag()() and flag()
    now[0] = 186.5
    assert not flag()


def test_an_endless_run_ends_in_time_and_goes_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T6, with a margin of one second in place of ten."""
    monkeypatch.setattr(signals, "_LEAST", 1.0)
    needed: list[float] = []
    monkeypatch.setattr(StopFlag, "need", lambda self, seconds: needed.append(seconds))
    began = time.monotonic()
    workflow.train(tiny_recipe(tiny_data, tmp_path / "short", train={"max_steps": 1}))
    limit = 4 + round(2 * (time.monotonic() - began))  # by what a start takes here and now
    own = {"max_steps": 100_000, "time_limit": limit}
    recipe = tiny_recipe(tiny_data, tmp_path / "run", train=own, evaluation={"every": 10_000})
    needed.clear()
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        workflow.train(recipe)
    assert time.monotonic() - began < limit
    assert caught.value.exit_status == 75
    made = int((tmp_path / "run" / "checkpoints" / "last").read_text().strip().removeprefix("step-"))
    assert made > 0
    timing = (tmp_path / "run" / "timing_logs.csv").read_text().splitlines()
    total = timing[0].split(",").index("total")
    longest = max(float(row.split(",")[total]) for row in timing[1:])
    assert max(needed) >= 2 * longest - 1e-5  # what a step and a save take is told to the flag
    longer = {**own, "time_limit": f"{4 * limit}s", "keep_last": 1}  # which may change
    again = tiny_recipe(tiny_data, tmp_path / "run", train=longer, evaluation={"every": 10_000})
    with pytest.raises(Interrupted):
        workflow.train(again, resume=True, observer=Watcher("step", made + 2, _usr1))
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")}
    assert kept == {f"step-{made}", f"step-{made + 2}"}  # what it was continued from stays, too


def _usr1() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_cluster_says_by_sigusr1_that_it_will_kill(tiny_data: Path, tmp_path: Path) -> None:
    unbroken, stopped = (tiny_recipe(tiny_data, tmp_path / name) for name in ("one", "two"))
    workflow.train(unbroken)
    with pytest.raises(Interrupted):
        workflow.train(stopped, observer=Watcher("step", 3, _usr1))
    workflow.train(stopped, resume=True)
    assert essence(tmp_path / "two") == essence(tmp_path / "one")
