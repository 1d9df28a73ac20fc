"""What a loader meets: dead, frozen and sleeping workers, errors in the midst of it, rows that turn out to be bad."""

import copy
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from row_files import csv_source, data, png, read, rows, tiny_ports, write_csv

from finesight.core.errors import DataError, WorkerError
from finesight.data.dataset import ExampleSet
from finesight.data.loading import layout
from finesight.data.loading.loader import windows
from finesight.data.loading.order import Order, Share
from finesight.data.loading.workers import Workers
from finesight.data.policy import Policy, RowFault

COUNT = 13


def skipping(**values: Any) -> Policy:
    return Policy(data(csv_source(Path("x")), on_bad_row="skip", **values))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV whose pictures are files beside it."""
    found = rows(COUNT)
    for number, row in enumerate(found):
        row["image"] = f"{number}.png"
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return write_csv(tmp_path / "table.csv", found)


@pytest.fixture
def examples(table: Path) -> ExampleSet:
    samples, policy = read(csv_source(table))
    return ExampleSet(samples, tiny_ports(), policy)


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """No process is there after a test that was not there before: none that runs, and no zombie."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} - before == set()


def order_of(examples: ExampleSet, size: int = 5) -> Order:
    return Order(examples.fingerprint, 7, size, examples.lengths)


def names(found: Any) -> list[list[str]]:
    return [[name for batch in window for name in batch.ids] for window in found]


def at_sample(patch: pytest.MonkeyPatch, index: int, do: Callable[[], Any]) -> None:
    """Let reading sample `index` do something else, in any process."""
    plain = ExampleSet.__getitem__

    def get(self: ExampleSet, key: tuple[int, int]) -> Any:
        return do() if key[1] == index else plain(self, key)

    patch.setattr(ExampleSet, "__getitem__", get)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep() -> None:
    time.sleep(1000)


def _fail() -> None:
    raise MemoryError("no memory")


@pytest.mark.parametrize(
    ("do", "text"),
    [
        (_die, r"was ended by signal 9 \(SIGKILL\)"),
        (_sleep, "was silent for 1 seconds"),
        (_fail, r"MemoryError: no memory \(test_loader_faults.py, line"),
    ],
    ids=["killed", "asleep", "raises"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_go_on_names_its_sample(
    workers: int, do: Callable[[], None], text: str, examples: ExampleSet, table: Path, monkeypatch: Any
) -> None:
    at_sample(monkeypatch, 8, do)
    began = time.monotonic()
    with pytest.raises(WorkerError, match=text) as caught:
        list(windows(examples, order_of(examples), 0, 3, 5, Workers(workers, timeout=1.0)))
    assert f"sample `table-9` of {table}, row 9" in caught.value.faults[0].where
    assert "step " in caught.value.faults[0].where and caught.value.faults[0].mend
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_collate_names_the_samples(
    workers: int, examples: ExampleSet, table: Path, monkeypatch: Any
) -> None:
    def collate(*_: Any) -> Any:
        raise ValueError("shapes differ")

    monkeypatch.setattr(layout, "collate", collate)
    order = order_of(examples)
    with pytest.raises(
        WorkerError, match=r"ValueError: shapes differ \(test_loader_faults.py, line \d+\)"
    ) as caught:
        list(windows(examples, order, 0, 3, 2, workers))
    first = order.batch(0)[1][:2].tolist()
    assert caught.value.faults[0].where == "step 1, " + "; ".join(
        f"sample `table-{index + 1}` of {table}, row {index + 1}" for index in first
    )


def test_one_can_stop_between_two_samples(examples: ExampleSet, monkeypatch: Any) -> None:
    class Asked(Exception):
        pass

    made: list[int] = []

    def go_on() -> None:
        if len(made) == 3:
            raise Asked

    plain = ExampleSet.__getitem__
    monkeypatch.setattr(ExampleSet, "__getitem__", lambda self, key: made.append(1) or plain(self, key))
    with pytest.raises(Asked):
        next(windows(examples, order_of(examples), 0, 3, 5, Workers(0, go_on=go_on)))
    assert len(made) == 3


# rows that turn out to be bad


def damage(table: Path, *numbers: int) -> None:
    """Pictures that a look at names, sizes and times does not see."""
    for number in numbers:
        picture = table.parent / f"{number}.png"
        picture.unlink()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_row_is_left_out_of_its_batch(workers: int, examples: ExampleSet, table: Path) -> None:
    other = copy.copy(examples)  # by `__getstate__`, so that no picture is kept from this first look
    whole = list(windows(other, order_of(examples), 0, 6, 3, 0))
    damage(table, 4, 11)
    policy = skipping()
    found = list(windows(examples, order_of(examples), 0, 6, 3, workers, policy))
    gone = {"table-5", "table-12"}
    assert names(found) == [[name for name in window if name not in gone] for window in names(whole)]
    assert {(Path(fault.file).name, fault.row, fault.column) for fault in policy.faults} == {
        ("table.csv", 5, "image"),
        ("table.csv", 12, "image"),
    }
    lengths = dict(zip(examples.samples.ids, examples.supervised_lengths.tolist(), strict=True))
    for window in found:  # what the loss is divided by counts those that are left
        for batch in window:
            assert batch.supervised == sum(lengths[name] for name in batch.ids)


@pytest.mark.parametrize("workers", [0, 2])
def test_or_ends_the_run(workers: int, examples: ExampleSet, table: Path) -> None:
    damage(table, 4)
    for policy in (None, Policy(data(csv_source(table)))):
        with pytest.raises(DataError, match=r"table\.csv, row 5"):
            list(windows(examples, order_of(examples), 0, 3, 3, workers, policy))


def test_the_limit_counts_what_training_meets(examples: ExampleSet, table: Path) -> None:
    damage(table, 1, 2, 3)
    with pytest.raises(DataError, match="more than 2 rows are bad"):
        list(windows(examples, order_of(examples), 0, 3, 3, 2, skipping(bad_row_limit=2)))
    known = skipping(bad_row_limit=2)
    known.recall([RowFault("other.csv", 1, "", "bad")], [])
    damage_left = skipping(bad_row_limit=3)
    list(windows(examples, order_of(examples), 0, 3, 3, 0, damage_left))
    assert len(damage_left.faults) == 3
    with pytest.raises(DataError, match=r"more than 2 rows are bad[\s\S]*other\.csv"):
        list(windows(examples, order_of(examples), 0, 3, 3, 0, known))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_of_which_nothing_is_left(workers: int, examples: ExampleSet, table: Path) -> None:
    order = order_of(examples, 3)
    damage(table, *order.batch(1)[1].tolist())
    with pytest.raises(DataError, match=r"no sample of step 2 can be used.*table\.csv, row \d+: "):
        list(windows(examples, order, 0, 4, 3, workers, skipping()))


# ranks


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_each_step(world: int, examples: ExampleSet) -> None:
    order = order_of(examples)
    whole = names(windows(examples, order, 0, 6, 9, 0))
    parts = [names(windows(examples, order, 0, 6, 9, 0, share=Share(rank, world))) for rank in range(world)]
    for step, drawn in enumerate(whole):
        shares = [part[step] for part in parts]
        assert sorted(itertools.chain(*shares)) == sorted(drawn)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_rank_without_a_sample_in_a_step_has_no_batch(examples: ExampleSet) -> None:
    found = list(windows(examples, order_of(examples, 12), 0, 2, 9, 0, share=Share(2, 3)))
    assert [len(window) for window in found] == [1, 0]


@pytest.mark.proof
@pytest.mark.parametrize("window", [0, 4], ids=["by chance", "like lengths together"])
def test_every_id_once_an_epoch_on_three_ranks_with_two_workers(
    window: int, tmp_path: Path, proof_factor: int
) -> None:
    count = 1_007 if proof_factor == 1 else 10_007
    table = write_csv(tmp_path / "table.csv", rows(count))
    samples, policy = read(csv_source(table), check="quick")
    examples = ExampleSet(samples, tiny_ports(), policy)
    order = Order(examples.fingerprint, 7, 64, examples.lengths, window)
    steps = order.steps_per_epoch
    found = [
        names(windows(examples, order, 0, 2 * steps, 64, Workers(2), share=Share(rank, 3)))
        for rank in range(3)
    ]
    epochs = []
    for epoch in range(2):
        by_rank = [list(itertools.chain(*part[epoch * steps : (epoch + 1) * steps])) for part in found]
        assert Counter(itertools.chain(*by_rank)) == Counter(f"table-{number + 1}" for number in range(count))
        epochs.append(by_rank)
    assert epochs[0] != epochs[1]
