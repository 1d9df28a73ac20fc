"""The processes that train one model: who this is, and how all of them act as one.

Two planes: `control` for small facts and decisions, through a key-value store; collectives (NCCL or gloo) for gradients
and slices of weights alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from finesight.core.errors import FinesightError, RecipeError, RunError
from finesight.runtime.control import Control, heard, told
from finesight.runtime.ranks import Place, place_of_process
from finesight.runtime.signals import StopAsked


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`, which work as `strategy` says; one alone where `control` is None."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    control: Control | None = None

    @property
    def place(self) -> Place | None:
        """Where this process is; None where it is alone."""
        return None if self.control is None else Place(self.rank, self.size, self.local_rank, self.local_size)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def together(self, facts: Any = None, error: Exception | None = None) -> list[Any]:
        """What each process says (JSON), in their order, once all have said it.

        With an `error`, all raise it: this process its own, the others one that names this process. Where one is asked
        to stop (its error is StopAsked), all raise StopAsked.
        """
        if self.control is None:
            if error is not None:
                raise error
            return [facts]
        stop = isinstance(error, StopAsked)
        failed = told(error) if error is not None and not stop else None
        heads = self.control.exchange({"facts": facts, "stop": stop, "error": failed})
        self.control.ending |= any(head["error"] or head["stop"] for head in heads)
        for rank, head in enumerate(heads):
            if head["error"] is not None:
                raise error if error is not None and not stop else heard(rank, head["error"])
        if any(head["stop"] for head in heads):
            raise StopAsked
        return [head["facts"] for head in heads]

    def to_first(self, facts: Any) -> list[Any]:
        """What each process says, for process 0; the others get their own alone. For what is long."""
        return [facts] if self.control is None else self.control.exchange(facts, reads=self.first)

    def once(self, work: Callable[[], Any]) -> Any:
        """What `work` gives in process 0 (JSON), or its error, in all of them."""
        if self.control is None:
            return work()
        result, error = None, None
        if self.first:
            try:
                result = work()
            except (FinesightError, StopAsked) as caught:
                error = caught
        return self.together(result, error)[0]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Process 0 goes first; the others then do the same, and find in its caches what it has made."""
        if self.control is None:
            yield
            return
        if not self.first:
            self.together()
        error: Exception | None = None
        try:
            yield
        except (FinesightError, StopAsked) as caught:
            error = caught
        if self.first:
            self.together(error=error)
        self.together(error=error)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Around collectives: one that failed because another process ended says so."""
        try:
            yield
        except RuntimeError as error:
            why = None if self.control is None else self.control.explained(error)
            if why is None:
                raise
            raise why from error


ALONE = World()


@contextmanager
def joined(
    strategy: Literal["auto", "single", "ddp", "fsdp"], timeout: float, device: str
) -> Iterator[World]:
    """This process's world, open until the end of the run; `device` is `cpu`, `cuda`, `mps` or `auto`.

    A process without a sign of life for `timeout` seconds is lost.

    Raises RecipeError where the recipe's strategy does not fit the processes that were started.
    """
    place = place_of_process()
    if place.size == 1:
        yield ALONE
        return
    if strategy == "single":
        raise RecipeError(
            f"{place.size} processes were started, and each of them would train this run alone",
            "parallel.strategy",
            "set it to auto, ddp or fsdp, or start one process",
        )
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if device == "mps":
        raise RecipeError(
            "an Apple GPU works for one process alone", "run.device", "start one process, or use the CPU"
        )
    if cuda and place.local_size > torch.cuda.device_count():
        raise RecipeError(
            f"{place.local_size} processes were started for {torch.cuda.device_count()} GPUs",
            "run.device",
            "start as many processes as there are GPUs, or set `run.device: cpu`",
        )
    world = _connected(place, "fsdp" if strategy == "fsdp" else "ddp", timeout, cuda)
    assert world.control is not None
    try:
        yield world
    except BaseException as error:
        world.control.leave(error)
        raise
    world.control.leave(None)
    dist.destroy_process_group()


def _connected(place: Place, strategy: Literal["ddp", "fsdp"], timeout: float, cuda: bool) -> World:
    patience = timedelta(seconds=timeout)
    if cuda:
        torch.cuda.set_device(place.local_rank)
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=patience)))
    except (ValueError, RuntimeError) as error:  # a name that is not set, or a place that does not answer
        raise RunError(
            f"process {place.rank} of {place.size} does not find the others: {str(error).splitlines()[0]}",
            "MASTER_ADDR and MASTER_PORT",
            "start all processes by `torchrun`; for one alone take RANK and WORLD_SIZE out of the environment",
        ) from error
    device = torch.device("cuda", place.local_rank) if cuda else None
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore("data", store),
        rank=rank,
        world_size=size,
        timeout=patience,
        device_id=device,
    )

    world = World(rank, size, place.local_rank, place.local_size, strategy)
    facts: Any = PrefixStore("control", store.clone())  # its stubs lack what it has
    control = Control(facts, rank, size, timeout)
    return replace(world, control=control)
