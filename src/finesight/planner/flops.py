"""The arithmetic of a forward and backward pass, counted by torch operator by operator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *more: Any, **named: Any) -> int:
    """By shapes; whether it is causal is not looked at, as torch does not."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(above: Any, query: Any, key: Any, value: Any, *more: Any, **named: Any) -> int:
    return int(sdpa_backward_flop_count(above, query, key, value))  # type: ignore[no-untyped-call]


_CPU_ATTENTION: Mapping[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Attention on CPUs, which torch counts on GPUs alone; by its own formulas."""


def _in_few_bits(rows: torch.Tensor, width: int) -> int:
    """A product of rows (…, K) with a quantised matrix (width, K)."""
    return 2 * rows.numel() * width


_QUANTISED: Mapping[str, Callable[[Sequence[Any]], int]] = {
    "bitsandbytes.gemm_4bit": lambda given: _in_few_bits(given[0], given[2][0]),
    "bitsandbytes.int8_linear_matmul": lambda given: _in_few_bits(given[0], given[1].shape[0]),
    "bitsandbytes.int8_scaled_mm": lambda given: _in_few_bits(given[0], given[1].shape[0]),
}
"""Products with weights in 4 and 8 bits, by the names of bitsandbytes' operators (its `_ops.py`)."""


class _NoModules:
    """In place of torch's tracker of modules, whose hooks on every tensor do not go with all models."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class FlopCounter(FlopCounterMode):
    """Counts multiplications and additions of matrix products, convolutions and attention: two a multiply-add.

    What gradient checkpointing computes a second time is not counted, nor is anything element by element.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=dict(_CPU_ATTENTION))
        self.mod_tracker: Any = _NoModules()

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        # in a backward pass only what is computed again builds a graph of its own
        again = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
        if again:
            return out
        quantised = _QUANTISED.get(str(func_packet))
        if quantised is not None:
            self.flop_counts["Global"][func_packet] += quantised(args)
            return out
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


class Counted:
    """What was counted: `flops`, or `why` nothing could be."""

    def __init__(self) -> None:
        self.flops: int | None = None
        self.why = ""


@contextmanager
def counting() -> Iterator[Counted]:
    """While open, what is computed is counted; where the count says nothing, the result tells why."""
    counted = Counted()
    counter = FlopCounter()
    with counter:
        yield counted
    counted.flops = counter.get_total_flops() or None
    if counted.flops is None:
        counted.why = "torch counted no operation"
