"""One update against the definition, written out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_recipe
from toys import TwoLayers, make_batch, recording_step, relative, supervised_logits, windows

from finesight.config.train import Train
from finesight.core.batch import IGNORE
from finesight.core.errors import TrainingError
from finesight.data.loading.loader import windows as data_windows
from finesight.data.loading.order import Order
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.runtime.notices import Notices
from finesight.training.optim import build_optimizer
from finesight.training.precision import Precision
from finesight.training.step import Step, evaluating, mean_loss
from finesight.workflows.prepare import prepare

CPU = torch.device("cpu")


def _by_hand(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−log p of every valid target, one after another."""
    total = torch.zeros((), dtype=logits.dtype)
    for row in range(targets.shape[0]):
        for position in range(targets.shape[1]):
            target = int(targets[row, position])
            if target != IGNORE:
                scores = logits[row, position]
                total = (
                    total + torch.log(torch.exp(scores - scores.max()).sum()) + scores.max() - scores[target]
                )
    return total


def test_loss_and_gradients_of_two_layers_equal_the_sum_written_by_hand() -> None:
    model = TwoLayers().double()
    window = next(windows(0, 1, micro=3))
    step, recorder = recording_step(model, supervised_logits(model))
    result = step(window, 1, 0.1)
    count = sum(int((batch.targets != IGNORE).sum()) for batch in window)
    loss = sum(_by_hand(model(batch.inputs["input_ids"]), batch.targets) for batch in window) / count
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-10)
    assert relative(recorder.seen, list(expected)) <= 1e-10
    assert result.grad_norm == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in expected)), rel=1e-10)


def test_loss_and_gradients_of_a_llava_equal_the_sum_written_by_hand(tiny_data: Path, tmp_path: Path) -> None:
    prepared = prepare(tiny_recipe(tiny_data, tmp_path), Notices())
    model, examples = prepared.model.double().eval(), prepared.splits["train"]
    order = Order(examples.fingerprint, 0, 6, examples.lengths)
    window = next(data_windows(examples, order, 0, 1, 4, 0))
    assert [len(batch.ids) for batch in window] == [4, 2]
    step, recorder = recording_step(model, SupervisedForward(model, prepared.ports.image))
    result = step(window, 1, 0.1)
    count, loss = sum(batch.supervised for batch in window), torch.zeros((), dtype=torch.float64)
    for batch in window:
        logits = model(**float_pictures(batch.inputs, prepared.ports.image)).logits
        loss = loss + _by_hand(logits, batch.targets) / count
    learning = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss, learning)
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-10)
    assert relative(recorder.seen, list(expected)) <= 1e-10


def _accumulated(
    model: TwoLayers | object, forward: object, parts: list[tuple]
) -> list[tuple[float, list[torch.Tensor]]]:
    step, recorder = recording_step(model, forward)
    found = []
    for number, window in enumerate(parts, 1):
        loss = step(window, number, 0.1).loss
        found.append((loss, recorder.seen))
    return found


# RELIABILITY's measured spread: 2e-7 in fp32, 5e-16 in fp64; a mean of means is off by 0.45
@pytest.mark.proof
@pytest.mark.parametrize(("dtype", "gate"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_accumulation_changes_nothing(
    dtype: torch.dtype, gate: float, tiny_data: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tiny_data, tmp_path, data={"transforms": {}})
    prepared = prepare(recipe, Notices())
    model, examples = prepared.model.to(dtype).eval(), prepared.splits["train"]  # 32 rows
    order = Order(examples.fingerprint, 0, 9, examples.lengths)  # without sorting: ragged; 9 + 9 + 9 + 5
    assert order.steps_per_epoch == 4
    forward = SupervisedForward(model, prepared.ports.image)
    found = {
        micro: _accumulated(model, forward, list(data_windows(examples, order, 0, 5, micro, 0)))
        for micro in (9, 5, 4, 2, 1)
    }
    for micro, steps in found.items():
        for (loss, gradients), (whole_loss, whole) in zip(steps, found[9], strict=True):
            assert loss == pytest.approx(whole_loss, rel=min(gate, 1e-6)), micro
            assert relative(gradients, whole) <= gate, micro


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_leaves_the_weights_alone(bad: float) -> None:
    model = TwoLayers()
    optimizer = build_optimizer(model, Train(max_steps=1))
    step = Step(model, supervised_logits(model), optimizer, Precision("fp32", "cpu"), 1.0, 0, CPU)
    step(next(windows(0, 1)), 1, 0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = step._forward
    step._forward = lambda batch: plain(batch) * (bad if batch.ids[0].startswith("s101") else 1)
    with pytest.raises(TrainingError) as caught:
        step(next(windows(1, 2)), 2, 0.01)
    told = str(caught.value)
    assert "step 2" in told
    assert "s101-0" in told
    assert "train.lr" in told
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    step._forward = plain
    assert math.isfinite(step(next(windows(2, 3)), 2, 0.01).loss), "no gradient of the refused step is left"


def test_a_gradient_that_is_no_number_leaves_the_weights_alone() -> None:
    model = TwoLayers()
    optimizer = build_optimizer(model, Train(max_steps=1))
    step = Step(model, supervised_logits(model), optimizer, Precision("fp32", "cpu"), 1.0, 0, CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    handle = model.hidden.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="gradient norm"):
        step(next(windows(0, 1)), 1, 0.01)
    handle.remove()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_clipping_scales_all_gradients_together() -> None:
    model, window = TwoLayers(), next(windows(0, 1))
    free, recorder = recording_step(model, supervised_logits(model))
    norm = free(window, 1, 0.1).grad_norm
    whole = recorder.seen
    clipped, recorder = recording_step(model, supervised_logits(model), clip=norm / 3)
    assert clipped(window, 1, 0.1).grad_norm == norm, "what is told is the norm before clipping"
    assert relative([gradient * 3 for gradient in recorder.seen], whole) < 1e-5
    loose, recorder = recording_step(model, supervised_logits(model), clip=norm * 3)
    loose(window, 1, 0.1)
    assert relative(recorder.seen, whole) < 1e-7


def test_dropout_depends_on_seed_and_step_alone() -> None:
    def losses(seed: int, noise: int, numbers: range) -> list[float]:
        torch.manual_seed(noise)
        model = TwoLayers(dropout=0.5).train()
        step, _ = recording_step(model, supervised_logits(model))
        step._seed = seed
        return [step((make_batch(1),), number, 0.1).loss for number in numbers]

    assert losses(1, 1, range(1, 6)) == losses(1, 2, range(1, 6))
    assert losses(1, 1, range(3, 6)) == losses(1, 1, range(1, 6))[2:]
    assert losses(1, 1, range(1, 6)) != losses(2, 1, range(1, 6))
    assert len(set(losses(1, 1, range(1, 6)))) == 5


def test_mean_loss_weighs_tokens_alike_and_restores_every_mode() -> None:
    model = TwoLayers(dropout=0.5).train()
    model.norm.eval()
    modes = [part.training for part in model.modules()]
    batches = [make_batch(1, rows=1), make_batch(2, rows=3, length=9)]
    found = mean_loss(model, supervised_logits(model), batches, Precision("fp32", "cpu"), CPU)
    assert [part.training for part in model.modules()] == modes
    assert torch.is_grad_enabled()
    with evaluating(model):
        assert not torch.is_grad_enabled()
        sums = [float(_by_hand(model(batch.inputs["input_ids"]), batch.targets)) for batch in batches]
    assert found == pytest.approx(sum(sums) / sum(batch.supervised for batch in batches), rel=1e-6)


def test_modes_come_back_after_an_error() -> None:
    model = TwoLayers().train()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training
    assert torch.is_grad_enabled()


def test_a_batch_keeps_its_identity_on_another_device() -> None:
    batch = make_batch(3)
    assert replace(batch.to("cpu"), inputs={}, targets=batch.targets) == replace(batch, inputs={})
