"""Which samples make a row or a step: every one once, little room left, and nothing but data, seed and step decides."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from row_files import csv_source, data, read, rows, tiny_ports, write_csv

from finesight.core.batch import IGNORE, Batch, Example, Extra
from finesight.data.dataset import ExampleSet
from finesight.data.loading.collate import collate, collate_packed
from finesight.data.loading.layout import Budget, Layout, best_fit, fill, positions, sizes_of
from finesight.data.loading.loader import windows
from finesight.data.loading.mixture import Mixture
from finesight.data.loading.order import Order
from finesight.data.policy import Policy


def lognormal(count: int, seed: int = 0) -> np.ndarray:
    """Lengths as texts have them: median 150, clipped at 2,048."""
    draw = np.random.default_rng(seed)
    return np.clip(draw.lognormal(np.log(150), 0.9, count), 1, 2048).astype(np.int64)


def words(lengths: np.ndarray) -> np.ndarray:
    """Sizes of samples that no encoder reads."""
    return np.stack([lengths, np.zeros_like(lengths)], axis=1)


def plain_best_fit(lengths: np.ndarray, most: int) -> list[int]:
    """What the bins hold, by looking through all of them for each sample."""
    room: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [(left, at) for at, left in enumerate(room) if left >= length]
        if fitting:
            room[min(fitting)[1]] -= length
        else:
            room.append(most - length)
    return sorted(most - left for left in room)


@pytest.mark.parametrize(("count", "most"), [(1, 2048), (300, 2048), (300, 5000), (40, 100_000), (0, 8)])
def test_best_fit_is_that_of_a_search_through_all_bins(count: int, most: int) -> None:
    lengths = lognormal(count)
    bins = best_fit(lengths, most)
    held = np.bincount(bins, weights=lengths) if count else np.empty(0)
    assert sorted(held.astype(int).tolist()) == plain_best_fit(lengths, most)
    assert (held > 0).all() and (held <= most).all()


@pytest.mark.parametrize("count", [1024, 10_000])
def test_little_room_is_left(count: int) -> None:
    lengths = lognormal(count)
    assert lengths.sum() / (2048 * (best_fit(lengths, 2048).max() + 1)) >= 0.99


def test_what_fits_in_no_bin() -> None:
    with pytest.raises(ValueError, match="longer than a bin"):
        best_fit(np.array([3, 9]), 8)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sort", [True, False])
def test_each_is_in_one_group_within_the_budget(packed: bool, sort: bool) -> None:
    sizes = np.stack([lognormal(500), lognormal(500, 1) // 3], axis=1)
    groups = fill(sizes, 4096, packed, sort)
    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    assert all(0 < positions(sizes[group], packed) <= 4096 for group in groups)
    if not sort:
        assert np.concatenate(groups).tolist() == list(range(500))
        joined = [np.concatenate(pair) for pair in itertools.pairwise(groups)]
        assert all(positions(sizes[pair], packed) > 4096 for pair in joined), (
            "none is closed before it is full"
        )


def test_like_lengths_come_together() -> None:
    sizes = words(lognormal(2000))
    computed = sum(positions(sizes[group], False) for group in fill(sizes, 8192, False))
    assert sizes.sum() / computed > 0.95
    assert sizes.sum() / positions(sizes, False) < 0.2


def test_both_sides_of_an_encoder_decoder_are_alike() -> None:
    draw = np.random.default_rng(0)
    read, written = (np.exp(np.log(m) + 0.7 * draw.normal(size=1024)).astype(np.int64) + 1 for m in (67, 35))
    sizes = np.stack([written, read], axis=1)
    computed = sum(positions(sizes[group], False) for group in fill(sizes, 4096, False))
    assert sizes.sum() / computed > 0.8, "the two are independent of each other"


def test_positions_are_those_of_the_collated_batch() -> None:
    draw = np.random.default_rng(3)

    def of(name: str, length: int, read: int) -> Example:
        tokens = draw.integers(5, 90, length).astype(np.int32)
        return Example(name, tokens, tokens, source=tokens[:read])

    several = [of("a", 5, 4), of("b", 9, 2), of("c", 3, 3)]
    assert positions(sizes_of(several), False) == collate(several, 0).positions == 3 * (9 + 4)
    alone = [Example(one.id, one.tokens, one.targets) for one in several]
    assert positions(sizes_of(alone), False) == collate(alone, 0).positions == 27
    packed = collate_packed(alone)
    assert positions(sizes_of(alone), True) == packed.positions == packed.tokens == 17


def test_a_packed_row() -> None:
    def of(name: str, start: int, length: int, pictures: int) -> Example:
        tokens = np.arange(start, start + length, dtype=np.int32)
        targets = np.where(tokens % 2, tokens, IGNORE)
        items = {"pixel_values": Extra(np.full((pictures, 3, 2, 2), start, np.uint8))} if pictures else {}
        rows = (
            {"sizes": Extra(np.full((pictures, 2 + start % 3), start), "sample", fill=-1)} if pictures else {}
        )
        return Example(name, tokens, targets, {**items, **rows, "kinds": Extra(tokens % 3, "tokens")})

    batch = collate_packed([of("a", 10, 4, 2), of("b", 20, 1, 0), of("c", 30, 3, 1)])
    assert batch.segments == (4, 1, 3) and batch.ids == ("a", "b", "c")
    assert batch.inputs["input_ids"].tolist() == [[10, 11, 12, 13, 20, 30, 31, 32]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 0, 1, 2]]
    assert batch.targets.tolist() == [[IGNORE, 11, IGNORE, 13, IGNORE, IGNORE, 31, IGNORE]]
    assert batch.inputs["pixel_values"][:, 0, 0, 0].tolist() == [10, 10, 30]
    assert batch.inputs["sizes"].tolist() == [[[10] * 3, [10] * 3, [30, 30, -1]]]
    assert batch.inputs["kinds"].tolist() == [[1, 2, 0, 1, 2, 0, 1, 2]]
    assert batch.supervised == 3 and "attention_mask" not in batch.inputs
    assert batch.inputs["input_ids"].dtype == batch.inputs["position_ids"].dtype == torch.int64


@pytest.mark.parametrize("packed", [True, False])
def test_micro_batches(packed: bool) -> None:
    sizes = words(np.array([5, 9, 3, 7, 7, 2, 6]))
    assert [part.tolist() for part in Layout(3, None, packed).deal(sizes)] == [[0, 1, 2], [3, 4, 5], [6]]
    parts = Layout(99, 14, packed).deal(sizes)
    assert sorted(np.concatenate(parts).tolist()) == list(range(7))
    assert all(positions(sizes[part], packed) <= 14 for part in parts)
    assert max(map(len, Layout(2, 14, packed).deal(sizes))) == 2
    assert Layout(99, 14, packed).positions(sizes) == sum(positions(sizes[part], packed) for part in parts)


def budgeted(packed: bool, overfit: int | None = None, looks: Mixture | None = None, seed: int = 7) -> Order:
    lengths = lognormal(700)
    return Order("data", seed, 1, lengths, 5, overfit, looks, Budget(4096, packed, words(lengths), 300))


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_of_a_budget(packed: bool) -> None:
    order = budgeted(packed)
    sizes = words(lognormal(700))
    seen, fresh = [], [order.batch(step) for step in range(order.steps_in(3))]
    for step, (epoch, chosen) in enumerate(fresh):
        assert order.steps_in(epoch) <= step < order.steps_in(epoch + 1)
        assert positions(sizes[chosen], packed) <= 4096
        seen.append((epoch, tuple(chosen.tolist())))
    for epoch in range(3):
        held = [name for number, chosen in seen if number == epoch for name in chosen]
        assert sorted(held) == list(range(700)), "each once an epoch"
    together = [{frozenset(chosen) for number, chosen in seen if number == epoch} for epoch in range(2)]
    assert len(together[0] & together[1]) < 5, "other neighbours in another epoch"
    assert order.varies and order.steps_per_epoch == order.steps_in(1)
    assert order.epoch_of(order.steps_in(2)) == 2.0
    for step in (order.steps_in(2) + 1, 0, order.steps_in(1)):  # of an order that was never asked before
        assert budgeted(packed).batch(step)[1].tolist() == fresh[step][1].tolist()
    assert budgeted(packed, seed=8).batch(0)[1].tolist() != fresh[0][1].tolist()


def test_a_budget_over_a_mixture_and_a_few_batches() -> None:
    looks = Mixture(np.arange(700) % 2, [1, 2], None)
    order = budgeted(True, looks=looks)
    drawn = [order.draws(step) for step in range(order.steps_in(1))]
    pairs = [
        (int(one), int(look)) for chosen, times in drawn for one, look in zip(chosen, times, strict=True)
    ]
    assert len(set(pairs)) == len(pairs) == 350 + 2 * 350
    few = budgeted(True, overfit=2)
    assert few.steps_per_epoch == 2 and not few.varies and few.steps_in(4) == 8
    assert few.batch(5)[1].tolist() == few.batch(1)[1].tolist() == budgeted(True).batch(1)[1].tolist()


def test_the_same_rows_from_any_workers(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "table.csv", rows(13))
    samples, _ = read(csv_source(file))
    examples = ExampleSet(samples, tiny_ports(), Policy(data(csv_source(file))))
    most = 3 * int(examples.lengths.max())

    def order() -> Order:
        return Order(
            examples.fingerprint, 7, 1, examples.lengths, budget=Budget(most, True, examples.sizes, 8)
        )

    def told(batch: Batch) -> tuple[object, ...]:
        return batch.ids, batch.segments, {name: value.tolist() for name, value in batch.inputs.items()}

    count = order().steps_in(2)
    layout = Layout(99, 2 * int(examples.lengths.max()), True)
    alone = [[told(one) for one in window] for window in windows(examples, order(), 0, count, layout, 0)]
    assert alone == [
        [told(one) for one in window] for window in windows(examples, order(), 0, count, layout, 2)
    ]
    assert alone[3:] == [
        [told(one) for one in part] for part in windows(examples, order(), 3, count, layout, 0)
    ]
    first = [name for window in alone[: order().steps_in(1)] for one in window for name in one[0]]  # type: ignore[attr-defined]
    assert sorted(first) == sorted(examples.samples.id(at) for at in range(13))
