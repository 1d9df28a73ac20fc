"""One piece of work at a time, beside the training."""

import threading
import time
from collections.abc import Callable


class Background:
    """A thread that does one piece of work at a time. What ends one is raised where somebody asks, once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._began = 0.0
        self.seconds = 0.0
        """Of all finished work."""
        self.longest = 0.0
        """Seconds of the longest so far; of one that is at work, those that have passed."""

    def begin(self, work: Callable[[], object]) -> None:
        """Start a piece of work; the one before must have been waited for."""
        assert self._thread is None

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._began = time.perf_counter()
        self._thread = threading.Thread(target=run, name="finesight-save")
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the last piece of work; nothing where it is done, or still at work."""
        if self._thread is None:
            return
        self.longest = max(self.longest, time.perf_counter() - self._began)
        if not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Return once the work is done; raise what ended it."""
        if self._thread is None:
            return
        self._thread.join()
        passed = time.perf_counter() - self._began
        self.seconds, self.longest, self._thread = self.seconds + passed, max(self.longest, passed), None
        error, self._error = self._error, None
        if error is not None:
            raise error
