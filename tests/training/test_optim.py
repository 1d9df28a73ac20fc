"""What decays, what is left alone, and what learns at all."""

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_recipe
from torch import nn
from toys import TwoLayers, supervised_logits, windows

from finesight.config.train import Train
from finesight.data.loading.loader import windows as data_windows
from finesight.data.loading.order import Order
from finesight.models.forward import SupervisedForward
from finesight.runtime.notices import Notices
from finesight.training.optim import build_optimizer, parameter_groups
from finesight.training.precision import Precision
from finesight.training.step import Step
from finesight.workflows.prepare import prepare


def _names(groups: list[dict[str, object]]) -> dict[float, set[str]]:
    return {float(group["weight_decay"]): set(group["names"]) for group in groups}


def test_matrices_decay_and_nothing_else() -> None:
    assert _names(parameter_groups(TwoLayers(), 0.1)) == {
        0.1: {"hidden.weight", "head.weight"},
        0.0: {"embed.weight", "hidden.bias", "norm.weight", "norm.bias"},
    }


def test_a_tied_matrix_is_an_embedding_and_comes_once() -> None:
    model = TwoLayers()
    model.head = nn.Linear(6, 11, bias=False)
    model.head.weight = model.embed.weight
    assert _names(parameter_groups(model, 0.1)) == {
        0.1: {"hidden.weight"},
        0.0: {"embed.weight", "hidden.bias", "norm.weight", "norm.bias"},
    }


def test_groups_of_a_vision_language_model(tiny_data: Path, tmp_path: Path) -> None:
    model = prepare(tiny_recipe(tiny_data, tmp_path), Notices()).model
    groups = parameter_groups(model, 0.1)
    decays = _names(groups)[0.1]
    assert not [name for name in decays if "norm" in name or "bias" in name]
    tables = ("embed_tokens.weight", "position_embedding.weight")
    assert not [name for name in decays if name.endswith(tables)]
    assert any("patch_embedding.weight" in name for name in decays), "a picture's patches meet a matrix"
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(name for group in groups for name in group["names"]) == sorted(learning)
    assert not any(name.startswith("lm_head") for name in learning), "tied to the embeddings"


def test_a_frozen_parameter_is_bit_equal_even_with_gradients_of_zero() -> None:
    model = TwoLayers()
    model.hidden.requires_grad_(False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, Train(max_steps=1, weight_decay=0.1))
    step = Step(
        model, supervised_logits(model), optimizer, Precision("fp32", "cpu"), 1.0, 0, torch.device("cpu")
    )
    for parameter in model.hidden.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for number, window in enumerate(windows(0, 50), 1):
        step(window, number, 1e-2)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("hidden"), name


@pytest.mark.parametrize("frozen", ["vision_tower", "projector", "language_model"])
def test_what_is_frozen_stays_and_all_else_moves(frozen: str, tiny_data: Path, tmp_path: Path) -> None:
    mapping_model = {"freeze": [frozen]}
    recipe = tiny_recipe(tiny_data, tmp_path, model=mapping_model)
    prepared = prepare(recipe, Notices())
    model, examples = prepared.model.train(), prepared.splits["train"]
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, Train(max_steps=50, weight_decay=0.1))
    forward = SupervisedForward(model, prepared.ports.image)
    step = Step(model, forward, optimizer, prepared.precision, 1.0, 0, prepared.device)
    order = Order(examples.fingerprint, 0, 2, examples.lengths)
    for number, window in enumerate(data_windows(examples, order, 0, 50, 2, 0), 1):
        step(window, number, 1e-3)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    # a token that no text holds has no gradient in its row, but its matrix as a whole moves
    assert changed == learning
    assert prepared.facts()["parameters"][frozen]["trainable"] == 0
