"""Packed rows against their samples alone: windows, caps, recomputed activations, adapters, and who is refused."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from torch import Tensor, nn

from finesight.core.batch import IGNORE, Example
from finesight.core.errors import ModelError
from finesight.data.loading.collate import collate, collate_packed
from finesight.models import packing, varlen
from finesight.models.forward import SupervisedForward
from finesight.models.recompute import checkpoint_activations
from finesight.training.precision import Precision
from finesight.training.step import loss_sum
from finesight.workflows.packed import ensure_packs

SMALL: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
CPU = torch.device("cpu")
FP32 = Precision("fp32", "cpu")

CONFIGS = {
    "llama": lambda: t.LlamaConfig(**SMALL),
    "mistral": lambda: t.MistralConfig(**SMALL, sliding_window=4),
    "gemma2": lambda: t.Gemma2Config(**SMALL, head_dim=8, sliding_window=4, attn_logit_softcapping=2.0),
}


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # larger than a fresh model's, so that what is seen makes a difference
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.2 / parameter.std())
    return model.eval()


def examples(*lengths: int) -> list[Example]:
    draw = np.random.default_rng(1)
    made = []
    for number, length in enumerate(lengths):
        tokens = draw.integers(1, 90, length).astype(np.int32)
        targets = np.append(tokens[1:], 7).astype(np.int32)
        targets[: length // 2] = IGNORE
        made.append(Example(f"s{number}", tokens, targets))
    return made


def gradients(model: Any, batches: list[Any]) -> dict[str, Tensor]:
    forward = SupervisedForward(model, None)
    for batch in batches:
        loss_sum(forward(batch), batch.targets).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        (one[name] - other[name]).abs().max() <= 1e-5 * max(1.0, other[name].abs().max()) for name in one
    )


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(CONFIGS[request.param]())


SOME = examples(9, 3, 14, 1, 5)


def test_packed_is_alone(model: Any) -> None:
    forward = SupervisedForward(model, None)
    before = model.config._attn_implementation
    assert ensure_packs(model, forward, SOME, 0, FP32, CPU) <= 1e-5
    assert forward.packed_rows.routes == {"segments"}
    assert model.config._attn_implementation == before, "other batches are computed as before"
    with torch.no_grad():
        packed = forward(collate_packed(SOME))
        padded = torch.cat([forward(collate([one], 0)) for one in SOME])
        dense = forward(collate(SOME, 0))
    assert (packed - padded).abs().max() <= 1e-5
    assert (packed - dense).abs().max() <= 1e-5


def test_gradients_of_recomputed_layers(model: Any) -> None:
    alone = gradients(model, [collate([one], 0) for one in SOME])
    packed = gradients(model, [collate_packed(SOME)])
    assert same(packed, alone)
    model.train()
    checkpoint_activations(model)
    try:
        again = gradients(model, [collate_packed(SOME)])
    finally:
        model.activation_checkpointing_disable()
        model.eval()
    assert same(again, packed)


def test_adapters() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with warnings.catch_warnings():  # of peft, about names of transformers
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model_of(CONFIGS["llama"]()), settings).eval()
    inner = wrapped.base_model.model
    packed = gradients(inner, [collate_packed(SOME)])
    assert len(packed) == 2 * 2 * 2 and all(gradient.abs().max() > 0 for gradient in packed.values())
    assert same(packed, gradients(inner, [collate([one], 0) for one in SOME]))


def test_the_model_is_left_as_it_was_after_an_error(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    before = model.config._attn_implementation
    monkeypatch.setattr(packing, "sdpa_attention_forward", fails)
    monkeypatch.setattr(packing, "_capped", fails)
    with pytest.raises(ModelError, match=r"it cannot compute such a row \(RuntimeError: no\)"):
        ensure_packs(model, SupervisedForward(model, None), SOME, 0, FP32, CPU)
    assert model.config._attn_implementation == before


# refusals


def test_who_sees_across_boundaries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = model_of(CONFIGS["llama"]())
    # as if the family had an attention of its own
    for interface in (packing.AttentionInterface, packing.AttentionMaskInterface):
        monkeypatch.setattr(interface, "register", lambda *_: None)
    monkeypatch.setattr(packing, "NAME", "sdpa")
    with pytest.raises(ModelError, match="packed for a `llama`: a sample's loss differs by") as caught:
        ensure_packs(llama, SupervisedForward(llama, None), SOME, 0, FP32, CPU)
    assert caught.value.faults[0].where == "train.packing"
    assert "train.packing: false" in caught.value.faults[0].mend


def test_who_carries_a_state_along_the_row_is_refused() -> None:
    config = t.Lfm2Config(**SMALL, full_attn_idxs=[1], block_auto_adjust_ff_dim=False)
    model = model_of(config)
    with pytest.raises(ModelError, match="samples cannot be packed for a `lfm2`: a sample's loss differs by"):
        ensure_packs(model, SupervisedForward(model, None), SOME, 0, FP32, CPU)


def test_what_is_not_known_is_refused() -> None:
    row = packing._Row((0, 3, 5), t.LlamaConfig(**SMALL), set())
    module, query = nn.Module(), torch.zeros(1, 4, 5, 8)
    with packing._Open(row):
        for wrong in (
            {"attention_mask": torch.zeros(1, 1, 5, 5)},
            {"attention_mask": None, "s_aux": torch.zeros(4)},
            {"attention_mask": None, "position_bias": torch.zeros(1, 4, 5, 5)},
        ):
            with pytest.raises(ModelError, match="samples cannot be packed for a `llama`"):
                packing.attend(module, query, query, query, **wrong)
        with pytest.raises(ModelError, match="it attends to more than its row"):
            packing.attend(module, query, torch.zeros(1, 4, 6, 8), torch.zeros(1, 4, 6, 8), None)
        chunked = t.LlamaConfig(**SMALL, attention_chunk_size=2)
        with pytest.raises(ModelError, match="it attends within chunks"):
            packing.masks_of(
                q_length=5, kv_length=5, mask_function=min, local_size=2, config=chunked, device=CPU
            )


# NVIDIA GPUs: which attention is chosen, and how the kernel is called


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "route"),
    [
        ("cpu", torch.bfloat16, (9, 0), "segments"),
        ("cuda", torch.float32, (9, 0), "segments"),
        ("cuda", torch.bfloat16, (7, 5), "segments"),
        ("cuda", torch.bfloat16, (8, 0), "varlen"),
        ("cuda", torch.float16, (9, 0), "varlen"),
        ("mps", torch.float16, (9, 0), "segments"),
    ],
)
def test_the_kernel_is_chosen_where_it_works(
    device: str, dtype: torch.dtype, capability: tuple[int, int], route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert varlen.route_of(torch.device(device), dtype) == route
    monkeypatch.setattr(varlen, "_kernel_known", lambda: False)  # of an older torch
    assert varlen.route_of(torch.device(device), dtype) == "segments"


KERNEL_SAW: set[torch.dtype] = set()


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begin: Tensor,
    begin_too: Tensor,
    most: int,
    most_too: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What torch's documentation says of `varlen_attn`, one token after another."""
    assert (
        begin.dtype == torch.int32
        and torch.equal(begin, begin_too)
        and most == most_too == begin.diff().max()
    )
    assert query.shape[0] == key.shape[0] == begin[-1] and window_size[1] == 0
    assert query.dtype == key.dtype == value.dtype
    KERNEL_SAW.add(query.dtype)
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    made = torch.zeros_like(query)
    for first, end in zip(begin.tolist(), begin.tolist()[1:], strict=False):
        for at in range(first, end):
            oldest = first if window_size[0] < 0 else max(first, at - window_size[0])
            seen = slice(oldest, at + 1)
            keys, values = (one[seen].repeat_interleave(groups, 1) for one in (key, value))
            scores = torch.einsum("hd,khd->hk", query[at], keys) * (
                query.shape[-1] ** -0.5 if scale is None else scale
            )
            made[at] = torch.einsum("hk,khd->hd", scores.softmax(-1), values)
    return made


@pytest.fixture
def with_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.nn.attention.varlen as torchs

    monkeypatch.setattr(packing, "can_varlen", lambda *_: True)
    monkeypatch.setattr(torchs, "varlen_attn", kernel)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_the_kernel_is_called_as_it_wants(name: str, with_kernel: None) -> None:
    model = model_of(CONFIGS[name]())
    forward = SupervisedForward(model, None)
    assert ensure_packs(model, forward, SOME, 0, FP32, CPU) <= 1e-5
    assert forward.packed_rows.routes == (
        {"segments"} if name == "gemma2" else {"varlen"}
    )  # which caps scores
    KERNEL_SAW.clear()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        forward(collate_packed(SOME))
    assert (set() if name == "gemma2" else {torch.bfloat16}) == KERNEL_SAW
    drops = model_of(t.LlamaConfig(**SMALL, attention_dropout=0.5)).train()
    forward = SupervisedForward(drops, None)
    forward(collate_packed(SOME))
    assert forward.packed_rows.routes == {"segments"}
