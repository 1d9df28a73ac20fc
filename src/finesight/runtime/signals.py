"""What asks a run to stop at its next safe place: Ctrl-C, SIGTERM, SIGUSR1 (as clusters send before they kill), and the
end of its time."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if name in signal.Signals.__members__
)
"""Signals that mean a run as a whole; its worker processes do not listen to them. Windows has no SIGUSR1."""

_LEAST = 10.0
"""Seconds before the end of its time at which a run is asked to stop at the latest."""


class StopAsked(Exception):
    """Raised inside an evaluation, or a wait for data, when the run was asked to stop."""


class StopFlag:
    """Set by a signal, or by the end of its time; a second signal changes nothing."""

    def __init__(self) -> None:
        self._set = False
        self._end, self._needed = float("inf"), 0.0

    def set(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Ask to stop."""
        self._set = True

    def until(self, end: float) -> None:
        """Ask to stop in time to be done at `end`, in seconds of `time.monotonic`."""
        self._end = end

    def need(self, seconds: float) -> None:
        """Say how long it takes from being asked to the end of the process."""
        self._needed = max(self._needed, seconds)

    def __call__(self) -> bool:
        """Whether somebody asked, or time is running out."""
        return self._set or time.monotonic() >= self._end - _LEAST - self._needed


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that SIGINT, SIGTERM and SIGUSR1 set; the handlers that were there before come back at the end.

    In a thread other than the main one Python takes no handlers: the flag then stays as it is.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.set) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
