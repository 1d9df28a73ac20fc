"""Arithmetic and memory of a pass against sums by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from finesight.planner.flops import counting
from finesight.planner.memory import Activations, static_memory

ROWS, WIDE, INNER = 5, 8, 16


class Two(nn.Module):
    """Matrices, the first of a tower; two in between may be computed again, of which the second need not be."""

    def __init__(self, frozen: bool, again: bool = False) -> None:
        super().__init__()
        self.vision_tower = nn.Linear(WIDE, INNER, bias=False).requires_grad_(not frozen)
        self.language = nn.Sequential(*(nn.Linear(INNER, INNER, bias=False) for _ in range(2)))
        self.head = nn.Linear(INNER, WIDE, bias=False)
        self.again = again

    def forward(self, values: Tensor) -> Tensor:
        seen = self.vision_tower(values)
        inner: Any = (
            checkpoint(self.language, seen, use_reentrant=False) if self.again else self.language(seen)
        )
        found: Tensor = self.head(inner)
        return found


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed-again"])
@pytest.mark.parametrize("frozen", [False, True], ids=["all-learns", "frozen-tower"])
def test_matrix_products_are_counted_once(frozen: bool, again: bool) -> None:
    model = Two(frozen, again)
    with counting() as counted:
        model(torch.ones(ROWS, WIDE)).sum().backward()
    tower, language, head = (2 * ROWS * a * b for a, b in ((WIDE, INNER), (INNER, INNER), (INNER, WIDE)))
    # forward; gradients of weights; gradients of what goes in, which only what learns below it needs
    forward, weights, inputs = tower + 2 * language + head, 2 * language + head, language + head
    expected = forward + weights + inputs
    expected += 0 if frozen else tower + language
    assert counted.flops == expected


def test_attention_on_a_cpu_is_counted() -> None:
    query, key, value = (torch.ones(2, 3, 7, 8, requires_grad=True) for _ in range(3))
    with counting() as counted:
        scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()
    product = 2 * 2 * 3 * 7 * 7 * 8
    assert counted.flops == 2 * product + 5 * product


@pytest.mark.parametrize("bits", [4, 8])
def test_products_with_quantised_weights_are_counted(bits: int) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    made = {
        4: lambda: bitsandbytes.nn.Linear4bit(
            64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4"
        ),
        8: lambda: bitsandbytes.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False),
    }[bits]()
    model = nn.Sequential(nn.Linear(64, 64, bias=False), made.requires_grad_(False)).to("cpu")
    with counting() as counted:
        model(torch.ones(ROWS, 64)).sum().backward()
    # forward of both, the gradient of the one that learns, and that of what the other was given
    assert counted.flops == 2 * ROWS * 64 * (64 + 32 + 64 + 32)


def test_nothing_counted_is_said() -> None:
    with counting() as counted:
        torch.ones(3) + 1
    assert (counted.flops, counted.why) == (None, "torch counted no operation")


def part_of(name: str) -> str:
    return "vision_tower" if name.startswith("vision_tower") else "language_model"


def test_static_memory_is_the_tensors_own() -> None:
    model = Two(frozen=True)
    model.language.to(torch.bfloat16)
    model.tied = model.head  # type: ignore[assignment]
    memory = static_memory(model, part_of, state_bytes=8)
    assert memory.weights == {
        "vision_tower": 4 * WIDE * INNER,
        "language_model": 2 * 2 * INNER * INNER + 4 * INNER * WIDE,
    }
    assert memory.gradients == {"language_model": memory.weights["language_model"]}
    assert memory.optimizer == {"language_model": 8 * (2 * INNER * INNER + INNER * WIDE)}


def test_the_optimizer_s_own_state() -> None:
    model = Two(frozen=False)
    groups: list[dict[str, Any]] = [
        {"params": list(model.parameters()), "names": [name for name, _ in model.named_parameters()]}
    ]
    optimizer = torch.optim.AdamW(groups)
    model(torch.ones(ROWS, WIDE)).sum().backward()
    optimizer.step()
    memory = static_memory(model, part_of, optimizer)
    counters = 4  # bytes of a step's number, which AdamW keeps for each tensor
    assert memory.optimizer == {
        "vision_tower": 2 * 4 * WIDE * INNER + counters,
        "language_model": 2 * 4 * (2 * INNER * INNER + INNER * WIDE) + 3 * counters,
    }


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed-again"])
@pytest.mark.parametrize("frozen", [False, True], ids=["all-learns", "frozen-tower"])
def test_activations_are_what_the_backward_pass_needs(frozen: bool, again: bool) -> None:
    model = Two(frozen, again)
    points = [("language_model", model), ("vision", model.vision_tower), ("head", model.head)]
    kept = Activations(model)
    with kept.watching(points):
        loss = model(torch.ones(ROWS, WIDE)).square().sum()
    loss.backward()
    kept.next_micro_batch()
    # a matrix that learns keeps what went into it; the square keeps what it squared
    expected = {"head": 4 * ROWS * INNER + 4 * ROWS * WIDE}
    expected |= {} if frozen else {"vision": 4 * ROWS * WIDE}
    # of what is computed again, what goes into it
    expected |= {"language_model": (1 if again else 2) * 4 * ROWS * INNER}
    assert dict(kept.most) == expected
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_the_largest_micro_batch_counts() -> None:
    model = Two(frozen=True)
    kept = Activations(model)
    for rows in (2, 6, 3):
        with kept.watching([("language_model", model)]):
            logits = model(torch.ones(rows, WIDE))
            loss = logits.square().sum()
        kept.see_logits(logits)
        loss.backward()
        kept.next_micro_batch()
    assert kept.logits == 4 * 6 * WIDE
    assert kept.most.total() == 4 * 6 * (3 * INNER + WIDE)
