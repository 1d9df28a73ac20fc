"""Seconds of a step's parts, by a clock that ticks once at each look: they add up because nothing else can be."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from toys import TwoLayers, make_batch, supervised_logits

from finesight.config.train import Train
from finesight.training.meters import FORWARD, Clocks, Effort, Meter, clock_of, hooked
from finesight.training.optim import build_optimizer
from finesight.training.precision import Precision
from finesight.training.step import Step


class Ticking:
    """A clock whose every mark is one second after the one before; it must be settled before it is read."""

    def __init__(self) -> None:
        self.now, self.settled = 0, -1

    def mark(self) -> int:
        self.now += 1
        return self.now

    def settle(self, last: int) -> None:
        self.settled = last

    def between(self, one: int, other: int) -> float:
        assert other <= self.settled, "read before the end of the step"
        return float(other - one)


def steps_of(model: nn.Module) -> tuple[Step, Ticking]:
    optimizer = build_optimizer(model, Train(max_steps=1))
    step = Step(
        model, supervised_logits(model), optimizer, Precision("fp32", "cpu"), 1.0, 0, torch.device("cpu")
    )
    clock = Ticking()
    step.meter = Meter(clock)
    return step, clock


def hooks_of(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_parts_add_up_to_the_forward_pass_and_all_to_the_step() -> None:
    model = TwoLayers()
    step, clock = steps_of(model)
    points = [("language_model", model), ("vision", model.hidden), ("head", model.head)]
    window = (make_batch(1), make_batch(2))
    with step.meter.watching(points):
        assert hooks_of(model) == 6
        seconds = dict(step(window, 1, 0.1).seconds)
    assert hooks_of(model) == 0
    # a micro-batch: inputs, model, vision, model, head, model, loss, backward: one second each; then two looks
    assert seconds == {
        "inputs": 2.0, "language_model": 6.0, "vision": 2.0, "head": 4.0, "forward": 14.0,
        "backward": 2.0, "optimizer": 2.0,
    }  # fmt: skip
    assert sum(seconds[name] for name in FORWARD if name in seconds) == seconds["forward"]
    # 18 marks and the last one
    assert seconds["forward"] + seconds["backward"] + seconds["optimizer"] == clock.now - 1


def test_without_points_the_forward_pass_is_one() -> None:
    step, _ = steps_of(TwoLayers())
    assert step((make_batch(1),), 1, 0.1).seconds == {"forward": 1.0, "backward": 1.0, "optimizer": 2.0}


def test_a_part_within_its_own_and_a_model_called_twice() -> None:
    """As with a first pass that chooses what the second one reads."""
    meter = Meter(Ticking())
    inner, outer = nn.Identity(), nn.Sequential(nn.Identity())
    with meter.watching([("language_model", outer), ("projector", outer[0]), ("projector", inner)]):
        meter.begin()
        meter.forward()
        for _ in range(2):
            outer(torch.zeros(1))
        inner(torch.zeros(1))
        found = meter.seconds()
    # between and after the two calls it is the loss's time
    assert found == {"inputs": 1.0, "language_model": 4.0, "projector": 3.0, "head": 3.0, "forward": 11.0}


class Again(nn.Module):
    """A part that is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = nn.Linear(6, 6), nn.Linear(6, 11)
        self.embed = nn.Embedding(11, 6)
        self.calls = 0

    def _seen(self, values: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.tower(values)
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        found: Any = checkpoint(self._seen, self.embed(tokens), use_reentrant=False)
        logits: Tensor = self.head(found)
        return logits


def test_what_is_computed_again_belongs_to_the_backward_pass() -> None:
    model = Again()
    step, _ = steps_of(model)
    with step.meter.watching([("language_model", model), ("vision", model.tower)]):
        seconds = step((make_batch(1),), 1, 0.1).seconds
    assert model.calls == 2
    assert (seconds["vision"], seconds["backward"]) == (1.0, 1.0)


def test_a_step_that_was_broken_off_leaves_nothing() -> None:
    model = TwoLayers()
    step, _ = steps_of(model)

    def fail(*_: Any) -> None:
        raise ValueError("out of memory")

    with step.meter.watching([("language_model", model), ("vision", model.hidden)]):
        whole = step((make_batch(1),), 1, 0.1).seconds
        handle = model.hidden.register_forward_pre_hook(fail)
        with pytest.raises(ValueError, match="out of memory"):
            step((make_batch(1),), 2, 0.1)
        handle.remove()
        assert step((make_batch(1),), 3, 0.1).seconds == whole
    assert hooks_of(model) == 0


def test_hooks_are_silent_in_an_evaluation_and_gone_after_an_error() -> None:
    model, meter = TwoLayers(), Meter(Ticking())

    def broken() -> None:
        with meter.watching([("vision", model.hidden)]):
            model(torch.zeros(1, 2, dtype=torch.long))
            assert meter._marks == []
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        broken()
    assert hooks_of(model) == 0


def test_what_is_compiled_into_one_is_not_cut() -> None:
    told: list[str] = []
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with hooked([("vision", model[0])], told.append, told.append):
        compiled = torch.compile(model, backend="eager", fullgraph=True)  # fails where hooks cut
        compiled(torch.zeros(1, 2))
        assert told == []
        model(torch.zeros(1, 2))
    assert told == ["vision", "vision"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_phases_are_those_of_its_stream() -> None:
    device = torch.device("cuda", 0)
    wide = nn.Linear(4096, 4096, device=device)
    meter = Meter(clock_of(device))
    values = torch.ones(4096, 4096, device=device)
    wide(values)
    torch.cuda.synchronize(device)
    with meter.watching([("language_model", wide)]):
        meter.begin()
        began = time.perf_counter()
        meter.forward()
        loss = sum(wide(values).sum() for _ in range(20))
        meter.enter("backward")
        loss.backward()
        found = meter.seconds()
        wall = time.perf_counter() - began
    assert 0.5 * wall <= found["forward"] + found["backward"] <= 1.01 * wall
    assert found["language_model"] > 0.5 * found["forward"], "what is computed is timed, not what is queued"


def test_utilisation_is_its_definition() -> None:
    effort = Effort(flops=6e9, peak=1e12)
    assert effort.share(100, 2.0) == pytest.approx(6e9 * 100 / (1e12 * 2))
    assert effort.share(100, 0.0) is None
    assert Effort(1.0, 0.0).share(1, 1.0) is None


def test_what_is_spent_beside_the_steps_goes_through_a_checkpoint() -> None:
    clocks = Clocks()
    clocks.spend("evaluation", 2.0)
    clocks.spend("saving", 1.0)
    clocks.use(None)
    assert clocks.joules is None
    clocks.use(5.0)
    assert clocks.taken() == {"evaluation": 2.0, "saving": 1.0}
    assert clocks.taken() == {"evaluation": 0.0, "saving": 0.0}
    assert (clocks.evaluation, clocks.saving, clocks.joules) == (2.0, 1.0, 5.0)
