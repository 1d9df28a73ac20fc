"""Windows of micro-batches, one window a step, prepared in between or by worker processes."""

from collections.abc import Iterator
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from finesight.core.batch import Batch, Example
from finesight.data.collate import collate
from finesight.data.dataset import ExampleSet
from finesight.data.order import Order


def _split(examples: list[Example], micro_batch: int, pad_id: int) -> tuple[Batch, ...]:
    return tuple(collate(examples[at : at + micro_batch], pad_id) for at in range(0, len(examples), micro_batch))


class _Keyed(Dataset[Example]):
    """Examples by (epoch, index), as the loader's workers ask for them."""

    def __init__(self, examples: ExampleSet) -> None:
        self._examples = examples

    def __getitem__(self, key: tuple[int, int]) -> Example:
        return self._examples[key]


def windows(
    examples: ExampleSet, order: Order, start: int, stop: int, micro_batch: int, workers: int
) -> Iterator[tuple[Batch, ...]]:
    """The windows of steps `start` (from 0, included) to `stop` (excluded).

    What a window holds depends on its step alone, never on `workers` or on where the iteration began.
    """

    def keys() -> Iterator[list[tuple[int, int]]]:
        for step in range(start, stop):
            epoch, indices = order.batch(step)
            yield [(epoch, int(index)) for index in indices]

    together = partial(_split, micro_batch=micro_batch, pad_id=examples.ports.pad_id)
    if not workers:
        return (together([examples[key] for key in step]) for step in keys())
    loader = DataLoader(
        _Keyed(examples),
        batch_sampler=list(keys()),
        collate_fn=together,
        num_workers=workers,
        # an own generator: the default would draw from torch's global one, and change the run by being there
        generator=torch.Generator(),
    )
    return iter(loader)


def in_order(examples: ExampleSet, batch_size: int) -> Iterator[Batch]:
    """All examples once, unchanged by transforms, those of like length together."""
    by_length = sorted(range(len(examples)), key=examples.lengths.__getitem__)
    for at in range(0, len(by_length), batch_size):
        chosen = by_length[at : at + batch_size]
        yield collate([examples.plain(index) for index in chosen], examples.ports.pad_id)
