"""Rows that nothing is learned from are left out without changing what is learned."""

import warnings
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from finesight.core.batch import IGNORE, Batch
from finesight.models import forward
from finesight.models.forward import SupervisedForward

TOKENS, PICTURE = 4, 1
SIZES = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
TEXTS = MappingProxyType({"llama": LlamaConfig, "qwen2": Qwen2Config, "mistral": None})


def model(family: str, tied: bool) -> LlavaForConditionalGeneration:
    from transformers import MistralConfig

    text = TEXTS[family] or MistralConfig
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            image_size=8, patch_size=4, num_hidden_layers=1, num_attention_heads=2, hidden_size=16,
            intermediate_size=32, vision_use_head=False,
        ),
        text_config=text(**SIZES, hidden_size=16, intermediate_size=32, tie_word_embeddings=tied),
        image_token_index=PICTURE, image_seq_length=TOKENS, vision_feature_select_strategy="full",
        vision_feature_layer=-1, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(3)
    return LlavaForConditionalGeneration(config).double().train()


def batch() -> Batch:
    """Three examples of unlike length, one of them answered twice."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(2, 40, (3, 14), generator=generator)
    tokens[:, 1 : 1 + TOKENS] = PICTURE
    mask = torch.ones_like(tokens)
    targets = torch.full_like(tokens, IGNORE)
    for row, (length, spans) in enumerate(((14, ((9, 13),)), (10, ((6, 8),)), (12, ((5, 7), (9, 11))))):
        mask[row, length:], tokens[row, length:] = 0, 0
        for first, last in spans:
            targets[row, first:last] = tokens[row, first + 1 : last + 1]
    pixels = torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    inputs = {"input_ids": tokens, "attention_mask": mask, "pixel_values": pixels}
    return Batch(("a", "b", "c"), inputs, targets, int((targets != IGNORE).sum()), int(mask.sum()))


def learned(
    net: LlavaForConditionalGeneration, logits: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    net.zero_grad()
    loss = cross_entropy(logits, targets[targets != IGNORE], reduction="sum")
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", TEXTS)
def test_loss_and_gradients_are_those_of_the_whole_model(family: str, tied: bool) -> None:
    net, items = model(family, tied), batch()
    whole = net(**items.inputs, use_cache=False).logits[items.targets != IGNORE]
    loss, gradients = learned(net, whole, items.targets)
    ours = SupervisedForward(net, None)(items)
    assert ours.shape == (items.supervised, 40)
    our_loss, our_gradients = learned(net, ours, items.targets)
    assert float(abs(our_loss - loss)) <= 1e-12 * float(loss)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=0, atol=1e-12, msg=name)


def test_the_model_is_left_as_it_was() -> None:
    net, items = model("llama", True), batch()
    before = net(**items.inputs, use_cache=False).logits
    SupervisedForward(net, None)(items)
    assert torch.equal(net(**items.inputs, use_cache=False).logits, before)
    assert not any(part._forward_pre_hooks for part in net.modules())


def test_the_last_layer_computes_supervised_rows_alone() -> None:
    net, items = model("llama", True), batch()
    seen: list[tuple[int, ...]] = []
    for layer in net.model.language_model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0].shape)))
    SupervisedForward(net, None)(items)
    assert seen == [(3, 14, 16), (1, items.supervised, 16)]


@pytest.mark.parametrize("why", ["unknown layer", "checkpointed"])
def test_elsewhere_the_rows_are_selected_before_the_head(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, items = model("llama", True), batch()
    whole = net(**items.inputs, use_cache=False).logits[items.targets != IGNORE]
    loss, gradients = learned(net, whole, items.targets)
    if why == "unknown layer":
        monkeypatch.setattr(forward, "_PRE_NORM_LAYERS", ())
    else:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # its new name is younger than the oldest transformers we take
            net.gradient_checkpointing_enable({"use_reentrant": False})
    our_loss, our_gradients = learned(net, SupervisedForward(net, None)(items), items.targets)
    assert float(abs(our_loss - loss)) <= 1e-12 * float(loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=0, atol=1e-12, msg=name)


class _Asked(TorchDispatchMode):
    """The operations for which a GPU would have to finish what it has first, and where the model's own begin."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = str(operation).split(".")[1]
        if name in ("embedding", "nonzero", "masked_select"):
            self.seen.append(name)
        assert name != "index" or all(
            one is None or one.dtype != torch.bool for one in arguments[1]
        )  # a mask is looked for then and there
        return operation(*arguments, **(named or {}))


def test_a_gpu_is_asked_before_the_forward_pass_alone() -> None:
    torch.manual_seed(3)
    made = LlamaForCausalLM(LlamaConfig(**SIZES, hidden_size=16, intermediate_size=32))
    tokens = torch.randint(2, 40, (2, 6))
    targets = torch.where(torch.arange(6) > 2, tokens, IGNORE)
    batch = Batch(
        ("a", "b"), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, targets, 6, 12
    )
    for last in (True, False):  # rows are left out in the last layer, or before the head
        step = SupervisedForward(made, None)
        if not last:
            step._last = None
        with _Asked() as asked:
            logits = step(batch)
        assert logits.shape == (6, 40)
        assert asked.seen == ["nonzero", "embedding"]
