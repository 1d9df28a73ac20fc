"""Processes that prepare what comes next: nothing that one of them does, or has done to it, hangs the run."""

import errno
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from finesight.core.errors import DataError, WorkerError
from finesight.data.loading.pipes import Inbox, widen, write
from finesight.data.loading.workers import BETWEEN, At, Job, Workers, answers, worker_error


class Toy:
    """Squares of numbers; a number may be made to do something else by `faults`."""

    def __init__(self, count: int = 10**9, reads: bool = False, size: int = 1, **faults: int) -> None:
        self.count, self.reads, self.size, self.faults = count, reads, size, faults

    def tasks(self, at: At) -> Iterator[int]:
        for number in range(self.count):
            at(number, number)
            self.happen("read_", number)
            yield number

    def happen(self, prefix: str, number: int) -> None:
        for fault, when in self.faults.items():
            if fault.startswith(prefix) and number == when:
                getattr(self, fault.removeprefix(prefix))(number)

    def do(self, task: int, at: At) -> Any:
        at(task, task)
        self.happen("do_", task)
        at(task, BETWEEN)
        return task, os.getpid(), np.full(self.size, task**2)

    def place(self, item: int) -> str:
        return f"number {item}"

    def sleep(self, number: int) -> None:
        while True:
            time.sleep(60)

    def refuse(self, number: int) -> None:
        raise DataError(f"{number} is bad", f"rows.csv, row {number}", "mend it", "image")

    def fail(self, number: int) -> None:
        raise ZeroDivisionError(f"at {number}")

    def die(self, number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self, number: int) -> None:
        os._exit(7)

    def strange(self, number: int) -> None:
        error = DataError("not to be sent", "", "")
        error.thread = lambda: None  # type: ignore[attr-defined]
        raise error

    def slow(self, number: int) -> None:
        time.sleep(0.6)

    def draw(self, number: int) -> None:
        raise DataError(str((random.random(), np.random.rand(), torch.rand(1).item())), "", "")


_OTHERS: set[int] = set()
"""Processes of other tests, or of Python itself."""


def children() -> list[psutil.Process]:
    """Processes that this test has started."""
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in _OTHERS]


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """No child is there after a test that was not there before: none that runs, and no zombie."""
    _OTHERS.update(child.pid for child in children())
    yield
    assert children() == []


def squares(job: Job, count: int, workers: Workers) -> list[int]:
    return [int(answer[2][0]) for answer in answers(job, count, workers)]


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_answers_come_in_order(count: int, reads: bool) -> None:
    assert squares(Toy(reads=reads), 20, Workers(count)) == [number**2 for number in range(20)]
    assert squares(Toy(reads=reads), 0, Workers(count)) == []


@pytest.mark.parametrize("reads", [False, True])
def test_the_work_is_shared_and_done_elsewhere(reads: bool) -> None:
    who = {answer[1] for answer in answers(Toy(reads=reads), 8, Workers(2))}
    assert len(who) == 2 and os.getpid() not in who
    assert {answer[1] for answer in answers(Toy(reads=reads), 2, Workers())} == {os.getpid()}


def test_no_more_workers_than_tasks() -> None:
    found = answers(Toy(), 1, Workers(5))
    next(found)
    assert len(children()) == 1
    found.close()


class Counting(Toy):
    """Counts in shared memory what is read and done."""

    def __init__(self, reads: bool) -> None:
        super().__init__(reads=reads, size=1_000_000)
        self.counts = multiprocessing.RawArray("q", 1_000)

    def do(self, task: int, at: At) -> Any:
        self.counts[task] = 1
        return super().do(task, at)


@pytest.mark.parametrize("reads", [False, True])
def test_large_answers_are_held_back(reads: bool) -> None:
    """Beside what was asked for, a worker hands over one answer and has made one more, no matter how large they are."""
    job = Counting(reads)
    found = answers(job, 100, Workers(2))
    assert [int(next(found)[2].sum()) for _ in range(5)] == [number**2 * 1_000_000 for number in range(5)]
    time.sleep(0.5)
    assert sum(job.counts) <= 5 + 2 * 2
    found.close()


@pytest.mark.parametrize(("fault", "error", "text"), [
    ("do_refuse", DataError, "3 is bad"),
    ("do_fail", WorkerError, r"ZeroDivisionError: at 3 \(test_workers.py, line \d+\)(.|\n)*number 3"),
    ("do_die", WorkerError, r"a process that prepares samples was ended by signal 9 \(SIGKILL\)(.|\n)*number 3"),
    ("do_leave", WorkerError, r"ended with status 7(.|\n)*step 4, number 3"),
    ("do_sleep", WorkerError, r"was silent for \d+ seconds(.|\n)*step 4, number 3(.|\n)*data.timeout"),
    ("do_strange", WorkerError, "ended with status 1"),
    ("read_refuse", DataError, "3 is bad"),
    ("read_fail", WorkerError, r"ZeroDivisionError: at 3(.|\n)*number 3"),
    ("read_die", WorkerError, r"the process that reads the stream was ended by signal 9(.|\n)*number 3"),
    ("read_sleep", WorkerError, r"the process that reads the stream was silent(.|\n)*number 3"),
])  # fmt: skip
@pytest.mark.parametrize("count", [1, 2])
def test_what_goes_wrong_is_told_in_time(count: int, fault: str, error: type[Exception], text: str) -> None:
    job = Toy(reads=fault.startswith("read"), **{fault: 3})
    found = answers(job, 100, Workers(count, timeout=1.0))
    began = time.monotonic()
    taken = []
    with pytest.raises(error, match=text) as caught:
        taken.extend(found)
    assert [answer[0] for answer in taken] == list(range(len(taken))) and len(taken) <= 3
    assert time.monotonic() - began < 6
    if error is DataError:
        assert caught.value.column == "image" and caught.value.faults[0].where == "rows.csv, row 3"
    assert children() == []


def test_an_error_here_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        squares(Toy(do_fail=3), 10, Workers())


def test_slow_work_is_not_silence() -> None:
    job = Toy(do_slow=1, read_slow=2, reads=True)
    assert len(squares(job, 5, Workers(1, timeout=1.0))) == 5


class Many:
    """One task of many small pieces of work."""

    reads = False

    def tasks(self, at: At) -> Iterator[int]:
        return iter(range(3))

    def do(self, task: int, at: At) -> Any:
        for piece in range(12):
            at(task, piece)
            time.sleep(0.1)
        return task

    def place(self, item: int) -> str:
        return str(item)


def test_a_worker_that_gets_on_may_take_longer_than_the_limit() -> None:
    assert list(answers(Many(), 2, Workers(1, timeout=0.5))) == [0, 1]


def _many(told: Connection) -> None:
    os.setpgid(0, 0)
    told.send("begun")
    told.send(list(answers(Many(), 3, Workers(1, timeout=1.0))))


def test_a_run_that_was_suspended_goes_on() -> None:
    """What stops all of its processes, and lets them go on later, is no silence of a worker."""
    taken, told = multiprocessing.Pipe(duplex=False)
    run = multiprocessing.get_context("fork").Process(target=_many, args=(told,))
    run.start()
    assert taken.recv() == "begun"
    time.sleep(1.0)
    os.killpg(run.pid or 0, signal.SIGSTOP)
    time.sleep(2.0)
    os.killpg(run.pid or 0, signal.SIGCONT)
    assert taken.poll(20) and taken.recv() == [0, 1, 2]
    run.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("reads", [False, True])
def test_a_worker_that_is_killed_or_frozen_from_outside(number: signal.Signals, reads: bool) -> None:
    found = answers(Toy(reads=reads, size=500_000), 10**6, Workers(2, timeout=1.0))
    for _ in range(4):
        next(found)
    for child in children():
        child.send_signal(number)
    with pytest.raises(WorkerError, match=r"SIGKILL|silent"):
        for _ in found:
            pass


class Asked(Exception):
    pass


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("fault", ["do_sleep", "read_sleep"])
def test_one_can_stop_while_one_waits(fault: str, reads: bool) -> None:
    looked = []

    def go_on() -> None:
        looked.append(time.monotonic())
        if len(looked) == 5:
            raise Asked

    job = Toy(reads=reads, **{fault: 0 if reads or fault == "do_sleep" else -1})
    if fault == "read_sleep" and not reads:
        job.faults = {"do_sleep": 0}
    with pytest.raises(Asked):
        next(answers(job, 10, Workers(2, go_on=go_on)))
    assert looked[-1] - looked[0] < 3
    assert children() == []


def test_here_one_can_stop_before_each_piece() -> None:
    looked = []
    list(answers(Many.__new__(Many), 1, Workers(0, go_on=lambda: looked.append(1))))
    assert len(looked) == 12


def test_a_worker_that_ended_because_the_run_is_to_stop() -> None:
    """A killed worker is no fault where the run was asked to stop: the stop comes first."""

    def go_on() -> None:
        raise Asked

    with pytest.raises(Asked):
        list(answers(Toy(do_die=0), 10, Workers(1, go_on=go_on)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_group_are_for_the_run(number: signal.Signals) -> None:
    found = answers(Toy(reads=True), 10**6, Workers(2))
    for _ in range(4):
        next(found)
    for child in children():
        child.send_signal(number)
    time.sleep(0.2)
    assert [next(found)[0] for _ in range(50)] == list(range(4, 54))
    found.close()


def test_the_handlers_and_the_random_state_of_the_run_are_left_alone() -> None:
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    torch.manual_seed(5)
    random.seed(5)
    state, words = torch.get_rng_state(), random.getstate()
    squares(Toy(), 5, Workers(2))
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == words


def test_what_a_worker_draws_by_mistake_depends_on_no_state_of_the_run() -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        with pytest.raises(DataError) as caught:
            squares(Toy(do_draw=0), 1, Workers(1))
        drawn.append(caught.value.faults[0].what)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("left", ["dropped", "raised"])
def test_nobody_is_left_when_no_more_is_asked_for(left: str) -> None:
    found = answers(Toy(reads=True, size=100_000), 10**6, Workers(2))
    next(found)
    assert len(children()) == 3
    if left == "dropped":
        del found
    else:
        with pytest.raises(KeyError):
            found.throw(KeyError())
    assert children() == []


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _run(then: str, told: Connection) -> None:
    found = answers(Toy(reads=True, do_sleep=6), 10**6, Workers(2))
    for _ in range(3):
        next(found)
    told.send([child.pid for child in children()])
    match then:
        case "exits at once":
            os._exit(3)
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raises":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            raise KeyError
        case "ends":
            sys.exit()


@pytest.mark.parametrize("then", ["exits at once", "is killed", "raises", "ends"])
def test_workers_end_with_their_parent(then: str) -> None:
    """Whatever they are doing, and however it ends; at Python's own end nothing waits for them."""
    taken, told = multiprocessing.Pipe(duplex=False)
    parent = multiprocessing.get_context("fork").Process(target=_run, args=(then, told))
    parent.start()
    pids = taken.recv()
    assert len(pids) == 3
    parent.join(10)
    assert parent.exitcode is not None, "it waits for somebody"
    assert gone(pids), "somebody outlives the run"


PROGRAM = """
import sys
sys.path[:] = {path!r}
import multiprocessing, os, psutil
from test_workers import Toy, children
from finesight.data.loading.workers import Workers, answers
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(["test_workers"])
    found = answers(Toy(reads=True, size=1000), 10**6, Workers(2))
    assert [int(next(found)[2][0]) for _ in range(9)] == [number**2 for number in range(9)]
    print(*[child.pid for child in children()], flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_workers_that_are_not_forked(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(path=sys.path))
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=100, check=False
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) >= 3, done.stderr
    assert gone(pids), "somebody outlives the run"


def test_an_error_says_which_line_raised_it() -> None:
    try:
        pickle.loads(b"nonsense")
    except pickle.UnpicklingError as error:
        told = worker_error(error, "sample `a` of rows.csv, row 1")
    assert "UnpicklingError" in str(told) and "test_workers.py, line" in str(told)
    assert told.exit_status == 1 and "where: sample `a` of rows.csv, row 1" in str(told)
    assert "Traceback" in told.__notes__[0] and "Traceback" not in str(told)


# messages through a pipe


def through(message: object) -> Any:
    taken, given = multiprocessing.Pipe(duplex=False)
    widen(given.fileno())
    write(given.fileno(), message)
    return Inbox(taken.fileno()).take()


def test_messages_arrive_as_they_were() -> None:
    content = {
        "numbers": np.arange(7, dtype=np.int16)[::2],
        "none": np.empty((0, 3), dtype=np.float32),
        "words": ["a", b"bytes", None],
        "tensors": [
            torch.arange(6).reshape(2, 3).T,
            torch.empty(0, 4, dtype=torch.int64),
            torch.tensor(3.5, dtype=torch.bfloat16),
            torch.tensor([True, False]),
            torch.ones(3, requires_grad=True),
        ],
    }
    arrived = through(content)
    assert arrived["numbers"].tolist() == [0, 2, 4, 6] and arrived["numbers"].dtype == np.int16
    assert arrived["none"].shape == (0, 3) and arrived["words"] == content["words"]
    for before, after in zip(content["tensors"], arrived["tensors"], strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape and torch.equal(before, after)
        assert after.data_ptr() % before.element_size() == 0
        after.add_(1) if after.dtype != torch.bool else None  # it can be written to


def test_a_message_may_come_in_pieces() -> None:
    taken, given = multiprocessing.Pipe(duplex=False)
    whole, second = multiprocessing.Pipe(duplex=False)
    widen(second.fileno())
    write(second.fileno(), {"a": np.arange(1000)})
    write(second.fileno(), "next")
    content = os.read(whole.fileno(), 1 << 20)
    os.set_blocking(taken.fileno(), False)
    inbox, arrived = Inbox(taken.fileno()), []
    for at in range(0, len(content), 100):
        os.write(given.fileno(), content[at : at + 100])
        message = inbox.take()
        arrived += [] if message is None else [message]
        if arrived and at < 8000:
            assert len(arrived) <= 1
    message = inbox.take()
    arrived += [] if message is None else [message]
    assert arrived[0]["a"].tolist() == list(range(1000)) and arrived[1:] == ["next"]
    assert inbox.got == len(content)
    given.close()
    with pytest.raises(EOFError):
        inbox.take()


def test_nobody_reads() -> None:
    taken, given = multiprocessing.Pipe(duplex=False)
    taken.close()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what counts
        write(given.fileno(), "hello")
    assert caught.value.errno == errno.EPIPE
