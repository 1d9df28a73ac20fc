"""Where a training loop in a worker process stops between chunks of steps."""

import resource
import sys
import time

from torch import Tensor

from benchmarks.harness import Requests


class Finished(Exception):
    """No more steps are wanted."""


class Ticks:
    """Told of every finished step; answers each chunk with its CPU seconds and the losses of its steps.

    Waiting for the next chunk costs no CPU time, and what it costs lies outside the chunks.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._losses: list[float | Tensor] = []
        self._resume()

    def step(self, loss: float | Tensor) -> None:
        """One step is finished; raises Finished where it was the last."""
        self._losses.append(loss)
        if len(self._losses) < self._wanted:
            return
        seconds = time.process_time() - self._began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self._requests.answer(cpu=seconds, losses=[float(loss) for loss in self._losses], peak_bytes=peak)
        self._losses = []
        self._resume()

    def _resume(self) -> None:
        wanted = self._requests.next()
        if wanted is None:
            raise Finished
        self._wanted, self._began = wanted, time.process_time()
