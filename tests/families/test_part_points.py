"""Where time and memory go is told for models of unlike build: towers, mergers, captioners, encoder-decoders."""

from pathlib import Path

import pytest
import torch
from matrix import batch_of, body, samples

from finesight.models.forward import SupervisedForward
from finesight.models.parts import freeze
from finesight.models.points import part_points
from finesight.planner.flops import counting
from finesight.planner.memory import Activations
from finesight.training.meters import FORWARD, Meter
from finesight.training.step import loss_sum

WORDS = {"inputs", "language_model", "head"}
COLUMNS = {
    "llava": WORDS | {"vision", "projector"},
    "qwen2_vl": WORDS | {"vision", "projector"},  # a merger within its tower
    "blip": WORDS | {"vision"},
    "vision-encoder-decoder": WORDS | {"vision"},
    "whisper": WORDS | {"audio"},
    "t5": WORDS,
    "gpt2": WORDS,
}


class Ticking:
    """A clock whose every mark is one second after the one before."""

    now = 0.0

    def mark(self) -> float:
        self.now += 1
        return self.now

    def settle(self, last: float) -> None: ...

    def between(self, one: float, other: float) -> float:
        return other - one


def hooks_of(model: torch.nn.Module) -> int:
    """Some models put hooks on themselves."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@pytest.mark.parametrize("name", COLUMNS)
def test_each_part_has_its_time_its_memory_and_its_arithmetic(name: str, tmp_path: Path) -> None:
    made = body(name, tmp_path)
    model = made.loaded.model
    if "vision" in COLUMNS[name]:
        freeze(model, ["vision_tower"])
    model.train()
    forward, batch = SupervisedForward(model, made.loaded.ports.image), batch_of(made, samples(made))
    clock = Ticking()
    meter, points = Meter(clock), part_points(model)
    plain = forward(batch).detach()
    hooks = hooks_of(model)
    with meter.watching(points):
        meter.begin()
        meter.forward()
        torch.manual_seed(0)
        forward(batch)
        spent = meter.seconds()
    assert set(spent) - {"forward"} == COLUMNS[name]
    assert sum(spent[part] for part in FORWARD if part in spent) == spent["forward"] == clock.now - 1

    kept = Activations(model)
    with counting() as counted:
        with kept.watching(points):
            logits = forward(batch)
            loss = loss_sum(logits, batch.targets)
        loss.backward()
    kept.next_micro_batch()
    assert counted.flops and counted.flops > 2 * logits.numel()
    assert plain.shape == logits.shape
    expected = COLUMNS[name] - {"inputs", "vision"}
    if name == "qwen2_vl":  # its position embedding is kept for the merger, which learns
        expected |= kept.most.keys() & {"vision"}
    assert kept.most.keys() == expected, "a frozen tower keeps nothing"
    assert hooks_of(model) == hooks
