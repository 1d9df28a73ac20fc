"""Scheduled sampling: a plain loop's two passes, and choices that depend on nothing but the sample, the step and the
place."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from heads import V, batch_for, captioner, llama, t5
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finesight.config.sampling import ScheduledSampling
from finesight.config.train import Train
from finesight.core.batch import IGNORE, Batch
from finesight.models.forward import SupervisedForward
from finesight.training.precision import Precision
from finesight.training.sampling import Sampling, drawn, ratio_of
from finesight.training.step import Step

END, PICTURE, PAD = 2, 5, 0
FIXED = (PAD, 1, END, PICTURE)
FP32 = Precision("fp32", "cpu")
FAMILIES = {"decoder": lambda: llama(True), "encoder–decoder": lambda: t5(True), "captioner": captioner}


class Kept(torch.optim.SGD):
    """Keeps a step's gradients and changes nothing."""

    def step(self, closure: Any = None) -> None:
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def sampling(net: nn.Module, ratio: float, seed: int = 3) -> Sampling:
    forward = SupervisedForward(net, None)
    return Sampling(
        net, lambda batch, allowed: allowed(forward(batch)).argmax(-1), FP32, lambda _: ratio, seed, FIXED
    )


def stepped(net: nn.Module, window: list[Batch], ratio: float, number: int = 7) -> tuple[float, list[Tensor]]:
    net.zero_grad()
    optimizer = Kept([p for p in net.parameters() if p.requires_grad], lr=0.1)
    step = Step(
        *(net, SupervisedForward(net, None), optimizer, FP32, 0.0, 3, torch.device("cpu")),
        feed=sampling(net, ratio),
    )
    return step(window, number, 0.1).loss, optimizer.seen


def answered(net: nn.Module) -> Batch:
    """A batch with what must stay in it: an end within an answer, and one whose input is not its target."""
    batch = batch_for(net, torch.float32)
    name = "decoder_input_ids" if "decoder_input_ids" in batch.inputs else "input_ids"
    tokens, targets = batch.inputs[name].clone(), batch.targets.clone()
    tokens[1, 6] = targets[1, 5] = END
    tokens[2, 5] = 9
    targets[2, 4] = 8
    targets[2, -1] = END  # whose input is not there
    inputs = {**batch.inputs, name: tokens}
    return replace(batch, inputs=inputs, targets=targets, supervised=int((targets != IGNORE).sum()))


def by_hand(net: Any, batch: Batch, ratio: float, number: int) -> tuple[float, list[Tensor], Tensor]:
    """Two passes as anybody would write them with `transformers`, one place after another."""
    name = "decoder_input_ids" if "decoder_input_ids" in batch.inputs else "input_ids"
    true, width = batch.inputs[name], batch.targets.shape[1]
    fed = true.clone()
    net.eval()
    with torch.no_grad():
        logits = net(**batch.inputs, use_cache=False).logits[:, -width:]
    for row, sample in enumerate(batch.ids):
        for place in range(1, width):
            wanted = int(batch.targets[row, place - 1])
            if wanted == IGNORE or wanted != int(true[row, place]) or wanted in FIXED:
                continue
            if drawn(3, number, [sample], [0], width)[0, place] >= ratio:
                scores = logits[row, place - 1].tolist()
                fed[row, place] = max((i for i in range(V) if i not in FIXED), key=scores.__getitem__)
    net.zero_grad()
    logits = net(**{**batch.inputs, name: fed}, use_cache=False).logits[:, -width:]
    loss = cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum") / batch.supervised
    loss.backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.requires_grad]
    return float(loss.detach()), gradients, fed


@pytest.fixture(scope="module", params=FAMILIES)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(6)
    made = FAMILIES[request.param]()
    with torch.no_grad():  # fresh models say the same everywhere: make them differ, and want a picture
        for value in made.parameters():
            value.mul_(3)
    return made.eval()


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_it_is_a_plain_loop_of_two_passes(net: nn.Module, ratio: float) -> None:
    batch = answered(net)
    loss, gradients, fed = by_hand(net, batch, ratio, 7)
    ours, our_gradients = stepped(net, [batch], ratio)
    assert ours == pytest.approx(loss, rel=1e-6)
    whole = math.sqrt(sum(float(g.norm()) ** 2 for g in gradients))
    off = math.sqrt(sum(float((a - b).norm()) ** 2 for a, b in zip(our_gradients, gradients, strict=True)))
    assert off <= 1e-6 * whole
    name = "decoder_input_ids" if "decoder_input_ids" in batch.inputs else "input_ids"
    found = sampling(net, ratio)(batch, 7)
    assert torch.equal(found.inputs[name], fed)
    assert found.targets is batch.targets
    changed = fed != batch.inputs[name]
    assert 3 < int(changed.sum()) <= batch.supervised - 2
    assert not torch.isin(fed[changed], torch.tensor(FIXED)).any()
    assert fed[1, 6] == END and fed[2, 5] == 9, "an end, and what is not the target, stay"
    assert ours != stepped(net, [batch], 1.0)[0]


def test_micro_batches_change_nothing(net: nn.Module) -> None:
    """A step of several micro-batches, in another order, is the step of one."""
    batch = answered(net)

    def rows(*chosen: int) -> Batch:
        index = list(chosen)
        inputs = {name: value[index] for name, value in batch.inputs.items()}
        targets = batch.targets[index]
        ids = tuple(batch.ids[row] for row in chosen)
        return Batch(ids, inputs, targets, int((targets != IGNORE).sum()), targets.numel())

    whole, gradients = stepped(net, [batch], 0.4)
    for parts in ([rows(0, 1), rows(2)], [rows(2), rows(1), rows(0)]):
        loss, ours = stepped(net, parts, 0.4)
        assert loss == pytest.approx(whole, rel=1e-6)
        norm = math.sqrt(sum(float(g.norm()) ** 2 for g in gradients))
        off = math.sqrt(sum(float((a - b).norm()) ** 2 for a, b in zip(ours, gradients, strict=True)))
        assert off <= 1e-6 * norm


def test_padding_on_the_left_changes_no_choice() -> None:
    net = llama(True).eval()
    batch = batch_for(net, torch.float32)

    def padded(tensor: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(tensor, (3, 0), value=value)

    inputs = {name: padded(value, 0) for name, value in batch.inputs.items()}
    left = replace(batch, inputs=inputs, targets=padded(batch.targets, IGNORE))
    chosen = sampling(net, 0.5)(batch, 4).inputs["input_ids"] != batch.inputs["input_ids"]
    found = sampling(net, 0.5)(left, 4).inputs["input_ids"] != inputs["input_ids"]
    assert chosen.any()
    assert torch.equal(found[:, 3:], chosen) and not found[:, :3].any()


def test_the_first_pass_draws_nothing_and_leaves_the_model_as_it_was() -> None:
    net = llama(True).train()
    net.model.norm.eval()
    net.model.layers[0].self_attn.config._attn_implementation = "eager"
    net.model.layers[0].self_attn.attention_dropout = 0.5
    batch = batch_for(net, torch.float32)
    modes = [part.training for part in net.modules()]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = sampling(net, 0.0)(batch, 1), sampling(net, 0.0)(batch, 1)
    assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in net.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in net.parameters())
    assert sampling(net, 1.0)(batch, 1) is batch


def test_choices_are_shares_of_the_places_and_differ_by_step_seed_sample_and_place() -> None:
    names = [f"row-{number}" for number in range(200)]
    numbers = drawn(1, 1, names, [0] * 200, 50)
    for ratio in (0.1, 0.5, 0.9):
        assert float((numbers >= ratio).mean()) == pytest.approx(1 - ratio, abs=0.015)
    again = [drawn(*key, names, [0] * 200, 50) for key in ((1, 2), (2, 1))]
    for other in (*again, np.roll(numbers, 1, 0), np.roll(numbers, 1, 1)):
        assert abs(float(np.corrcoef(numbers.ravel(), other.ravel())[0, 1])) < 0.03
    assert (drawn(1, 1, names[3:4], [0], 50) == numbers[3]).all()
    assert (drawn(1, 1, names[:1], [9], 50)[0, 9:] == numbers[0, :41]).all()


@pytest.mark.parametrize(
    ("said", "ratios"),
    [
        ({"ratio": 0.7}, {1: 0.7, 50: 0.7, 100: 0.7}),
        ({"shape": "linear", "to": 0.5}, {1: 1.0, 34: 1 - 0.5 * 33 / 99, 100: 0.5}),
        ({"shape": "linear", "ratio": 0.2, "to": 0.8, "over": 0.1}, {1: 0.2, 4: 0.4, 10: 0.8, 90: 0.8}),
        ({"shape": "linear", "to": 0.0, "over": 1}, {1: 1.0, 2: 0.0}),
        ({"shape": "cyclic", "to": 0.4, "period": 8}, {1: 1.0, 3: 0.7, 5: 0.4, 7: 0.7, 9: 1.0, 85: 0.4}),
    ],
)
def test_ratios_are_their_formulas(said: dict[str, Any], ratios: dict[int, float]) -> None:
    ratio = ratio_of(ScheduledSampling(**said), 100)
    for number, value in ratios.items():
        assert ratio(number) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "nothing is sampled"),
        ({"ratio": 1.2}, "less than or equal to 1"),
        ({"shape": "wave"}, "'constant', 'linear' or 'cyclic'"),
        ({"shape": "linear"}, "goes nowhere without `to`"),
        ({"shape": "cyclic", "to": 0.5}, "needs a `period`"),
        ({"ratio": 0.5, "period": 5}, "`period` is of `shape: cyclic`"),
        ({"ratio": 0.5, "to": 0.4}, "`to` is of `shape: linear or cyclic`"),
    ],
)
def test_wrong_settings_are_told(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ScheduledSampling(**said)


def test_packing_is_refused() -> None:
    with pytest.raises(ValidationError, match="`scheduled_sampling` and `packing` do not go together"):
        Train(max_steps=1, packing=True, scheduled_sampling={"ratio": 0.5})


def test_models_of_no_answer_are_left_alone() -> None:
    """Where no input is a supervised target (one token of an answer), nothing can be replaced."""
    net = copy.deepcopy(llama(True)).eval()
    batch = batch_for(net, torch.float32)
    targets = torch.full_like(batch.targets, IGNORE)
    targets[:, -1] = 7
    alone = replace(batch, targets=targets, supervised=3)
    found = sampling(net, 0.0)(alone, 1)
    assert torch.equal(found.inputs["input_ids"], batch.inputs["input_ids"])
