"""What says that memory did not suffice, and what a step leaves that was broken off."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import TwoLayers, recording_step, supervised_logits, windows

from finesight.core.batch import Batch
from finesight.core.errors import TrainingError
from finesight.data.loading.layout import Layout
from finesight.runtime.control import told
from finesight.training.loop import Loop, LoopState, Timetable
from finesight.training.memory import OutOfMemory, is_out_of_memory
from finesight.training.schedule import Schedule

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
)


def test_in_the_update_nothing_is_saved_that_may_be_half_done() -> None:
    model = TwoLayers()
    step, recorder = recording_step(model, supervised_logits(model))
    saved: list[int] = []
    times = Timetable(steps=5, steps_per_epoch=5, evaluate_every=9, save_every=9, measure="val_loss")

    def save(state: Any, number: int, best: bool) -> None:
        saved.append(number)

    loop = Loop(step, Schedule(0.1, 5, 0, "constant"), times, None, save, [], lambda: False)
    recorder.step = _fails  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory, match="for the update of the weights") as caught:
        loop.run(windows(0, 5), LoopState())
    assert saved == [] and "goes on from the last checkpoint" in str(caught.value)


def test_samples_that_do_not_fit_end_the_run_saved() -> None:
    model = TwoLayers()
    step, _ = recording_step(model, supervised_logits(model))
    saved: list[int] = []
    times = Timetable(steps=5, steps_per_epoch=5, evaluate_every=9, save_every=9, measure="val_loss")

    def some() -> Any:
        yield from windows(0, 2)
        raise ERRORS[0]

    loop = Loop(
        *(step, Schedule(0.1, 5, 0, "constant"), times, None),
        *(lambda state, number, best: saved.append(number), [], lambda: False),
    )
    with pytest.raises(OutOfMemory, match="for the samples of the next steps"):
        loop.run(some(), LoopState())
    assert saved == [2]


def test_a_loss_that_is_no_number_ends_the_run_saved() -> None:
    model = TwoLayers()
    plain, made = supervised_logits(model), []

    def forward(batch: Batch) -> torch.Tensor:
        made.append(batch)
        return plain(batch) * (float("nan") if len(made) == 5 else 1.0)  # the first micro-batch of step 3

    step, _ = recording_step(model, forward)
    saved: list[int] = []
    times = Timetable(steps=5, steps_per_epoch=5, evaluate_every=9, save_every=9, measure="val_loss")
    loop = Loop(
        *(step, Schedule(0.1, 5, 0, "constant"), times, None),
        *(lambda state, number, best: saved.append(number), [], lambda: False),
    )
    with pytest.raises(TrainingError, match="the loss is nan") as caught:
        loop.run(windows(0, 5), LoopState())
    assert saved == [2] and "what was learned in 2 steps is saved" in str(caught.value)


def _fails(closure: Any = None) -> None:
    raise ERRORS[0]


def test_what_says_that_memory_did_not_suffice() -> None:
    assert all(is_out_of_memory(error) for error in ERRORS)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    others = (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
        KeyError(),
    )
    assert not any(is_out_of_memory(error) for error in others)
    assert told(OutOfMemory("what", "where", "mend"))["faults"][0]["what"] == "what"


@pytest.mark.parametrize("packed", [False, True])
def test_smaller_layouts_hold_the_same_samples(packed: bool) -> None:
    draw = np.random.default_rng(0)
    sizes = np.stack([draw.integers(3, 40, 24), np.zeros(24, dtype=np.int64)], axis=1)
    layout: Layout | None = Layout(99, 160, packed)
    counts = []
    while layout is not None:
        parts = layout.deal(sizes)
        assert sorted(np.concatenate(parts).tolist()) == list(range(24))
        largest = max(parts, key=len)
        positions = int(sizes[largest].sum()) if packed else len(largest) * int(sizes[largest].max())
        counts.append(len(parts))
        layout = layout.smaller(len(largest), positions, int(sizes.sum(axis=1).max()))
    assert counts == sorted(counts) and counts[-1] == 24
    assert Layout(99).smaller(8, 300, None) == Layout(4)
    assert Layout(99, 512).smaller(8, 300, None) == Layout(4, 512)  # of a stream nobody knows the longest
    assert Layout(99, 512).smaller(8, 300, 200) == Layout(99, 200)
    assert Layout(99, 512).smaller(1, 300, 200) is None
