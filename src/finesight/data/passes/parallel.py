"""Work on many rows in several processes: results in order, nobody left behind.

A worker is a fresh Python process that imports what its task needs and no more. It is not forked: a copy of a process
in which torch's or the tokenizer's threads hold locks can wait for them for ever, and inherits the handlers that ask
a run to stop. Nor is it one of `multiprocessing`, whose fresh processes run the caller's script once more, so that
one without `if __name__ == "__main__"` would begin anew in each of them.
"""

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar, cast

from finesight.core.errors import FinesightError, WorkerError
from finesight.runtime.environment import cores as usable_cores
from finesight.runtime.signals import SIGNALS

R = TypeVar("R")

Task = Callable[[range], R]
"""Work on some consecutive rows, numbered from 0; a function of a module, or what can be pickled and called. A task
that goes through its rows by a `for` loop is seen to get on row by row; another one chunk by chunk."""

CHUNK = 256
"""Rows that are handed out at once: some milliseconds of work, and a small part of any large number."""

_FIRST_LOOK = 0.5
"""Seconds of work in this process that tell how long the rest will take."""
_AHEAD = 4
"""Chunks for each worker that may be finished before their turn: what bounds the memory of results that wait."""
_GLANCE = 0.1
"""Seconds between two looks at workers, and two chances to stop."""
_START = 120.0
"""Seconds that a worker may take to begin: its imports, on a busy machine."""
_MOST = 8
"""Workers that are started unless more are asked for: each holds its own imports in memory."""

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
_ENVIRONMENT = {**_ONE_THREAD, "TOKENIZERS_PARALLELISM": "false"}

_BOOT = (
    "import sys; sys.path[:] = sys.argv[4].split(chr(10)); "
    "from finesight.data.passes.parallel import _serve; _serve(*map(int, sys.argv[1:4]))"
)


def cores() -> int:
    """Workers that this process may keep busy: the cores that it is allowed, no more than eight; 0 for one core."""
    allowed = usable_cores()
    return min(allowed, _MOST) if allowed > 1 else 0


def over_rows(
    task: Task[R],
    count: int,
    jobs: int,
    tick: Callable[[int], object] | None = None,
    *,
    first: int = 0,
    chunk: int = CHUNK,
    patience: float = 4.0,
    timeout: float = 300.0,
    place: Callable[[int], str] | None = None,
) -> Generator[R, None, None]:
    """`task` over rows `first` (included) to `count` (excluded), a chunk at a time: its results, in order.

    The work begins in this process, and goes to `jobs` worker processes once it is clear that more than `patience`
    seconds of it are left; it stays here where `jobs` is 0. `tick` is called, here, with the number of rows that
    are finished, and may raise to stop: the workers are then ended. An error of the task is raised here, too. Raises
    WorkerError, with the `place` of the row, where a worker is ended from outside or is silent for `timeout` seconds
    about one row. Close the iterator to stop early.
    """
    tick = tick or _unwatched
    if jobs and sys.platform != "win32" and sys.executable:  # there, workers cannot inherit a pipe
        spent, row, size = 0.0, first, 1
        while patience and row < count:
            stop, begun = min(row + size, count), time.monotonic()
            result = _here(task, row, stop, tick)
            spent += time.monotonic() - begun
            row, size = stop, min(2 * size, chunk)  # few rows at first: each may take long
            yield result
            if spent >= _FIRST_LOOK and spent / (row - first) * (count - row) > patience:
                break
        if row < count:
            with _Crew(task, min(jobs, -(-(count - row) // chunk)), timeout, place or _row) as crew:
                yield from crew.work(row, count, chunk, tick)
        return
    for row in range(first, count, chunk):
        yield _here(task, row, min(row + chunk, count), tick)


def _unwatched(rows: int) -> None:
    pass


def _row(row: int) -> str:
    return f"row {row + 1}"


def _here(task: Task[R], start: int, stop: int, tick: Callable[[int], object]) -> R:
    result = task(cast(range, _Rows(start, stop, tick)))
    tick(stop)
    return result


class _Rows(Sequence[int]):
    """What a task knows of a range, and that each row is told before it is gone through."""

    def __init__(self, start: int, stop: int, tell: Callable[[int], object]) -> None:
        self.start, self.stop, self._rows, self._tell = start, stop, range(start, stop), tell

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[int]:
        for row in self._rows:
            self._tell(row)
            yield row


class _Worker:
    """One process: the chunk that it has, and when it was last seen to get on."""

    def __init__(self, payload: bytes, marks: int, slot: int) -> None:
        self.connection, theirs = Pipe()
        path = "\n".join(sys.path)
        # -P: without it, a file of the working directory could stand in for a module of Python
        command = [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), str(marks), str(slot), path]
        try:
            with _signals_blocked():
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a library prints must not mix with `--json`
                    env={**os.environ, **_ENVIRONMENT},
                    pass_fds=(theirs.fileno(), marks),
                )
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()  # so that the end of the process is the end of the pipe
        self.slot, self.rows, self.seen, self.moved = slot, range(0), -1, time.monotonic()
        with suppress(OSError):  # a process that has died already is noticed when it is asked for its result
            self.connection.send_bytes(payload)

    def hand(self, rows: range) -> None:
        self.rows, self.seen, self.moved = rows, -1, time.monotonic()
        with suppress(OSError):
            self.connection.send((rows.start, rows.stop))

    def end(self) -> int:
        """End the process if it is still there; its exit status."""
        self.process.kill()  # it holds nothing that could be lost
        self.connection.close()
        return self.process.wait()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started here never hears of Ctrl-C and its like, which go to a whole group: we end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Crew:
    """Worker processes that have one task, and a table in shared memory of the row that each is at."""

    def __init__(self, task: Task[Any], jobs: int, timeout: float, place: Callable[[int], str]) -> None:
        self._timeout, self._place = timeout, place
        self._workers: list[_Worker] = []
        payload = pickle.dumps(task)
        with tempfile.TemporaryFile() as file:
            file.truncate(8 * jobs)
            self._memory = mmap.mmap(file.fileno(), 8 * jobs)
            self._marks = memoryview(self._memory).cast("q")
            try:
                for slot in range(jobs):
                    self._marks[slot] = -1
                    self._workers.append(_Worker(payload, file.fileno(), slot))
            except BaseException:
                self.__exit__()
                raise

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()  # all at once, then wait for each
        for worker in self._workers:
            worker.end()
        self._marks.release()
        self._memory.close()

    def work(self, first: int, count: int, chunk: int, tick: Callable[[int], object]) -> Iterator[Any]:
        """Results of the chunks in order; no chunk is handed out that is far ahead of the one whose turn it is."""
        turn = handed = first
        early: dict[int, Any] = {}
        while turn < count:
            horizon = min(count, turn + _AHEAD * chunk * len(self._workers))
            for worker in self._workers:
                if not worker.rows and handed < horizon:
                    worker.hand(range(handed, min(handed + chunk, count)))
                    handed = worker.rows.stop
            busy = {worker.connection: worker for worker in self._workers if worker.rows}
            for connection in wait(list(busy), _GLANCE):
                worker = busy[connection]  # type: ignore[index]
                start = worker.rows.start
                early[start] = self._result(worker, partial(tick, turn))
                worker.rows = range(0)
            waiting = sum(min(chunk, count - start) for start in early)
            tick(turn + waiting + sum(self._gone_through(worker) for worker in self._workers))
            self._look_for_silence()
            while turn in early:
                result, turn = early.pop(turn), min(turn + chunk, count)
                yield result

    def _gone_through(self, worker: _Worker) -> int:
        at = self._marks[worker.slot]
        return at - worker.rows.start if at in worker.rows else 0

    def _result(self, worker: _Worker, may_stop: Callable[[], object]) -> Any:
        try:
            done, result, told = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            worker.process.wait()
            may_stop()  # who ended the worker may have asked this process to stop, too
            raise self._died(worker) from None
        if done:
            return result
        if not isinstance(result, FinesightError):
            result.add_note(f"in a worker process, {self._of(worker)}:\n{told}")
        raise result

    def _died(self, worker: _Worker) -> WorkerError:
        status = worker.process.returncode
        if status >= 0:
            how, mend = f"with status {status}", "what it said stands above"
        else:
            how = f"by signal {-status} ({signal.Signals(-status).name})"
            mend = (
                "memory may have run out: free some, and begin again; if it ends at this row again, look at the "
                "row, or leave it out"
            )
        return WorkerError(f"a process that reads the rows was ended {how}", self._of(worker), mend)

    def _look_for_silence(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            at = self._marks[worker.slot]
            if not worker.rows or at != worker.seen or worker.connection.poll():
                worker.seen, worker.moved = at, now
            elif now - worker.moved > (self._timeout if at in worker.rows else max(self._timeout, _START)):
                what = f"a process that reads the rows was silent for {now - worker.moved:.0f} seconds"
                mend = "look at this row, or leave it out; for slow storage, raise `data.timeout`"
                raise WorkerError(what, self._of(worker), mend)

    def _of(self, worker: _Worker) -> str:
        at, rows = self._marks[worker.slot], worker.rows
        row = at if at in rows else rows.start
        return f"{self._place(row)} (it had rows {rows.start + 1:,} to {rows.stop:,})"


def _serve(descriptor: int, marks: int, slot: int) -> None:
    """The worker's side: chunks in, results out, until nobody is there to ask."""
    connection = Connection(descriptor)
    at = memoryview(mmap.mmap(marks, 0)).cast("q")

    def tell(row: int) -> None:
        at[slot] = row

    with suppress(EOFError, OSError):
        payload: bytes | None = connection.recv_bytes()
        task: Any = None
        while True:
            start, stop = connection.recv()
            try:
                if payload is not None:
                    task, payload = pickle.loads(payload), None
                answer = pickle.dumps((True, task(cast(range, _Rows(start, stop, tell))), ""))
            except Exception as error:
                answer = _told(error)
            connection.send_bytes(answer)


def _told(error: Exception) -> bytes:
    """An error as it is sent home: itself where that can be, else its words."""
    words = traceback.format_exc()
    try:
        answer = pickle.dumps((False, error, words))
        pickle.loads(answer)
    except Exception:
        answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"), words))
    return answer
