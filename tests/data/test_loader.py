"""Batches: padded as said, the same whoever prepares them and wherever one begins."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from row_files import csv_source, data, read, rows, tiny_ports, write_csv

from finesight.config.data import Transforms
from finesight.core.batch import IGNORE, Batch, Example, pixel_values
from finesight.core.errors import DataError
from finesight.data.dataset import ExampleSet, transform_of
from finesight.data.loading.collate import collate, collate_prompts
from finesight.data.loading.loader import in_order, windows
from finesight.data.loading.order import Order
from finesight.data.policy import Policy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "table.csv", rows(13))


@pytest.fixture
def examples(file: Path) -> ExampleSet:
    samples, _ = read(csv_source(file))
    transform = transform_of(Transforms(rotate=20.0, brightness=0.3, flip="all"))
    return ExampleSet(samples, tiny_ports(), Policy(data(csv_source(file))), transform, 7)


def order_of(examples: ExampleSet, window: int = 2) -> Order:
    return Order(examples.fingerprint, 7, 5, examples.lengths, window)


Content = tuple[tuple[str, ...], dict[str, tuple[torch.dtype, tuple[int, ...], bytes]], int, int]


def content(batch: Batch) -> Content:
    """All of a batch, to the bit."""
    tensors = {**batch.inputs, "targets": batch.targets}
    form = {name: (t.dtype, tuple(t.shape), t.numpy().tobytes()) for name, t in tensors.items()}
    return batch.ids, form, batch.supervised, batch.tokens


def contents(found: Iterable[tuple[Batch, ...]]) -> list[list[Content]]:
    return [[content(batch) for batch in window] for window in found]


# collate


def example(name: str, length: int, pictures: int = 1) -> Example:
    tokens = np.arange(1, length + 1, dtype=np.int32)
    targets = np.where(tokens > 2, tokens, IGNORE).astype(np.int32)
    made = [np.full((3, 2, 2), length + n, np.uint8) for n in range(pictures)]
    return Example(name, tokens, targets, pixel_values(made))


def test_collate() -> None:
    batch = collate([example("a", 3), example("b", 5, 2), example("c", 1, 0)], pad_id=9)
    assert batch.ids == ("a", "b", "c")
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3, 9, 9], [1, 2, 3, 4, 5], [1, 9, 9, 9, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert batch.targets.tolist() == [
        [IGNORE, IGNORE, 3, IGNORE, IGNORE],
        [IGNORE, IGNORE, 3, 4, 5],
        [IGNORE] * 5,
    ]
    assert (batch.supervised, batch.tokens) == (4, 9)
    assert batch.inputs["pixel_values"].shape == (3, 3, 2, 2)
    assert batch.inputs["pixel_values"].dtype == torch.uint8
    assert batch.inputs["pixel_values"][:, 0, 0, 0].tolist() == [3, 5, 6]  # in the order of the rows


def test_collate_without_pictures() -> None:
    assert "pixel_values" not in collate([example("a", 3, 0)], pad_id=0).inputs


def test_prompts_are_padded_on_the_left() -> None:
    prompts = [np.array([5, 6], np.int32), np.array([1, 2, 3, 4], np.int32)]
    inputs = collate_prompts(prompts, [pixel_values([np.zeros((3, 2, 2), np.uint8)])] * 2, pad_id=0)
    assert inputs["input_ids"].tolist() == [[0, 0, 5, 6], [1, 2, 3, 4]]
    assert inputs["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert inputs["pixel_values"].shape == (2, 3, 2, 2)
    assert "pixel_values" not in collate_prompts(prompts, [{}, {}], pad_id=0)


# windows


def test_windows_hold_what_the_order_says(examples: ExampleSet) -> None:
    order = order_of(examples)
    found = list(windows(examples, order, 0, 7, 2, 0))
    assert len(found) == 7
    for step, window in enumerate(found):
        epoch, indices = order.batch(step)
        assert [name for batch in window for name in batch.ids] == [examples.samples.ids[i] for i in indices]
        assert [len(batch.ids) for batch in window] == [2, 2, 1][: len(window)] or len(indices) == 3
        pictures = np.concatenate([batch.inputs["pixel_values"].numpy() for batch in window])
        assert (pictures == np.stack([examples[epoch, int(i)].pictures[0] for i in indices])).all()


def test_micro_batches_change_no_example(examples: ExampleSet) -> None:
    order = order_of(examples)
    whole, parts = (list(windows(examples, order, 0, 4, size, 0)) for size in (99, 1))
    for one, many in zip(whole, parts, strict=True):
        assert len(one) == 1
        assert sum(batch.supervised for batch in many) == one[0].supervised
        assert tuple(name for batch in many for name in batch.ids) == one[0].ids
        for row, batch in enumerate(many):
            length = batch.targets.shape[1]
            assert (one[0].targets[row, :length] == batch.targets[0]).all()
            assert (one[0].inputs["input_ids"][row, :length] == batch.inputs["input_ids"][0]).all()


def test_workers_change_nothing(examples: ExampleSet) -> None:
    order = order_of(examples)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone = contents(windows(examples, order, 0, 8, 2, 0))
    helped = contents(windows(examples, order, 0, 8, 2, 2))
    assert alone == helped
    assert len({window[0][1]["pixel_values"][2] for window in alone}) == 8
    assert (torch.get_rng_state() == state).all()  # and nothing is drawn from the run's own generator


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_resumed_start_gives_the_rest(examples: ExampleSet, start: int) -> None:
    whole = contents(windows(examples, order_of(examples), 0, 8, 2, 0))
    assert contents(windows(examples, order_of(examples), start, 8, 2, 0)) == whole[start:]
    assert list(windows(examples, order_of(examples), 8, 8, 2, 0)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_while_it_is_used(examples: ExampleSet, file: Path, workers: int) -> None:
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 3])
    with pytest.raises(DataError, match="became shorter"):
        list(windows(examples, order_of(examples), 0, 3, 2, workers))


def test_in_order(examples: ExampleSet) -> None:
    batches = list(in_order(examples, 4))
    assert sorted(name for batch in batches for name in batch.ids) == sorted(examples.samples.ids)
    assert [len(batch.ids) for batch in batches] == [4, 4, 4, 1]
    lengths = [int(batch.inputs["attention_mask"].sum(1).max()) for batch in batches]
    assert lengths == sorted(lengths)
    first = batches[0]
    index = examples.samples.ids.index(first.ids[0])
    assert (first.inputs["pixel_values"][0].numpy() == examples.plain(index).pictures[0]).all()
