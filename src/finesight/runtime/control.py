"""What the processes of a run tell each other beside the gradients: small facts, through a key-value store.

No collective is held open meanwhile: a process may prepare data for as long as it wants. Each shows by a heartbeat that
it lives; one that is dead, stopped or ended by an error is noticed by all others, which then end with a message.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from finesight.core.errors import (
    DataError,
    Fault,
    FinesightError,
    Interrupted,
    ModelError,
    RecipeError,
    RunError,
    TrainingError,
    WorkerError,
)


class Lost(Interrupted):
    """Another process is dead, or does not answer."""


_KINDS = (RecipeError, DataError, ModelError, RunError, TrainingError, WorkerError, Interrupted, Lost)
_BEAT = 1.0
"""Seconds between two heartbeats, at most."""
_SHORTEST, _LONGEST = 0.0002, 0.02
"""Seconds between two looks for a key: the longer it takes, the rarer."""
_PART = 4 * 2**20
"""Bytes of one value; the store takes 8 MiB."""
_HURRIED = 10.0
"""Seconds of silence that are too long where a process was asked to stop; `torchrun` kills it after 30."""
_GRACE = 20.0
"""Seconds in which a process that waits for a lost one is to end by itself."""


class Store(Protocol):
    """The part of a `torch.distributed.Store` that is used."""

    def set(self, key: str, value: str) -> None:
        """Write a key."""

    def get(self, key: str) -> bytes:
        """Read a key that is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of the keys are there."""

    def delete_key(self, key: str) -> bool:
        """Remove a key."""

    def clone(self) -> "Store":
        """The same store by another connection."""


def told(error: BaseException) -> dict[str, Any]:
    """An error as the others are told of it."""
    if not isinstance(error, FinesightError):
        fault = Fault(f"{type(error).__name__}: {error}", "its own traceback tells", "see its messages")
        return {"kind": "WorkerError", "faults": [vars(fault)]}
    return {"kind": type(error).__name__, "faults": [vars(fault) for fault in error.faults]}


def heard(rank: int, error: Mapping[str, Any]) -> FinesightError:
    """The error of another process, as this one raises it."""
    kind = next((kind for kind in _KINDS if kind.__name__ == error["kind"]), TrainingError)
    faults = [Fault(**fault) for fault in error["faults"]]
    return kind.of([Fault(f"process {rank}: {fault.what}", fault.where, fault.mend) for fault in faults])


def put(store: Store, key: str, data: bytes) -> int:
    """Write a short value as it is; a long one in parts (their number is given), before the head that counts them."""
    text = data.decode("ascii")  # JSON in its ASCII form
    parts = [text[at : at + _PART] for at in range(0, len(text), _PART)] if len(text) > _PART else []
    for at, part in enumerate(parts):
        store.set(f"{key}/{at}", part)
    store.set(key, f"#{len(parts)}" if parts else text)
    return len(parts)


def fetch(store: Store, key: str) -> str:
    """Read what `put` has written."""
    head = store.get(key).decode("ascii")
    if not head.startswith("#"):
        return head
    return "".join(store.get(f"{key}/{at}").decode("ascii") for at in range(int(head[1:])))


def remove(store: Store, key: str) -> None:
    """Remove what `put` has written."""
    head = store.get(key).decode("ascii")
    for at in range(int(head[1:]) if head.startswith("#") else 0):
        store.delete_key(f"{key}/{at}")
    store.delete_key(key)


class Control:
    """The control plane of process `rank` of `size`. All processes make the same exchanges in the same order."""

    def __init__(self, store: Store, rank: int, size: int, timeout: float) -> None:
        self._store, self.rank, self.size, self._timeout = store, rank, size, timeout
        self._number, self._parts = 0, [0, 0]
        self._lost: FinesightError | None = None
        self.hurried: Callable[[], bool] = lambda: False
        """Whether this process was asked to stop; its launcher, which may have lost another one, kills it soon."""
        self.ending = False
        """Whether all processes know that all of them end now."""
        self._parted = False
        self._leaving, self._done = False, threading.Event()
        self._heart = threading.Thread(
            target=self._beat, args=(store.clone(),), daemon=True, name="finesight-heart"
        )
        self._heart.start()

    def exchange(self, value: Any, reads: bool = True) -> list[Any]:
        """The values of all processes, in their order; values are what JSON knows.

        A process that does not need them (`reads` is off) waits for them all the same, and gets its own alone.
        Raises the error of a process that was lost meanwhile.
        """
        number, self._number = self._number, self._number + 1
        parts = put(self._store, f"{number}/{self.rank}", json.dumps(value).encode())
        self._parts = [self._parts[1], parts]
        keys = [f"{number}/{rank}" for rank in range(self.size)]
        self._wait(keys)
        found = [json.loads(fetch(self._store, key)) for key in keys] if reads else [value]
        if number:  # all wrote this one, so all have read the one before
            self._forget(number - 1)
        return found

    def _forget(self, number: int) -> None:
        key = f"{number}/{self.rank}"
        self._store.delete_key(key)
        for at in range(self._parts[0]):
            self._store.delete_key(f"{key}/{at}")

    def _wait(self, keys: list[str]) -> None:
        pause = _SHORTEST
        while self._lost is None:
            try:
                if self._store.check(keys):
                    return
            except RuntimeError as error:
                raise self._gone(0, f"its key-value store does not answer ({error})") from error
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST)
        raise self._lost

    @property
    def alone(self) -> bool:
        """Whether another process was lost, so that nothing more can be agreed."""
        return self._lost is not None

    def connection(self) -> Store:
        """Another connection to the store, for another thread."""
        return self._store.clone()

    def raise_lost(self) -> None:
        """Raise what another process was lost by, where one was."""
        if self._lost is not None:
            raise self._lost

    def part(self, error: FinesightError) -> None:
        """Tell the others that this process, and so all of them, ends by an error in the midst of what they do
        together; from then on it is alone. They hear of it by their heartbeats, since no exchange may ever come."""
        if self._lost is None:
            self._lost, self._parted = error, True
            self._store.set("ended", json.dumps({"rank": self.rank, **told(error)}))

    def explained(self, error: RuntimeError) -> FinesightError | None:
        """Why a collective failed, where that is another process's doing; None where it is not."""
        words = str(error).lower()
        if not any(word in words for word in ("gloo", "nccl", "connection", "peer", "socket", "timed out")):
            return None
        end = time.monotonic() + 3 * _BEAT  # whose fault it was may be known by then
        while self._lost is None and time.monotonic() < end and not self._done.wait(_LONGEST):
            pass
        if self._lost is not None:
            return self._lost
        return _lost(f"a process of the {self.size} ended, or does not answer: {str(error).splitlines()[0]}")

    def leave(self, error: BaseException | None) -> None:
        """Say goodbye. Process 0, whose store it may be, ends last; the others wait for its work to end.

        Raises what ended another process, where this one ended well.
        """
        self._leaving = True
        try:
            if error is not None and not self.ending and not self._store.check(["ended"]):
                self._store.set("ended", json.dumps({"rank": self.rank, **told(error)}))
            if self.rank == 0:
                self._store.set("left/0", "")
            else:
                self._await(["left/0"], error)
                self._store.set(f"left/{self.rank}", "")
            if self.rank == 0:
                self._await([f"left/{rank}" for rank in range(1, self.size)], error)
        except RuntimeError:
            pass  # the store ended with its process
        finally:
            self._done.set()
            self._heart.join(2 * _BEAT)
        if error is None and self._lost is not None:
            raise self._lost

    def _await(self, keys: list[str], error: BaseException | None) -> None:
        """Wait for the others' goodbye; not for long where this process has failed, or another was lost."""
        end = None
        while not self._store.check(keys):
            if end is None and (error is not None or self._lost is not None):
                # the others, who wait in a collective, hear of it by a heartbeat, and are woken by this one's end
                end = time.monotonic() + (2 * _BEAT if self._parted else _GRACE / 4)
            if end is not None and time.monotonic() > end:
                return
            time.sleep(_LONGEST)

    def _gone(self, rank: int, why: str) -> FinesightError:
        return _lost(f"process {rank} of {self.size} is lost: {why}")

    def _beat(self, store: Store) -> None:
        """Show that this process lives, and look at the others: process 0 at all, they at process 0."""
        pause = min(_BEAT, self._timeout / 5)
        others = range(1, self.size) if self.rank == 0 else range(1)
        seen = {rank: (b"", time.monotonic()) for rank in others}
        count = 0
        while not self._done.wait(pause):
            try:
                store.set(f"beat/{self.rank}", str(count := count + 1))
                if self._lost is None and store.check(["ended"]):
                    ended = json.loads(store.get("ended"))
                    if ended["rank"] != self.rank:
                        self._lose(heard(ended["rank"], ended))
                for rank in others:
                    key = f"beat/{rank}"
                    beat = store.get(key) if store.check([key]) else b""
                    if beat != seen[rank][0]:
                        seen[rank] = (beat, time.monotonic())
                    elif self._silent(store, rank, seen[rank][1]):
                        error = self._gone(rank, f"no sign of life for {self._timeout:g} s")
                        store.set("ended", json.dumps({"rank": rank, **told(error)}))
                        self._lose(error)
            except RuntimeError:
                return self._lose(self._gone(0, "its connection is closed"))

    def _silent(self, store: Store, rank: int, since: float) -> bool:
        limit = min(self._timeout, _HURRIED) if self.hurried() else self._timeout
        return time.monotonic() - since > limit and not store.check([f"left/{rank}"])

    def _lose(self, error: FinesightError) -> None:
        """Let the main thread raise the error; end the process where it is caught in a collective."""
        if self._lost is not None:
            return
        self._lost = error

        def give_up() -> None:
            if not self._done.wait(_GRACE) and not self._leaving:
                os.write(2, f"error: {error}\n".encode())
                os._exit(error.exit_status)

        threading.Thread(target=give_up, daemon=True).start()


def _lost(what: str) -> Lost:
    return Lost(
        what, "this run", "look at that process's messages; --resume goes on from the last checkpoint"
    )
