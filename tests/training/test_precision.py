import pytest
import torch
from pydantic import ValidationError
from toys import TwoLayers, supervised_logits, windows

from finesight.config.train import Train
from finesight.core.errors import ModelError
from finesight.runtime.notices import Notices
from finesight.training.optim import build_optimizer
from finesight.training.precision import Precision, choose_precision
from finesight.training.step import Step


def test_fp16_on_a_cpu_falls_back_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    for _ in range(2):
        assert choose_precision("fp16", "cpu", notices) == Precision("bf16", "cpu")
    assert [(row["kind"], row["count"]) for row in notices.rows()] == [("fallback", 2)]
    assert caplog.text.count("fp16 is not for CPUs") == 1


@pytest.mark.parametrize(("asked", "given"), [("auto", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")])
def test_what_a_cpu_can_do_is_given_without_a_word(asked: str, given: str) -> None:
    notices = Notices()
    assert choose_precision(asked, "cpu", notices).name == given
    assert not notices.rows()


def test_bf16_without_the_hardware_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    notices = Notices()
    assert choose_precision("bf16", "cuda", notices).name == "fp32"
    assert choose_precision("auto", "cuda", notices).name == "fp32"
    assert [row["kind"] for row in notices.rows()] == ["fallback"]


def test_bf16_computes_in_bf16_and_keeps_weights_gradients_and_state_in_fp32() -> None:
    model, seen = TwoLayers(), []
    optimizer = build_optimizer(model, Train(max_steps=1))
    model.head.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    step = Step(
        model, supervised_logits(model), optimizer, Precision("bf16", "cpu"), 1.0, 0, torch.device("cpu")
    )
    losses = [step(window, number, 1e-2).loss for number, window in enumerate(list(windows(0, 1)) * 30, 1)]
    assert set(seen) == {torch.bfloat16}
    assert losses[-1] < losses[0] / 2
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {value.dtype for state in optimizer.state.values() for value in state.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_learn_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    """T25: at 1 they would stay as they are; frozen ones may be in any numbers."""
    model = TwoLayers().to(dtype)
    with pytest.raises(ModelError, match="6 tensors that learn are held in half precision") as caught:
        build_optimizer(model, Train(max_steps=1))
    assert "embed.weight" in str(caught.value) and "hold weights in fp32" in str(caught.value)
    for name, value in model.named_parameters():
        value.requires_grad_(name == "head.weight")
    model.head.float()
    assert len(build_optimizer(model, Train(max_steps=1)).param_groups) == 1


@pytest.mark.parametrize("said", ["bfloat16", "bf16-true", "pure_bf16"])
def test_no_recipe_asks_for_weights_in_half_precision(said: str) -> None:
    with pytest.raises(ValidationError, match="'auto', 'fp32', 'bf16' or 'fp16'"):
        Train(max_steps=1, precision=said)


def test_small_steps_are_not_lost_in_bf16() -> None:
    model = TwoLayers()
    with torch.no_grad():
        model.norm.weight.fill_(1.0)
    before = model.norm.weight.clone()
    optimizer = build_optimizer(model, Train(max_steps=1))
    step = Step(
        model, supervised_logits(model), optimizer, Precision("bf16", "cpu"), 1.0, 0, torch.device("cpu")
    )
    for number, window in enumerate(windows(0, 20), 1):
        step(window, number, 1e-4)  # far below bf16's spacing of 2⁻⁸ at 1
    assert float((model.norm.weight - before).detach().abs().max()) > 1e-4
