"""Processes that prepare what a run needs next, watched so that none of them can hang it.

Each worker takes every n-th task and has a pipe of its own to this process, which takes the answers in their order. A
job that reads (a stream) has one more process, which reads the tasks and hands them out; the pipes hold each back until
the next has room. All are ended, and waited for, when no more answers are asked for, however that comes about.

Why not torch's `DataLoader`: its workers share one queue and its lock, which one that is killed can take with it; it
tells so by an error out of a signal handler, wherever the main thread is, in the middle of a checkpoint too; while it
waits nobody can look at a stop signal; and what it says names no sample.
"""

import ctypes
import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Protocol

import numpy as np
import torch

from finesight.core.errors import FinesightError, WorkerError
from finesight.data.loading.pipes import Inbox, widen, write
from finesight.runtime.signals import SIGNALS

At = Callable[[int, int], object]
"""Told where the work stands: the step, and the number of the sample or row that comes next (or one of the below)."""

BETWEEN = -1
"""No sample of its own: a batch is put together."""
_IDLE = -2
"""Nothing to do: a worker waits for its next task."""

_GLANCE = 0.1
"""Seconds between two looks at the processes, and two chances to stop."""
_LONGEST_GLANCE = 1.0
"""Seconds that count between two looks: where more have passed, the run itself was suspended, and its workers too."""
_START = 60.0
"""Seconds that a process may take to begin, where it has to import everything first, and to end."""

_MARKS = 3
"""Numbers that a process keeps in shared memory: how often it got on, its step, its sample or row."""


@dataclass(frozen=True)
class Workers:
    """Who does a job: `count` processes (0: this one), each of which may be silent for `timeout` seconds.

    `go_on` is called while one waits, and between two samples where there are no processes; it may raise to stop.
    Where it is computed on a GPU, `device` is where batches go as soon as they are ready (`loading.feed`).
    """

    count: int = 0
    timeout: float = 300.0
    go_on: Callable[[], object] = bool
    device: torch.device | None = None


class Job(Protocol):
    """What is to be done; can be sent to another process."""

    reads: bool
    """Whether going through the tasks is itself work, for a process of its own."""

    def tasks(self, at: At) -> Iterator[Any]:
        """All tasks in order, the same ones whenever it is called."""

    def do(self, task: Any, at: At) -> Any:
        """The answer to a task, which is not None."""

    def place(self, item: int) -> str:
        """What messages call a sample or row."""


@dataclass(frozen=True)
class _Raised:
    """An error that is to be raised at home."""

    error: FinesightError


@dataclass(frozen=True)
class _End:
    """No more tasks."""


def answers(job: Job, count: int, workers: Workers) -> Generator[Any, None, None]:
    """The answers to the first `count` tasks of a job, in order, whoever does it.

    Raises what the job raises: a FinesightError as it is, any other error of a process as a WorkerError. Raises
    WorkerError within `workers.timeout` seconds where a process has been ended or is silent. Close the iterator to
    stop early.
    """
    if not workers.count or not count:

        def at(step: int, item: int) -> None:
            workers.go_on()

        yield from (job.do(task, at) for task in itertools.islice(job.tasks(at), count))
        return
    team = _Team(job, replace(workers, count=min(workers.count, count)))
    try:
        for number in range(count):
            yield team.answer(number)
    finally:
        team.end()


class _Process:
    """A process, its marks, and the pipe that its answers come by (the reading one has none)."""

    def __init__(self, process: BaseProcess, marks: np.ndarray, connection: Connection | None = None) -> None:
        self.process, self.marks, self.connection = process, marks, connection
        if connection is not None:
            os.set_blocking(connection.fileno(), False)
            self.inbox = Inbox(connection.fileno())

    @property
    def signs(self) -> tuple[int, int]:
        """Something that changes as long as the process gets on."""
        return int(self.marks[0]), self.inbox.got if self.connection is not None else 0

    @property
    def idle(self) -> bool:
        """Whether it waits for its next task."""
        return int(self.marks[2]) == _IDLE


class _Team:
    """The processes of one job."""

    def __init__(self, job: Job, workers: Workers) -> None:
        self._job, self._workers = job, workers
        self._all: list[_Process] = []
        # with a priority, so that it comes before multiprocessing waits for its children when Python ends
        self.end = Finalize(self, _end, args=(self._all,), exitpriority=100)
        context = multiprocessing.get_context()
        count = workers.count + job.reads
        self._memory: Any = context.RawArray(ctypes.c_int64, _MARKS * count)
        marks = [_marks(self._memory, slot) for slot in range(count)]
        try:
            feeds = [self._start_worker(context, number, marks[number]) for number in range(workers.count)]
            if job.reads:
                given = [feed for feed in feeds if feed is not None]
                reader = context.Process(
                    target=_read, args=(job, given, self._memory, count - 1), daemon=True
                )
                self._all.append(_Process(_started(reader), marks[-1]))
                for feed in given:
                    feed.close()
        except BaseException:
            self.end()
            raise

    def _start_worker(self, context: Any, number: int, marks: np.ndarray) -> Connection | None:
        """Start a worker; the end of the pipe that feeds it, where it is fed."""
        taken, given = context.Pipe(duplex=False)
        fed, feed = context.Pipe(duplex=False) if self._job.reads else (None, None)
        arguments = (self._job, number, self._workers.count, fed, given, self._memory)
        process = context.Process(target=_work, args=arguments, daemon=True)
        for connection in (taken, feed):
            if connection is not None:
                widen(connection.fileno())
        self._all.append(_Process(_started(process), marks, taken))
        for connection in (given, fed):  # so that the end of the process is the end of the pipe
            if connection is not None:
                connection.close()
        return feed

    def answer(self, number: int) -> Any:
        """The answer to task `number`, waited for."""
        worker = self._all[number % self._workers.count]
        assert worker.connection is not None
        quiet, looked, seen = 0.0, time.monotonic(), self._signs(worker)
        while True:
            try:
                answer = worker.inbox.take()
            except EOFError:
                worker.process.join(_START)
                raise self._died(worker) from None
            if isinstance(answer, _Raised):
                raise answer.error
            if answer is not None:
                return answer
            self._workers.go_on()
            living = [one.process.sentinel for one in self._all if one.process.exitcode is None]
            wait([worker.connection, *living], _GLANCE)
            for one in self._all:
                if one.process.exitcode:  # one that ended with 0 has done all that it had to
                    raise self._died(one)
            now, signs = time.monotonic(), self._signs(worker)
            quiet = quiet + min(now - looked, _LONGEST_GLANCE) if signs == seen else 0.0
            looked, seen = now, signs
            self._look_for_silence(worker, quiet)

    def _holds_up(self, worker: _Process) -> _Process:
        """Who is waited for: a worker, or the reading process that it waits for itself."""
        return self._all[-1] if self._job.reads and worker.idle else worker

    def _signs(self, worker: _Process) -> tuple[tuple[int, int], ...]:
        return worker.signs, self._holds_up(worker).signs

    def _look_for_silence(self, worker: _Process, seconds: float) -> None:
        silent = self._holds_up(worker)
        timeout = self._workers.timeout
        if seconds > (timeout if silent.marks[0] else max(timeout, _START)):
            raise WorkerError(
                f"{self._called(silent)} was silent for {seconds:.0f} seconds",
                _where(self._job, silent.marks),
                "look at what is named here: a file or a server may not answer; if it is only slow, raise "
                "`data.timeout`",
            )

    def _died(self, one: _Process) -> FinesightError:
        self._workers.go_on()  # who ended it may have asked this process to stop, too
        status = one.process.exitcode or 0
        how = (
            f"was ended by signal {-status} ({_signal(-status)})"
            if status < 0
            else f"ended with status {status}"
        )
        why = "memory may have run out: free some, or lower `data.workers` or `train.batch_size`"
        return WorkerError(
            f"{self._called(one)} {how}",
            _where(self._job, one.marks),
            f"{why if status < 0 else 'what it said stands above'}; if it ends at this place again, look at what is "
            "named here",
        )

    def _called(self, one: _Process) -> str:
        reading = self._job.reads and one is self._all[-1]
        return "the process that reads the stream" if reading else "a process that prepares samples"


def _where(job: Job, marks: np.ndarray) -> str:
    """Where a process is, for a message."""
    count, step, item = marks.tolist()
    if not count or item == _IDLE:
        return "at its start" if count <= 1 else "between two steps"
    return (
        f"step {step + 1}, {job.place(item)}" if item >= 0 else f"step {step + 1}, putting its batch together"
    )


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return "unknown"


def _started(process: BaseProcess) -> BaseProcess:
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; the child uses none of them, and is watched
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def _end(processes: Sequence[_Process]) -> None:
    """End processes and wait for them; they hold nothing that could be lost."""
    for one in processes:
        one.process.kill()
    for one in processes:
        one.process.join(_START)
        if one.connection is not None:
            one.connection.close()
        if one.process.exitcode is not None:
            one.process.close()


def worker_error(error: Exception, where: str) -> WorkerError:
    """An error that nobody foresaw, as one that says at which samples, and in which line of code."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    told = WorkerError(
        f"samples could not be prepared: {type(error).__name__}: {error}{line}",
        where,
        "look at what is named here; if nothing is wrong with it, this is a fault of finesight: please report it",
    )
    told.add_note("".join(traceback.format_exception(error)))
    return told


# From here on, what runs in the other processes.


def _work(job: Job, number: int, count: int, fed: Connection | None, given: Connection, memory: Any) -> None:
    """A worker: does every `count`-th task, while a thread hands over the answer before."""
    _settle()
    marks = _marks(memory, number)
    at = _marking(marks)
    at(0, _IDLE)
    tasks = _fed(fed) if fed is not None else itertools.islice(job.tasks(_unheard), number, None, count)
    handed: Future[None] | None = None
    with ThreadPoolExecutor(1) as thread:
        for answer in _done(job, tasks, at, marks):
            if handed is not None:
                handed.result()  # no more than one answer waits beside the one that is made
            handed = thread.submit(_hand, given, answer)
        if handed is not None:
            handed.result()


def _done(job: Job, tasks: Iterator[Any], at: At, marks: np.ndarray) -> Iterator[Any]:
    try:
        for task in tasks:
            yield task if isinstance(task, _Raised) else job.do(task, at)
            at(0, _IDLE)
    except Exception as error:
        yield _Raised(error if isinstance(error, FinesightError) else worker_error(error, _where(job, marks)))


def _read(job: Job, feeds: Sequence[Connection], memory: Any, slot: int) -> None:
    """The reading process: tasks to the workers, in turn."""
    _settle()
    marks = _marks(memory, slot)
    turns = itertools.cycle(feeds)
    try:
        for task in job.tasks(_marking(marks)):
            _hand(next(turns), task)
    except Exception as error:
        ours = error if isinstance(error, FinesightError) else worker_error(error, _where(job, marks))
        _hand(next(turns), _Raised(ours))
    for feed in feeds:
        _hand(feed, _End())


def _fed(connection: Connection) -> Iterator[Any]:
    inbox = Inbox(connection.fileno())
    while not isinstance(task := inbox.take(), _End):
        yield task


def _hand(connection: Connection, message: object) -> None:
    try:
        write(connection.fileno(), message)
    except OSError:  # nobody is left to read it
        os._exit(1)


def _marks(memory: Any, slot: int) -> np.ndarray:
    return np.frombuffer(memory, dtype=np.int64)[_MARKS * slot : _MARKS * (slot + 1)]


def _marking(marks: np.ndarray) -> At:
    def at(step: int, item: int) -> None:
        marks[1], marks[2] = step, item
        marks[0] += 1

    return at


def _unheard(step: int, item: int) -> None:
    pass


def _settle() -> None:
    """Begin in a new process: deaf to signals that are for the run, no random state of its own, gone when it is."""
    for number in SIGNALS:  # they go to whole groups of processes; this one is ended from home
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    # with copies of the run's generators, a draw by mistake would depend on when the process was started
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()


def _leave_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, whatever the main thread is doing."""
    home = multiprocessing.parent_process()
    assert home is not None
    # a process that was forked in between may hold the sentinel open, so the parent's number is looked at, too
    while not wait([home.sentinel], 1.0) and os.getppid() == parent:
        pass
    os._exit(1)
