"""A frozen tower runs without autograd, whatever the family: nothing of it is kept for the backward pass."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from matrix import Body, batch_of, body, samples
from tower_watch import Kept, learn_once

from finesight.adapters.attach import attach
from finesight.config.adapter import Adapter
from finesight.models.forward import SupervisedForward
from finesight.models.parts import freeze, parts_by_name
from finesight.models.recompute import checkpoint_activations

FAMILIES = ("llava", "idefics3", "qwen2_5_vl", "mllama", "gemma3", "blip-2", "vision-encoder-decoder")


def step(made: Body) -> Kept:
    model, ports = made.loaded.model, made.loaded.ports
    forward = SupervisedForward(model, ports.image)
    batch = batch_of(made, samples(made))
    return learn_once(lambda: forward(batch), model)


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_of_a_frozen_tower_is_kept(name: str, tmp_path: Path) -> None:
    made = body(name, tmp_path)
    model = made.loaded.model
    learning = step(made)
    assert learning.inside > 10 and learning.outputs_that_learn  # what is counted is there
    freeze(model, ("vision_tower",))
    frozen = step(made)
    assert frozen.calls == learning.calls > 0
    assert frozen.inside == frozen.outputs_that_learn == 0 < frozen.outside
    settings = Adapter(rank=2, targets={"language_model": "attention"})
    attach(model, settings, [], parts_by_name(model), 1)
    adapted = step(made)
    assert adapted.calls == frozen.calls
    assert adapted.inside == adapted.outputs_that_learn == 0 < adapted.outside
    checkpoint_activations(model)
    again = step(made)
    assert again.calls == frozen.calls
    assert again.inside == again.outputs_that_learn == 0 < again.outside
