"""The control plane: threads in place of processes, and a store in a file or in this process."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from finesight.core.errors import DataError, FinesightError
from finesight.runtime import control as plane
from finesight.runtime.control import Control, Lost
from finesight.runtime.distributed import World, joined
from finesight.runtime.signals import StopAsked


class Worlds:
    """As many worlds as threads, over one store."""

    def __init__(self, size: int, timeout: float = 30) -> None:
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.controls = [Control(self.store.clone(), rank, size, timeout) for rank in range(size)]
        self.worlds = [World(rank, size, control=control) for rank, control in enumerate(self.controls)]

    def all(self, work: Callable[[World], Any]) -> list[Any]:
        """What `work` gives in each world, or the error that it raises."""
        found: list[Any] = [None] * len(self.worlds)

        def run(world: World) -> None:
            try:
                found[world.rank] = work(world)
            except Exception as error:
                found[world.rank] = error

        threads = [threading.Thread(target=run, args=(world,)) for world in self.worlds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return found

    def leave(self) -> None:
        self.all(lambda world: world.control and world.control.leave(None))


@pytest.fixture(autouse=True)
def _no_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may end the process that the tests run in."""
    monkeypatch.setattr(plane.os, "_exit", lambda status: None)


def test_everyone_hears_everyone_and_the_store_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "_PART", 7)
    worlds = Worlds(3)
    for step in range(40):
        found = worlds.all(
            lambda world, step=step: world.together({"of": world.rank, "step": step, "ö": [1.5]})
        )
        assert found == [[{"of": rank, "step": step, "ö": [1.5]} for rank in range(3)]] * 3
    assert worlds.store.num_keys() < 100  # parts of the last two exchanges, and heartbeats
    assert worlds.all(lambda world: world.to_first(world.rank)) == [[0, 1, 2], [1], [2]]
    worlds.leave()


def test_an_error_or_a_wish_to_stop_is_everybodys() -> None:
    worlds = Worlds(2)

    def fails(world: World) -> Any:
        return world.together(
            error=DataError("row is bad", "a.csv, row 3", "mend it") if world.rank else None
        )

    heard, own = worlds.all(fails)
    assert type(heard) is type(own) is DataError
    assert own.faults[0].what == "row is bad"
    assert heard.faults[0].what == "process 1: row is bad" and heard.faults[0].where == "a.csv, row 3"
    stopped = worlds.all(lambda world: world.together(error=None if world.rank else StopAsked()))
    assert [type(error) for error in stopped] == [StopAsked, StopAsked]
    worlds.leave()


def test_the_first_goes_first_and_its_error_keeps_the_others_from_going() -> None:
    worlds, order = Worlds(3), []

    def work(world: World) -> None:
        with world.turn():
            time.sleep(0.05 if world.first else 0)
            order.append(world.rank)

    worlds.all(work)
    assert order[0] == 0 and sorted(order) == [0, 1, 2]

    def fails(world: World) -> None:
        with world.turn():
            order.append(world.rank)
            raise DataError("no", "there", "mend")

    order.clear()
    assert [type(error) for error in worlds.all(fails)] == [DataError] * 3
    assert order == [0]
    assert worlds.all(lambda world: world.once(lambda: world.rank + 7)) == [7, 7, 7]
    worlds.leave()


def test_who_prepares_for_long_is_waited_for_and_who_is_silent_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plane, "_GRACE", 2)
    worlds = Worlds(2, timeout=2)

    def slow(world: World) -> Any:
        time.sleep(3 * world.rank)
        return world.together(world.rank)

    assert worlds.all(slow) == [[0, 1], [0, 1]]  # longer than the time-out, with a beating heart

    began = time.monotonic()
    worlds.controls[1]._done.set()  # its heart stops
    error = worlds.all(lambda world: world.together() if world.first else None)[0]
    assert type(error) is Lost and "process 1 of 2 is lost: no sign of life" in str(error)
    assert time.monotonic() - began < 20
    with pytest.raises(Lost):
        worlds.controls[0].leave(None)


def test_who_ended_by_an_error_that_nobody_foresaw_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "_GRACE", 2)
    worlds = Worlds(2, timeout=5)

    def work(world: World) -> Any:
        assert world.control is not None
        if world.rank:
            world.control.leave(ZeroDivisionError("by zero"))
            return None
        return world.together()

    error = worlds.all(work)[0]
    assert isinstance(error, FinesightError) and error.exit_status == 1
    assert "process 1: ZeroDivisionError: by zero" in str(error)
    with pytest.raises(FinesightError, match="by zero"):
        worlds.controls[0].leave(None)


def test_one_process_asks_nobody() -> None:
    alone = World()
    assert alone.together(3) == [3] and alone.once(lambda: 4) == 4 and alone.to_first(5) == [5]
    with pytest.raises(StopAsked):
        alone.together(error=StopAsked())
    with alone.turn(), alone.telling():
        pass


def test_what_was_started_fits_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined("fsdp", 1, "cpu") as world:
        assert world == World()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for strategy, device, told in (
        ("single", "cpu", "each of them would train this run alone"),
        ("auto", "mps", "an Apple GPU works for one process alone"),
        ("auto", "cuda", "2 processes were started for 0 GPUs"),
        ("auto", "cpu", "process 1 of 2 does not find the others"),
    ):
        if device != "cuda" or not torch.cuda.is_available():
            with pytest.raises(FinesightError, match=told), joined(strategy, 1, device):  # type: ignore[arg-type]
                pass
