"""Saving a run: values as they are at the call, written beside the training, in one process or in many."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from finesight.core.errors import FinesightError
from finesight.runtime.aside import Aside
from finesight.runtime.control import heard, told
from finesight.runtime.distributed import World
from finesight.runtime.memory import free_bytes
from finesight.runtime.notices import Notices
from finesight.training.background import Background
from finesight.training.checkpoint import Checkpoint, Checkpoints
from finesight.training.copies import wait_for_copies
from finesight.training.slices import Slices, plan_slices
from finesight.workflows.pace import Pace

_log = logging.getLogger("finesight")

_SHARE = 0.25
"""Of the free memory, which a copy may take where nobody says otherwise."""

T = TypeVar("T")


class Tensors(Protocol):
    """Gives all that is saved of model and optimizer; as a `copy`, or as it is."""

    def __call__(self, copy: bool) -> Mapping[str, Mapping[str, Tensor]]:
        """Named groups of named tensors."""


class Saving:
    """The writer of a run's checkpoints, one in each process; all of them make the same calls.

    One checkpoint is written at a time. Where there is room for a copy (`asynchronous`: `auto`, or said by the
    person) it is written by a thread, while the training goes on: `last` and `best` move once it is on the disk.
    `size` is that of a process's copy in bytes.
    """

    def __init__(
        self,
        world: World,
        checkpoints: Checkpoints,
        tensors: Tensors,
        size: int,
        asynchronous: bool | Literal["auto"],
        notices: Notices,
        pace: Pace,
    ) -> None:
        self._world, self._checkpoints, self._tensors, self._size = world, checkpoints, tensors, size
        self._asynchronous, self._notices, self._pace = asynchronous, notices, pace
        self._background = Background()
        sliced = world.control is not None and world.strategy == "fsdp"
        self._aside = Aside(world.control) if sliced and world.control is not None else None
        self._count, self._said = 0, False
        self.blocked = 0.0
        """Seconds that the training has waited for saves."""

    def save(self, step: int, facts: Callable[[], Mapping[str, Any]], best: bool) -> None:
        """Save the run as it is now; `facts` are what is not a tensor. What ended the save before is raised here."""
        began = time.perf_counter()
        self._count += 1
        try:
            if self._alone:
                self._last(step, facts, best)
                return
            beside = self._ready()
            saved = partial(Checkpoint, step, state=facts())
            if self._aside is not None:
                self._in_slices(saved, best, beside, self._aside)
            else:
                self._world.once(lambda: self._whole(saved, best, beside))
        finally:
            self.blocked += time.perf_counter() - began
            self._pace.on_save(time.perf_counter() - began)

    def checked(self, windows: Iterable[T]) -> Iterator[T]:
        """The same windows; what ended a save is raised in place of the next one."""
        for window in windows:
            self._background.check()
            self._pace.on_save(self._background.longest)
            yield window

    def wait(self) -> None:
        """Return once all that was saved is on the disk; all processes raise what ended the last save."""
        began = time.perf_counter()
        failed: FinesightError | None = None
        try:
            self._background.wait()
        except FinesightError as error:
            failed = error
        if failed is not None and self._alone:
            raise failed
        if not self._alone:
            self._world.together(error=failed)
        self.blocked += time.perf_counter() - began

    def close(self) -> None:
        """Return once nothing is written any more. Called where the run ends, by whatever it ends."""
        try:
            self._background.wait()
        except Exception as error:  # another error is on its way, and is to be told
            _log.error("the last checkpoint was not saved: %s", error)
        if self._world.first and self._count:
            written = self._background.seconds
            _log.info(
                "%d checkpoints: %.3g s of writing beside the training, which waited %.3g s for its saves",
                *(self._count, written, self.blocked),
            )

    @property
    def _alone(self) -> bool:
        """Whether another process was lost, so that nothing more can be agreed."""
        return self._world.control is not None and self._world.control.alone

    def _last(self, step: int, facts: Callable[[], Mapping[str, Any]], best: bool) -> None:
        """Where another process was lost the first one still can save, if it holds everything."""
        self._background.wait()
        if self._aside is None and self._world.first:
            self._checkpoints.save(Checkpoint(step, self._tensors(copy=False), facts()), best)

    def _ready(self) -> bool:
        """Wait for the save before; whether this one is written beside the training."""
        failed: FinesightError | None = None
        try:
            self._background.wait()
        except FinesightError as error:
            failed = error
        writes = self._aside is not None or self._world.first
        return all(self._world.together(not writes or self._has_room(), failed))

    def _has_room(self) -> bool:
        if self._asynchronous != "auto":
            return self._asynchronous
        free = free_bytes()
        if self._size <= _SHARE * free:
            return True
        if not self._said:
            copy = f"a copy of a checkpoint ({self._size:,} bytes) is more than a quarter of the free memory"
            self._notices.add("saving", f"{copy} ({free:,} bytes): the training waits for such saves")
        self._said = True
        return False

    def _whole(self, saved: Callable[..., Checkpoint], best: bool, beside: bool) -> None:
        """By one process, which has everything."""
        checkpoint = saved(tensors=self._tensors(copy=beside))
        wait_for_copies()
        self._do(
            partial(self._checkpoints.close, self._checkpoints.open(checkpoint), checkpoint, best), beside
        )

    def _in_slices(self, saved: Callable[..., Checkpoint], best: bool, beside: bool, aside: Aside) -> None:
        """Each process writes its own slices, and tells the first one where they are; which closes the folder."""
        checkpoint = saved(tensors=self._tensors(copy=False))
        folder = self._world.once(lambda: _text(self._checkpoints.open(checkpoint)))
        if folder is None:  # it is saved already
            self._world.once(lambda: self._checkpoints.close(None, checkpoint, best))
            return
        with self._world.telling():
            slices = plan_slices(checkpoint.tensors, copy=beside)
        name = str(self._count)
        if self._world.first:
            write = partial(self._write_all, slices, name, aside)
            self._do(partial(self._checkpoints.close, Path(folder), checkpoint, best, write), beside)
        else:
            self._do(partial(_write_own, slices, Path(folder), name, aside), beside)
        if not beside:
            self.wait()

    def _do(self, work: Callable[[], object], beside: bool) -> None:
        """In the thread; where nothing is agreed afterwards and the training waits, here."""
        if beside or self._aside is not None:
            self._background.begin(work)
        else:
            work()

    def _write_all(self, slices: Slices, name: str, aside: Aside, folder: Path) -> None:
        """Process 0: its own slices, and the index once the others have written theirs."""
        found = [slices.write(folder)]
        for rank, one in enumerate(aside.take(name, range(1, self._world.size)), 1):
            if one["error"] is not None:
                raise heard(rank, one["error"])
            found.append(one["written"])
        slices.index(folder, found)


def _write_own(slices: Slices, folder: Path, name: str, aside: Aside) -> None:
    """Another process: what ends it is told to the first one, which raises it for all."""
    fact: dict[str, Any]
    try:
        fact = {"written": slices.write(folder), "error": None}
    except Exception as error:
        fact = {"written": [], "error": told(error)}
    aside.give(name, fact)


def _text(place: Path | None) -> str | None:
    return None if place is None else str(place)
