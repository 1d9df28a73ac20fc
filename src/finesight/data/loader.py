"""Windows of micro-batches, one window a step, prepared in between or by worker processes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from finesight.core.batch import Batch
from finesight.core.errors import FinesightError
from finesight.data.collate import collate
from finesight.data.dataset import ExampleSet
from finesight.data.order import Order


def _window(step: int, examples: ExampleSet, order: Order, micro_batch: int) -> tuple[Batch, ...]:
    """The micro-batches of step `step` (from 0)."""
    epoch, indices = order.batch(step)
    drawn = [examples[epoch, int(index)] for index in indices]
    pad_id = examples.ports.pad_id
    return tuple(collate(drawn[at : at + micro_batch], pad_id) for at in range(0, len(drawn), micro_batch))


class _Windows(Dataset[tuple[Batch, ...] | FinesightError]):
    """Windows by step, as the loader's workers ask for them; an error comes back whole, to be raised at home."""

    def __init__(self, make: Callable[[int], tuple[Batch, ...]]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> tuple[Batch, ...] | FinesightError:
        try:
            return self._make(step)
        except FinesightError as error:
            return error


def _as_it_is(window: Any) -> Any:
    return window


def windows(
    examples: ExampleSet, order: Order, start: int, stop: int, micro_batch: int, workers: int
) -> Iterator[tuple[Batch, ...]]:
    """The windows of steps `start` (from 0, included) to `stop` (excluded).

    What a window holds depends on its step alone, never on `workers` or on where the iteration began.
    """
    make = partial(_window, examples=examples, order=order, micro_batch=micro_batch)
    if not workers:
        yield from map(make, range(start, stop))
        return
    loader = DataLoader(
        _Windows(make),
        batch_size=None,
        sampler=range(start, stop),
        collate_fn=_as_it_is,
        num_workers=workers,
        # an own generator: the default would draw from torch's global one, and change the run by being there
        generator=torch.Generator(),
    )
    for window in loader:
        if isinstance(window, FinesightError):
            raise window
        yield window


def in_order(examples: ExampleSet, batch_size: int) -> Iterator[Batch]:
    """All examples once, unchanged by transforms, those of like length together."""
    by_length = sorted(range(len(examples)), key=examples.lengths.__getitem__)
    for at in range(0, len(by_length), batch_size):
        chosen = by_length[at : at + batch_size]
        yield collate([examples.plain(index) for index in chosen], examples.ports.pad_id)
