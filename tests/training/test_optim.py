"""What decays, what is left alone, and what learns at all."""

from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_recipe
from torch import nn
from toys import TwoLayers, supervised_logits, windows

from finesight.config.train import Group, Train
from finesight.core.errors import ModelError
from finesight.data.loading.loader import windows as data_windows
from finesight.data.loading.order import Order
from finesight.models.forward import SupervisedForward
from finesight.runtime.notices import Notices
from finesight.training.optim import build_optimizer, parameter_groups
from finesight.training.precision import Precision
from finesight.training.state import optimizer_tensors, restore_optimizer
from finesight.training.step import Step
from finesight.workflows.prepare import prepare

TRAIN = Train(max_steps=1, weight_decay=0.1)


def _names(groups: list[dict[str, object]]) -> dict[float, set[str]]:
    return {float(group["weight_decay"]): set(group["names"]) for group in groups}


def test_matrices_decay_and_nothing_else() -> None:
    assert _names(parameter_groups(TwoLayers(), TRAIN)) == {
        0.1: {"hidden.weight", "head.weight"},
        0.0: {"embed.weight", "hidden.bias", "norm.weight", "norm.bias"},
    }


def test_a_tied_matrix_is_an_embedding_and_comes_once() -> None:
    model = TwoLayers()
    model.head = nn.Linear(6, 11, bias=False)
    model.head.weight = model.embed.weight
    assert _names(parameter_groups(model, TRAIN)) == {
        0.1: {"hidden.weight"},
        0.0: {"embed.weight", "hidden.bias", "norm.weight", "norm.bias"},
    }


def test_groups_of_a_vision_language_model(tiny_data: Path, tmp_path: Path) -> None:
    model = prepare(tiny_recipe(tiny_data, tmp_path), Notices()).model
    groups = parameter_groups(model, TRAIN)
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


def part_of(name: str) -> str:
    return "words" if name.startswith(("embed", "head")) else "middle"


def test_groups_have_rates_and_decays_of_their_own() -> None:
    groups = (
        Group(match="*.bias", weight_decay=0.5),
        Group(match="words", lr=1e-4),
        Group(match="hidden.*", lr=3e-3),
    )
    train = Train(max_steps=1, lr=1e-3, weight_decay=0.1, groups=groups)
    made = parameter_groups(TwoLayers(), train, part_of)
    found = {name: (group["share"], group["weight_decay"]) for group in made for name in group["names"]}
    assert found == {
        "embed.weight": (pytest.approx(0.1), 0.0),
        "head.weight": (pytest.approx(0.1), 0.1),
        "hidden.weight": (pytest.approx(3.0), 0.1),
        "hidden.bias": (1.0, 0.5),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.5),
    }


def test_a_group_that_matches_nothing_is_an_error() -> None:
    train = Train(max_steps=1, groups=(Group(match="words", lr=1.0), Group(match="vision_towr", lr=1.0)))
    with pytest.raises(ModelError, match="`vision_towr` matches nothing that learns") as caught:
        parameter_groups(TwoLayers(), train, part_of)
    assert caught.value.faults[0].where == "train.groups[1].match"
    assert "middle, words" in caught.value.faults[0].mend


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "adamw8bit"])
def test_rates_by_group_reach_the_optimizer(kind: str) -> None:
    """One step of a group at a tenth of the rate moves its weights a tenth as far as the same step at the full rate."""
    moved = {}
    for lr in (1e-2, 1e-3):
        torch.manual_seed(0)
        model = TwoLayers()
        before = model.head.weight.detach().clone()
        train = Train(
            max_steps=1, lr=1e-2, weight_decay=0.0, optimizer=kind, groups=(Group(match="head.*", lr=lr),)
        )
        step = Step(
            *(model, supervised_logits(model), build_optimizer(model, train), Precision("fp32", "cpu")),
            *(0.0, 0, torch.device("cpu")),
        )
        step(next(windows(0, 1)), 1, train.lr)
        moved[lr] = (model.head.weight - before).detach()
    assert moved[1e-2].abs().max() > 1e-4
    assert torch.allclose(10 * moved[1e-3], moved[1e-2], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["adafactor", "adamw8bit"])
def test_saved_and_restored_state_goes_on_to_the_bit(kind: str) -> None:
    def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        step = Step(
            *(model, supervised_logits(model), optimizer, Precision("fp32", "cpu"), 1.0, 0),
            torch.device("cpu"),
        )
        for number in numbers:
            step(next(windows(number, number + 1)), number, 1e-2)

    train = Train(max_steps=1, optimizer=kind)
    whole, half = TwoLayers(), TwoLayers()
    stepped(whole, build_optimizer(whole, train), range(1, 9))
    first = build_optimizer(half, train)
    stepped(half, first, range(1, 5))
    second = build_optimizer(half, train)
    restore_optimizer(second, optimizer_tensors(first), "here")
    stepped(half, second, range(5, 9))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, half.state_dict()[name]), name


def test_averages_in_8_bits_come_back_as_they_were() -> None:
    train = Train(max_steps=1, optimizer="adamw8bit")
    torch.manual_seed(0)
    one, other = nn.Linear(64, 128), nn.Linear(64, 128)
    other.load_state_dict(one.state_dict())

    def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for number in range(count):
            torch.manual_seed(number)
            model(torch.randn(4, 64)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    first, again = build_optimizer(one, train), build_optimizer(other, train)
    stepped(one, first, 3)
    stepped(other, again, 3)
    saved = optimizer_tensors(first)
    assert saved["weight/state1"].dtype == torch.uint8
    second = build_optimizer(one, train)
    restore_optimizer(second, saved, "here")
    stepped(one, second, 3)
    stepped(other, again, 3)
    assert torch.equal(one.weight, other.weight)
