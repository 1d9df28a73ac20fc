"""What threads beside the main one tell each other across processes: by a connection of their own to the store.

The main threads' exchanges go on meanwhile; nothing here waits for them, and they wait for nothing here.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from finesight.runtime.control import Control, fetch, put, remove

_PAUSE = 0.02
"""Seconds between two looks."""


class Aside:
    """Facts (JSON) that processes leave for process 0."""

    def __init__(self, control: Control) -> None:
        self._control, self._store = control, control.connection()

    def give(self, name: str, value: Any) -> None:
        """Leave a fact under a name, which each process uses once."""
        put(self._store, f"aside/{name}/{self._control.rank}", json.dumps(value).encode())

    def take(self, name: str, ranks: Sequence[int]) -> list[Any]:
        """The facts of some processes under a name, once all of them are there; raises the error of a lost process."""
        found = []
        for rank in ranks:
            key = f"aside/{name}/{rank}"
            while not self._store.check([key]):
                self._control.raise_lost()
                time.sleep(_PAUSE)
            found.append(json.loads(fetch(self._store, key)))
            remove(self._store, key)
        return found
