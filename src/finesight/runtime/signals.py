"""Ctrl-C and SIGTERM ask a run to stop at its next safe place."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopAsked(Exception):
    """Raised inside an evaluation, or a wait for data, when the run was asked to stop."""


class StopFlag:
    """Set by a signal; a second signal changes nothing."""

    def __init__(self) -> None:
        self._set = False

    def set(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Ask to stop."""
        self._set = True

    def __call__(self) -> bool:
        """Whether somebody asked."""
        return self._set


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that SIGINT and SIGTERM set; the handlers that were there before come back at the end.

    In a thread other than the main one Python takes no handlers: the flag then stays as it is.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.set) for number in _SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
