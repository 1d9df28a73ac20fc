"""Windows on their way to the device while it computes: the same, in the same order, and errors in their places."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from row_files import csv_source, data, read, rows, tiny_ports, write_csv

from finesight.core.batch import Batch
from finesight.core.errors import DataError
from finesight.data.dataset import ExampleSet
from finesight.data.loading import feed, loader
from finesight.data.loading.feed import Arrive, carried, fed
from finesight.data.loading.order import Order
from finesight.data.loading.workers import At, Job, Workers
from finesight.data.policy import Policy
from finesight.runtime.signals import StopAsked


class Cart:
    """Brings answers as ToCuda does, but to nowhere; counts what is on its way."""

    def __init__(self) -> None:
        self.sent = self.arrived = 0
        self.threads: set[int] = set()

    def send(self, answer: Any) -> Arrive:
        self.sent += 1
        self.threads.add(threading.get_ident())

        def arrive() -> Any:
            self.arrived += 1
            return answer

        return arrive


@dataclass
class Numbers:
    """A job of counting, which fails at one number."""

    failing: int = -1
    seconds: float = 0.0
    reads = False

    def tasks(self, at: At) -> Iterator[int]:
        yield from range(10**6)

    def do(self, task: int, at: At) -> Any:
        at(task, task)
        time.sleep(self.seconds)
        if task == self.failing:
            raise DataError("bad", f"row {task}", "mend it")
        return np.array([task])

    def place(self, item: int) -> str:
        return f"number {item}"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [0, 2])
def test_all_answers_come_in_order(count: int) -> None:
    cart = Cart()
    found = [int(answer[0]) for answer in carried(Numbers(), 20, Workers(count), cart)]
    assert found == list(range(20))
    assert cart.sent == cart.arrived == 20
    assert len(cart.threads) == 2  # the first here, so that nothing is forked beside a thread


def test_of_nothing_comes_nothing() -> None:
    assert not list(carried(Numbers(), 0, Workers(), Cart()))


def test_no_more_than_two_wait() -> None:
    cart = Cart()
    source = carried(Numbers(), 100, Workers(), cart)
    for number in range(5):
        assert int(next(source)[0]) == number
        time.sleep(0.02)
        assert cart.sent - cart.arrived <= 2
    assert cart.sent - cart.arrived == 2
    source.close()
    assert cart.arrived == 5


@pytest.mark.parametrize("count", [0, 1])
def test_an_error_comes_where_the_run_would_have_met_it(count: int) -> None:
    source = carried(Numbers(failing=3), 10, Workers(count), Cart())
    assert [int(next(source)[0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="bad"):
        next(source)
    first = carried(Numbers(failing=0), 10, Workers(count), Cart())
    with pytest.raises(DataError, match="bad"):
        next(first)


def test_one_who_waits_can_be_stopped() -> None:
    asked = threading.Event()

    def go_on() -> None:
        if asked.is_set():
            raise StopAsked

    source = carried(Numbers(seconds=0.05), 10**5, Workers(go_on=go_on), Cart())
    next(source)
    asked.set()
    with pytest.raises(StopAsked):
        list(source)


def test_it_is_for_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    carts: list[torch.device] = []

    def cart(device: torch.device) -> Cart:
        carts.append(device)
        return Cart()

    monkeypatch.setattr(feed, "ToCuda", cart)
    for device in (None, torch.device("cpu"), torch.device("cuda", 0)):
        assert len(list(fed(Numbers(), 3, Workers(device=device)))) == 3
    assert carts == [torch.device("cuda", 0)]


class Pinned(Cart):
    """Copies, as a GPU's copies do; what it copied from is spoilt."""

    def send(self, answer: Any) -> Arrive:
        moved = tuple(_copy(batch) for batch in answer.batches)
        for batch in answer.batches:
            for tensor in batch.inputs.values():
                tensor.zero_()
        return super().send(replace(answer, batches=moved))


def _copy(batch: Batch) -> Batch:
    return replace(batch, inputs={name: tensor.clone() for name, tensor in batch.inputs.items()})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_sees_the_same_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    file = write_csv(tmp_path / "table.csv", rows(9))
    samples, _ = read(csv_source(file))
    examples = ExampleSet(samples, tiny_ports(), Policy(data(csv_source(file))), None, 7)
    order = Order(examples.fingerprint, 7, 4, examples.lengths, 2)

    def seen() -> list[tuple[Any, ...]]:
        found = loader.windows(examples, order, 1, 6, 2, workers)
        return [
            (batch.ids, *((name, value.tolist()) for name, value in batch.inputs.items()))
            for window in found
            for batch in window
        ]

    plain = seen()
    cart = Pinned()

    def to_cart(job: Job, count: int, crew: Workers) -> Any:
        return carried(job, count, crew, cart)

    monkeypatch.setattr(loader, "fed", to_cart)
    assert seen() == plain
    assert cart.sent == 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_windows_are_there_already(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "table.csv", rows(9))
    samples, _ = read(csv_source(file))
    examples = ExampleSet(samples, tiny_ports(), Policy(data(csv_source(file))), None, 7)
    order = Order(examples.fingerprint, 7, 4, examples.lengths, 2)
    plain = list(loader.windows(examples, order, 0, 5, 2, 0))
    moved = list(loader.windows(examples, order, 0, 5, 2, Workers(device=torch.device("cuda", 0))))
    for there, here in zip(moved, plain, strict=True):
        for one, other in zip(there, here, strict=True):
            assert one.targets.is_cuda
            assert torch.equal(one.targets.cpu(), other.targets)
            for name, value in other.inputs.items():
                assert torch.equal(one.inputs[name].cpu(), value)
