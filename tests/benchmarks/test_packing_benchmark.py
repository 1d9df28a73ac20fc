"""The packing benchmark at a tiny size: its loops compute the same losses, and its variants see the same samples."""

import math
from typing import Any

import pytest
import torch

from benchmarks.loops import finesight
from benchmarks.mixed_lengths import PLANS, SMALL, TOGETHER, Workload, arranged, weights
from benchmarks.peers import Collator, Rows
from benchmarks.ticks import Finished


class OnePass:
    """Told of the steps of one pass."""

    def __init__(self, steps: int) -> None:
        self.losses: list[float] = []
        self._steps = steps

    def step(self, loss: Any) -> None:
        self.losses.append(float(loss))
        if len(self.losses) == self._steps:
            raise Finished


def mean_of(losses: list[float], counts: list[int]) -> float:
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


def padded_losses(work: Workload) -> list[float]:
    """The model's own losses of the batches that `Trainer` would be given, step by step."""
    rows, collate = Rows(work), Collator(work)
    losses, at = [], 0
    for step in work.steps:
        with torch.no_grad():
            losses.append(float(work.model(**collate([rows[at + n] for n in range(len(step))])).loss))
        at += len(step)
    return losses


@pytest.mark.parametrize("name", PLANS)
def test_all_variants_learn_from_the_same(name: str) -> None:
    ours = arranged(name, "finesight", SMALL)
    told = OnePass(len(ours.steps))
    with pytest.raises(Finished):
        finesight(ours, told)  # type: ignore[arg-type]
    mine = mean_of(told.losses, weights(ours))
    ids = sorted(example.id for step in ours.steps for example in step)
    for variant in PLANS[name].variants:
        work = arranged(name, variant, SMALL)
        assert sorted(example.id for step in work.steps for example in step) == ids
        assert len(work.steps) <= math.ceil(len(ids) / TOGETHER)
        if variant != "finesight":
            assert abs(mean_of(padded_losses(work), weights(work)) - mine) <= 1e-5
