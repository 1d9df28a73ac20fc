"""A model up to its output embeddings, and from there on: logits of some rows at a time.

N supervised positions of a batch, V tokens in the vocabulary, H hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finesight.core.batch import Batch
from finesight.models.forward import SupervisedForward

Tail = Callable[[Tensor], Tensor]
"""What a model does with the output embeddings' product (n, V) before it calls it logits."""

_FAR = 60.0
"""Largest number that a tail is tried with: soft caps are at 30, and show themselves below that."""

_SAME = 1e-6
"""Largest difference, as a share of the largest logit, of a tail that is the model's own: the same operations differ by
nothing, the order of two factors by a unit in the last place (6e-8)."""


class HeadlessModel:
    """A model whose output embeddings, with what follows them, are asked apart: its rows first, then their logits.

    The embeddings are called as a module, so that an adapter on them, tied weights and their bias count. `tail` is what
    the model does after them; what it does before (T5's scale of tied embeddings) is in the rows already.
    """

    def __init__(self, forward: SupervisedForward, tail: Tail, example: Tensor) -> None:
        self._forward, self._tail = forward, tail
        with torch.enable_grad():
            self._learning = _leaves(self.logits(example.detach()))

    def rows(self, batch: Batch) -> Tensor:
        """What the output embeddings get of the supervised positions: (N, H), in row-major order."""
        return self._forward.rows(batch)

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (n, V) of rows (n, H)."""
        return self._tail(self._forward.head(rows))

    @property
    def learning(self) -> Sequence[Tensor]:
        """What learns of all that logits depend on, wherever it is kept."""
        return self._learning


def headless(model: nn.Module, forward: SupervisedForward, batch: Batch) -> HeadlessModel | None:
    """The model in two, tried with a batch; None where what it does after its output embeddings is not known.

    The embeddings' product is replaced by numbers from −60 to 60, and what comes out is compared with what each known
    tail makes of them: no table of families can be out of date. Call it in evaluation mode.
    """
    with torch.no_grad():
        rows = forward.rows(batch)
        with _replaced(forward.head) as put:
            found = forward.of_one_row(batch)
    tail = next((one for one in _tails(model) if _same(one(put[0]), found)), None)
    return None if tail is None else HeadlessModel(forward, tail, rows[:1])


def _same(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return float((ours - theirs).abs().max()) <= _SAME * float(theirs.abs().max())


@contextmanager
def _replaced(head: nn.Module) -> Iterator[list[Tensor]]:
    """While open, the head's output is replaced by numbers that show what is done with them; they are in the list."""
    put: list[Tensor] = []

    def replace(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        row = torch.linspace(-_FAR, _FAR, output.shape[-1], dtype=output.dtype, device=output.device)
        put.append(row[None])
        return row.expand_as(output)

    handle = head.register_forward_hook(replace)
    try:
        yield put
    finally:
        handle.remove()


def _tails(model: nn.Module) -> Iterator[Tail]:
    """What models are known to do after their output embeddings, with the numbers of this one."""
    inner = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    config = inner.config.get_text_config(decoder=True)
    yield lambda product: product
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2 and its kin
    if cap:
        yield lambda product: torch.tanh(product / cap) * cap
    scale = getattr(config, "logit_scale", None)  # Cohere
    if scale:
        yield lambda product: product * scale
    scaling = getattr(config, "logits_scaling", None)  # Granite divides, HyperCLOVA X multiplies
    if scaling:
        yield lambda product: product / scaling
        yield lambda product: product * scaling
    for name, bias in model.named_buffers():  # BART, Marian
        if name.rpartition(".")[2] == "final_logits_bias":
            yield lambda product, bias=bias: product + bias  # type: ignore[misc]


def _leaves(made: Tensor) -> list[Tensor]:
    """All that learns and that a tensor was made from: an adapter may keep some of it elsewhere than in the head."""
    found: dict[int, Tensor] = {}
    waiting, seen = [made.grad_fn], set[Any]()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of the nodes that gradients are added up in
        if leaf is not None:
            found[id(leaf)] = leaf
        waiting.extend(following for following, _ in node.next_functions)
    return list(found.values())
