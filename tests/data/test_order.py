"""The order of samples: each once an epoch, a pure function of fingerprint, seed and step."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finesight.data.loading.order import Order, generator

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 12), st.integers(0, 4), st.integers(0, 3))
def test_each_sample_once_an_epoch(lengths: list[int], size: int, window: int, epoch: int) -> None:
    order = Order("data", 7, size, lengths, window)
    steps = order.steps_per_epoch
    assert steps == -(-len(lengths) // size)
    batches = [order.batch(epoch * steps + step) for step in range(steps)]
    assert {drawn for drawn, _ in batches} == {epoch}
    indices = [batch for _, batch in batches]
    assert sorted(np.concatenate(indices)) == list(range(len(lengths)))
    sizes = sorted(len(batch) for batch in indices)
    assert sizes[1:] == [size] * (steps - 1)  # the rest of an epoch is a step too
    assert sizes[0] == len(lengths) - size * (steps - 1)


@given(LENGTHS, st.integers(1, 5), st.integers(0, 3), st.permutations(range(12)))
def test_any_step_at_any_time(lengths: list[int], size: int, window: int, steps: list[int]) -> None:
    unbroken = Order("data", 7, size, lengths, window)
    wanted = {step: unbroken.batch(step) for step in range(12)}
    jumping = pickle.loads(pickle.dumps(Order("data", 7, size, lengths, window)))
    for step in steps:
        epoch, indices = jumping.batch(step)
        assert epoch == wanted[step][0] == step // unbroken.steps_per_epoch
        assert (indices == wanted[step][1]).all()


def flat(order: Order, epoch: int) -> list[int]:
    steps = order.steps_per_epoch
    return np.concatenate([order.batch(epoch * steps + step)[1] for step in range(steps)]).tolist()


@pytest.mark.parametrize("window", [0, 3])
def test_epochs_seeds_and_data_differ(window: int) -> None:
    lengths = list(range(40))
    orders = [Order(data, seed, 4, lengths, window) for data in ("a", "b") for seed in (1, 2)]
    found = [tuple(flat(order, epoch)) for order in orders for epoch in range(3)]
    assert len(set(found)) == len(found)
    assert not any(list(one) == sorted(one) for one in found)


def test_a_window_brings_like_lengths_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    spread = {}
    for window in (0, 5, 20):
        order = Order("data", 7, 8, lengths, window)
        batches = [lengths[order.batch(step)[1]] for step in range(order.steps_per_epoch)]
        spread[window] = np.mean([batch.max() - batch.mean() for batch in batches])
        assert [int(batch[0]) for batch in batches] != sorted(int(batch[0]) for batch in batches)
    assert spread[20] < spread[5] / 2 < spread[0] / 4


def test_each_window_is_a_part_of_the_shuffled_order() -> None:
    """Sorting stays inside: samples come together with those that they were shuffled to."""
    lengths = list(np.random.default_rng(0).integers(1, 9, 30))
    shuffled = generator("order", "data", 7, 0).permutation(30)
    order = Order("data", 7, 3, lengths, 2)
    for step in range(10):
        batch = set(order.batch(step)[1].tolist())
        assert any(batch <= set(shuffled[at : at + 6].tolist()) for at in range(0, 30, 6))


def test_overfit_repeats_the_first_batches() -> None:
    lengths = list(range(20))
    whole, few = Order("data", 7, 4, lengths), Order("data", 7, 4, lengths, overfit=2)
    assert few.steps_per_epoch == 2
    for step in range(7):
        epoch, indices = few.batch(step)
        assert epoch == 0
        assert (indices == whole.batch(step % 2)[1]).all()
    assert Order("data", 7, 4, lengths, overfit=99).steps_per_epoch == 5


def test_fractions_of_an_epoch() -> None:
    order = Order("data", 7, 4, list(range(10)))
    assert [order.epoch_of(step) for step in (0, 1, 3, 6)] == [0, 1 / 3, 1, 2]


def test_every_position_is_as_likely() -> None:
    order = Order("data", 7, 1, [1, 1, 1, 1])
    counts = np.zeros((4, 4))
    for epoch in range(600):
        for position, index in enumerate(flat(order, epoch)):
            counts[position, index] += 1
    assert np.abs(counts - 150).max() < 4.5 * (600 * 0.25 * 0.75) ** 0.5


def test_keys_do_not_run_together() -> None:
    draws = {
        tuple(generator(*key).integers(0, 2**62, 2)) for key in (("a", 1), ("a1",), ("a", "1", ""), ("a", 11))
    }
    assert len(draws) == 4
