"""Work in several processes: the same results in the same order, and an end to whatever goes wrong in one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finesight.core.errors import DataError, WorkerError
from finesight.data.passes.parallel import cores, over_rows


def squares(rows: Sequence[int]) -> list[int]:
    return [row * row for row in rows]


def who(rows: Sequence[int], seconds: float = 0.0) -> list[int]:
    for _ in rows:
        time.sleep(seconds)
    return [os.getpid()]


def at_row(rows: Sequence[int], row: int, what: str) -> list[int]:
    """Rows, one of which brings the process into trouble."""
    for number in rows:
        if number != row:
            continue
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "sleep":
            time.sleep(1000)
        if what == "leave":
            os._exit(3)
        if what == "interrupt":
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
        if what == "data":
            raise DataError("the row is bad", f"file, row {row + 1}", "mend it", "column")
        if what == "bug":
            raise ZeroDivisionError("seven")
        if what == "unsendable":
            raise _Unsendable(lambda: None)
    return list(rows)


class _Unsendable(Exception):
    pass


def surroundings(rows: Sequence[int]) -> dict[str, Any]:
    print("a library prints")
    heavy = [name for name in ("torch", "transformers", "numpy", "PIL") if name in sys.modules]
    names = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    return {"heavy": heavy, **{name: os.environ.get(name) for name in names}}


@pytest.fixture(autouse=True)
def nobody_is_left() -> Any:
    before = {child.pid for child in psutil.Process().children()}  # of other tests, or of Python itself
    yield
    left = [child for child in psutil.Process().children() if child.pid not in before]
    assert not left, "a worker, or its zombie, is left"


in_workers = partial(over_rows, patience=0)


@pytest.mark.parametrize("jobs", [0, 1, 3])
@pytest.mark.parametrize(("first", "count", "chunk"), [(0, 1000, 64), (0, 7, 100), (990, 1000, 3), (5, 5, 2)])
def test_results_come_in_order(jobs: int, first: int, count: int, chunk: int) -> None:
    ticks: list[int] = []
    found = list(in_workers(squares, count, jobs, ticks.append, first=first, chunk=chunk))
    assert [number for part in found for number in part] == [row * row for row in range(first, count)]
    assert ticks == sorted(ticks)
    assert not ticks or first <= ticks[0] <= ticks[-1] == count
    assert len(found) == -(-(count - first) // chunk)


@settings(max_examples=8)
@given(st.integers(1, 300), st.integers(1, 50), st.integers(1, 3))
def test_any_number_in_any_chunks(count: int, chunk: int, jobs: int) -> None:
    parts = list(in_workers(partial(at_row, row=-1, what=""), count, jobs, chunk=chunk))
    assert [row for part in parts for row in part] == list(range(count))
    assert all(len(part) == chunk for part in parts[:-1])


def test_little_work_stays_here_and_much_goes_to_workers() -> None:
    assert {number for part in over_rows(who, 2000, 2) for number in part} == {os.getpid()}
    slow = partial(who, seconds=0.02)
    pids = [number for part in over_rows(slow, 160, 2, chunk=10, patience=1.0) for number in part]
    assert pids[0] == os.getpid()
    assert len(set(pids)) == 3
    assert {number for part in over_rows(slow, 40, 0, chunk=10, patience=0) for number in part} == {
        os.getpid()
    }


@pytest.mark.parametrize("jobs", [0, 2])
def test_an_error_comes_home(jobs: int) -> None:
    with pytest.raises(DataError, match="file, row 301") as caught:
        list(in_workers(partial(at_row, row=300, what="data"), 1000, jobs))
    assert caught.value.column == "column"
    assert caught.value.faults[0].mend == "mend it"
    with pytest.raises(ZeroDivisionError, match="seven") as bug:
        list(in_workers(partial(at_row, row=300, what="bug"), 1000, jobs))
    if jobs:
        (note,) = bug.value.__notes__
        assert "row 301 (it had rows 257 to 512)" in note
        assert "in at_row" in note
        with pytest.raises(RuntimeError, match="_Unsendable"):
            list(in_workers(partial(at_row, row=300, what="unsendable"), 1000, jobs))


def test_results_before_an_error_are_given_first() -> None:
    results = in_workers(partial(at_row, row=4, what="data"), 10, 1, chunk=1)
    assert [next(results) for _ in range(4)] == [[0], [1], [2], [3]]
    with pytest.raises(DataError, match="row 5"):
        next(results)


@pytest.mark.parametrize(("what", "told"), [("kill", "SIGKILL"), ("leave", "status 3")])
def test_a_worker_that_dies_is_named_with_its_row(what: str, told: str) -> None:
    began = time.monotonic()
    place: Callable[[int], str] = lambda row: f"table.csv, row {row + 1}"  # noqa: E731
    with pytest.raises(WorkerError, match=told) as caught:
        list(in_workers(partial(at_row, row=300, what=what), 100_000, 2, place=place))
    fault = caught.value.faults[0]
    assert fault.where == "table.csv, row 301 (it had rows 257 to 512)"
    assert fault.mend
    assert time.monotonic() - began < 60


def test_a_worker_that_hangs_is_named_with_its_row() -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"silent for [12] seconds") as caught:
        list(in_workers(partial(at_row, row=300, what="sleep"), 1000, 2, timeout=1.0))
    assert caught.value.faults[0].where.startswith("row 301 ")
    assert time.monotonic() - began < 60


def test_slow_rows_are_no_silence() -> None:
    slow = partial(who, seconds=0.2)
    assert len(list(in_workers(slow, 16, 2, chunk=8, timeout=1.0))) == 2


def test_a_tick_that_raises_ends_the_work() -> None:
    class Stop(Exception):
        pass

    def stop(rows: int) -> None:
        raise Stop

    for jobs in (0, 2):
        began = time.monotonic()
        with pytest.raises(Stop):
            list(in_workers(partial(who, seconds=5.0), 1000, jobs, stop))
        assert time.monotonic() - began < 5


def test_who_asked_to_stop_is_heard_before_a_dead_worker() -> None:
    class Stop(Exception):
        pass

    before, began = set(psutil.Process().children()), []

    def stop(rows: int) -> None:
        alive = set(psutil.Process().children()) - before
        began.extend(alive)
        if began and not alive:
            raise Stop

    with pytest.raises(Stop):
        list(in_workers(partial(at_row, row=3, what="kill"), 1000, 1, stop))


def test_signals_of_the_whole_group_leave_workers_alone() -> None:
    parts = list(in_workers(partial(at_row, row=10, what="interrupt"), 600, 2))
    assert sum(map(len, parts)) == 600


def test_an_early_end_leaves_nobody() -> None:
    results = in_workers(squares, 100_000, 2)
    assert next(results)[1] == 1
    results.close()  # what is left is told by the fixture


def times(rows: Sequence[int], folder: str) -> float:
    for row in rows:
        time.sleep(1.0 if row == 0 else 0)
    return time.monotonic()


def test_no_chunk_is_far_ahead_of_its_turn(tmp_path: Path) -> None:
    """Else all results might wait in memory for the first."""
    ended = list(in_workers(partial(times, folder=str(tmp_path)), 40, 2, chunk=1))
    assert all(later > ended[0] for later in ended[9:])
    assert all(two > one - 1 for one, two in pairwise(ended[9:]))


def test_workers_have_one_thread_and_few_imports(capfd: pytest.CaptureFixture[str]) -> None:
    (found,) = in_workers(surroundings, 1, 1)
    assert found == {
        "heavy": ["numpy"] if found["heavy"] else [],  # the task's own module imports it through hypothesis
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    said = capfd.readouterr()
    assert not said.out  # standard output belongs to `--json`
    assert "a library prints" in said.err


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import math, functools\n"
        "from finesight.data.passes.parallel import over_rows\n"
        "print('begun')\n"
        "print(sum(over_rows(sum, 1000, 2, patience=0)))\n"
    )
    (tmp_path / "pickle.py").write_text("raise SystemExit('a file of the working directory was imported')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    done = subprocess.run(
        [sys.executable, "-P", str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.stdout.split() == ["begun", str(sum(range(1000)))], done.stderr


def test_cores_are_those_that_may_be_used() -> None:
    assert cores() == 0 or 2 <= cores() <= 8
