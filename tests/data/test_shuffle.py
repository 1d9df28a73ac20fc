"""The shuffle buffer's order: each row once, as a pure function, and what a buffer really does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finesight.data.loading.order import generator
from finesight.data.loading.shuffle import _CHUNK, ShuffleBuffer

SIZES = st.integers(1, 60)
LENGTHS = st.integers(0, 300)
EPOCHS = st.integers(0, 5)


def simulated(buffer: ShuffleBuffer, epoch: int, length: int) -> list[int]:
    """The order by doing what the module says, one row after another."""
    slots = list(range(min(buffer.size, length)))
    out = []
    for position in range(length - len(slots)):
        slot = buffer.slot(epoch, position)
        out.append(slots[slot])
        slots[slot] = buffer.size + position
    return out + [slots[slot] for slot in buffer.last(epoch, len(slots)).tolist()]


@given(size=SIZES, length=LENGTHS, epoch=EPOCHS, seed=st.integers(0, 9))
def test_each_row_goes_out_once(size: int, length: int, epoch: int, seed: int) -> None:
    buffer = ShuffleBuffer(size, "data", seed)
    order = buffer.order(epoch, length)
    assert sorted(order.tolist()) == list(range(length))
    assert order.tolist() == simulated(buffer, epoch, length)
    early = order - np.arange(length)
    assert (early < size).all(), "a row goes out that the buffer cannot hold yet"


@given(size=SIZES, position=st.integers(0, 3 * _CHUNK), epoch=EPOCHS)
def test_what_the_slots_hold_is_known_at_any_position(size: int, position: int, epoch: int) -> None:
    buffer = ShuffleBuffer(size, "data")
    held = list(range(size))
    for at in range(position):
        held[buffer.slot(epoch, at)] = size + at
    assert ShuffleBuffer(size, "data").held(epoch, position).tolist() == held


def test_any_position_is_known_without_those_before() -> None:
    one, other = ShuffleBuffer(50, "data", 7), ShuffleBuffer(50, "data", 7)
    positions = [5 * _CHUNK + 3, 0, _CHUNK, _CHUNK - 1, 17, 5 * _CHUNK + 3]
    assert [one.slot(2, at) for at in positions] == [other.slot(2, at) for at in reversed(positions)][::-1]
    drawn = generator("buffer", "data", 7, 50, 2, 5).integers(50, size=_CHUNK)
    assert one.slot(2, 5 * _CHUNK + 3) == drawn[3], "the function that the module's words describe"


def test_orders_differ_by_epoch_seed_size_and_data() -> None:
    orders = {
        tuple(ShuffleBuffer(size, name, seed).order(epoch, 500).tolist())
        for size, name, seed, epoch in [
            (9, "a", 1, 0),
            (9, "a", 1, 1),
            (9, "a", 2, 0),
            (9, "b", 1, 0),
            (8, "a", 1, 0),
        ]
    }
    assert len(orders) == 5


def test_a_buffer_of_one_row_changes_nothing() -> None:
    assert ShuffleBuffer(1, "data").order(3, 40).tolist() == list(range(40))


@pytest.mark.parametrize("length", [500, 999, 1000])
def test_a_buffer_that_holds_all_shuffles_all(length: int) -> None:
    """Every position is as likely for every row: means over 300 epochs within 5 of their standard errors."""
    buffer = ShuffleBuffer(1000, "data")
    means = np.mean([np.argsort(buffer.order(epoch, length)) for epoch in range(300)], axis=0)
    error = length / np.sqrt(12 * 300)
    assert np.abs(means - (length - 1) / 2).max() < 5 * error


def test_how_late_a_row_may_be() -> None:
    """Waiting times in a slot are geometric: half of the rows leave within 0.7 N positions, 999 in 1000 within 7 N."""
    size, length = 200, 60_000
    order = ShuffleBuffer(size, "data").order(0, length)
    came = np.maximum(0, np.arange(length) - size)  # the position at which a row is in the buffer
    waited = (np.argsort(order) - came)[: length - 10 * size]
    assert 0.48 < np.mean(waited <= 0.7 * size) < 0.53
    assert 0.997 < np.mean(waited <= 7 * size) < 1.0
