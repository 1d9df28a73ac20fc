"""What a GPU needs next, on its way to it while it computes.

Where the device is a GPU, a thread takes the windows as they are prepared, puts their tensors into pinned memory and
starts their copies on a stream of their own; pictures travel as bytes and become floats there. The step then finds its
window on the device. What is told of bad rows, and every error, still comes when the run gets to that window.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from finesight.core.batch import Batch
from finesight.data.loading.workers import Job, Workers, answers

_GLANCE = 0.1
"""Seconds between two chances to stop while one waits."""


Arrive = Callable[[], Any]
"""Called where an answer is wanted: gives it, once it is safe to compute with."""


class Carrier(Protocol):
    """Who brings answers to a device. `send` is called in another thread, what it gives in the one that computes."""

    def send(self, answer: Any) -> Arrive:
        """Start to bring an answer, which has `batches`, there."""


class ToCuda:
    """Copies from pinned memory, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, answer: Any) -> Arrive:
        """Start the copies; what is given waits for them on the computing stream, and not on the CPU."""
        with torch.cuda.stream(self._stream):
            moved = tuple(pin(batch).to(self._device) for batch in answer.batches)
            done = self._stream.record_event()

        def arrive() -> Any:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(done)
            for batch in moved:
                for tensor in (*batch.inputs.values(), batch.targets):
                    tensor.record_stream(computing)  # its memory belongs to the other stream
            return replace(answer, batches=moved)

        return arrive


def pin(batch: Batch) -> Batch:
    """The same batch in pinned memory, from which a GPU reads by itself."""
    inputs = {name: tensor.pin_memory() for name, tensor in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=batch.targets.pin_memory())


def fed(job: Job, count: int, workers: Workers) -> Generator[Any, None, None]:
    """The answers to the first `count` tasks of a job, in order; on `workers.device` already where that is a GPU."""
    if workers.device is None or workers.device.type != "cuda":
        return answers(job, count, workers)
    return carried(job, count, workers, ToCuda(workers.device))


@dataclass(frozen=True)
class _Failed:
    """What ended the thread: it is raised where the run would have met it."""

    error: BaseException


class _Closed(Exception):
    """Nobody wants more answers."""


def carried(job: Job, count: int, workers: Workers, carrier: Carrier) -> Generator[Any, None, None]:
    """The answers to a job, brought by `carrier` one or two ahead of who asks for them.

    Raises what `answers` raises, in the same places, and what `workers.go_on` raises while one waits.
    """
    ahead = _Ahead(job, count, workers, carrier)
    try:
        yield from ahead.answers()
    finally:
        ahead.close()


class _Ahead:
    """A thread that takes answers and sends them on their way."""

    def __init__(self, job: Job, count: int, workers: Workers, carrier: Carrier) -> None:
        self._workers, self._carrier = workers, carrier
        self._closed = threading.Event()
        self._source = answers(job, count, replace(workers, go_on=self._go_on))
        self._waiting: queue.Queue[Arrive | _Failed | None] = queue.Queue(1)
        self._thread: threading.Thread | None = None

    def answers(self) -> Iterator[Any]:
        """All of them in order, each brought by the carrier."""
        # the first one here, so that worker processes are forked while there is no other thread
        for first in self._source:
            arrive = self._carrier.send(first)
            break
        else:
            return
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        yield arrive()
        while (item := self._next()) is not None:
            yield item()

    def close(self) -> None:
        """End the thread and wait for it, and whoever prepares the answers."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._source.close()

    def _next(self) -> Arrive | None:
        """What the thread hands over; None where all are done."""
        while True:
            try:
                item = self._waiting.get(timeout=_GLANCE)
            except queue.Empty:
                self._workers.go_on()
                continue
            if isinstance(item, _Failed):
                raise item.error
            return item

    def _go_on(self) -> None:
        if self._closed.is_set():
            raise _Closed
        self._workers.go_on()

    def _run(self) -> None:
        try:
            for answer in self._source:
                self._put(self._carrier.send(answer))
            self._put(None)
        except BaseException as error:
            with suppress(_Closed):
                self._put(_Failed(error))

    def _put(self, item: Arrive | _Failed | None) -> None:
        while True:
            if self._closed.is_set():
                raise _Closed
            with suppress(queue.Full):
                return self._waiting.put(item, timeout=_GLANCE)
