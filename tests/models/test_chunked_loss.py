"""Cross-entropy in chunks: the loss and all gradients of the model's own full logits, whatever its head is."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from heads import HEADS, V, batch_for, llama
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finesight.config.train import Train
from finesight.core.batch import Batch
from finesight.models.forward import SupervisedForward, output_embeddings
from finesight.models.headless import HeadlessModel, headless
from finesight.training.chunks import Chunked, rows_of_chunk
from finesight.training.precision import Precision
from finesight.training.step import evaluating, loss_sum, mean_loss

MOST = 4


def own_loss(net: Any, batch: Batch, smoothing: float) -> Tensor:
    """By the model's own logits of all positions."""
    logits = net(**batch.inputs, use_cache=False).logits[:, -batch.targets.shape[1] :]
    return cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="sum", label_smoothing=smoothing
    )


def gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def far(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest relative L2 distance of any parameter's gradient."""
    assert ours.keys() == theirs.keys()
    # a key's bias moves no softmax: its gradient is nothing but rounding, and is measured against the whole
    whole = float(torch.stack([g.norm() for g in theirs.values()]).norm())
    return max(float((ours[n] - g).norm()) / max(float(g.norm()), 1e-3 * whole) for n, g in theirs.items())


def in_two(net: nn.Module, forward: SupervisedForward, batch: Batch) -> HeadlessModel:
    with evaluating(net):
        found = headless(net, forward, batch)
    assert found is not None
    return found


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`", "ignore:`is_gradient_checkpointing`"
)
@pytest.mark.parametrize("head", HEADS)
def test_loss_and_all_gradients_are_those_of_full_logits(head: str) -> None:
    torch.manual_seed(2)
    plain = HEADS[head]()
    for dtype, gate in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        net = copy.deepcopy(plain).to(dtype).eval()
        batch, forward = batch_for(net, dtype), SupervisedForward(net, None)
        chunked = Chunked(forward, in_two(net, forward, batch), MOST)
        assert batch.supervised > 3 * MOST
        for smoothing in (0.0, 0.1):
            whole = own_loss(net, batch, smoothing)
            expected, wanted = gradients(net, whole), float(whole.detach())
            for way in (chunked, replace(chunked, again=True)):
                ours = way.loss(batch, smoothing)
                assert float(ours.detach()) == pytest.approx(wanted, rel=gate)
                assert far(gradients(net, ours), expected) <= gate
            with torch.no_grad():
                assert float(chunked.loss(batch, smoothing)) == pytest.approx(wanted, rel=gate)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(2)
    return llama(True)


def chunked_of(net: nn.Module, batch: Batch, most: int = MOST, again: bool = False) -> Chunked:
    forward = SupervisedForward(net, None)
    return Chunked(forward, in_two(net, forward, batch), most, again)


def test_never_more_rows_than_a_chunk_meet_the_vocabulary(net: nn.Module) -> None:
    batch, seen = batch_for(net, torch.float32), list[int]()
    chunked = chunked_of(net, batch)
    handle = output_embeddings(net).register_forward_hook(lambda _, __, out: seen.append(out.numel() // V))
    chunked.loss(batch).backward()
    with torch.no_grad():
        best = chunked.best(batch, lambda logits: logits)
        chunks = list(seen)
        assert torch.equal(best, chunked.forward(batch).argmax(-1))
    seen.clear()
    fewer = batch_for(net, torch.float32, rows=1, length=7)
    assert fewer.supervised <= MOST
    assert torch.equal(chunked.loss(fewer), loss_sum(chunked.forward(fewer), fewer.targets))
    handle.remove()
    assert max(chunks) == MOST and sum(chunks) == 2 * (batch.supervised + 1)
    assert set(seen) == {fewer.supervised}, "few rows are computed as a whole"
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in net.modules())


def test_a_head_that_is_followed_by_something_unknown_is_left_whole(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = type(net).forward

    def doubled(self: Any, *arguments: Any, **more: Any) -> Any:
        found = own(self, *arguments, **more)
        found.logits = found.logits.sinh()
        return found

    batch = batch_for(net, torch.float32)
    forward = SupervisedForward(net, None)
    with evaluating(net):
        assert headless(net, forward, batch) is not None
        monkeypatch.setattr(type(net), "forward", doubled)
        assert headless(net, forward, batch) is None


@pytest.mark.parametrize("checkpointed", [False, True])
def test_in_bf16_chunks_are_as_exact_as_all_logits(checkpointed: bool) -> None:
    """Judged against fp32: both routes round alike; accumulated over two batches, with activations recomputed."""
    torch.manual_seed(2)
    net = llama(True).train()
    if checkpointed:
        net.activation_checkpointing_enable({"use_reentrant": False})
    batches = [batch_for(net, torch.float32), batch_for(net, torch.float32, rows=2)]
    chunked, numbers = chunked_of(net, batches[0]), Precision("bf16", "cpu")

    def learned(loss: Callable[[Batch], Tensor], precision: Precision) -> dict[str, Tensor]:
        net.zero_grad()
        for batch in batches:
            with precision.autocast():
                made = loss(batch)
            (made / 7).backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    def whole(batch: Batch) -> Tensor:
        return loss_sum(chunked.forward(batch), batch.targets)

    exact = learned(whole, Precision("fp32", "cpu"))
    theirs, ours = far(learned(whole, numbers), exact), far(learned(chunked.loss, numbers), exact)
    assert ours <= 1.5 * theirs
    assert 1e-4 < theirs < 0.05


def test_gradients_that_fp16_cannot_hold_do_not_vanish() -> None:
    """Without a CPU's fp16 the arithmetic of its scaler is shown in fp32: the factor is there before the chunks' own
    gradients are made."""
    torch.manual_seed(2)
    net = llama(False)
    batch, least = batch_for(net, torch.float32), list[float]()
    for again in (False, True):
        chunked = chunked_of(net, batch, again=again)
        sizes: list[float] = []

        def note(_: nn.Module, __: Any, output: Tensor, sizes: list[float] = sizes) -> None:
            if output.requires_grad and output.shape[0] > 1:
                output.register_hook(lambda gradient: sizes.append(float(gradient.abs().max())))

        handle = net.lm_head.register_forward_hook(note)
        (65536 * chunked.loss(batch)).backward()
        handle.remove()
        least.append(min(sizes))
    assert least[0] < 2 and least[1] > 10_000


def test_validation_is_measured_in_chunks(net: nn.Module) -> None:
    batch = batch_for(net, torch.float32)
    chunked, seen = chunked_of(net, batch), list[int]()
    handle = output_embeddings(net).register_forward_hook(lambda _, __, out: seen.append(out.numel() // V))
    arguments: Any = (net, chunked.forward, [batch, batch], Precision("fp32", "cpu"), torch.device("cpu"))
    whole = mean_loss(*arguments)
    assert max(seen) == batch.supervised
    seen.clear()
    assert mean_loss(*arguments, loss=chunked.loss) == pytest.approx(whole, rel=1e-6)
    handle.remove()
    assert max(seen) == MOST


@pytest.mark.parametrize("said", [0, -5, "all", 2.5])
def test_wrong_chunks_are_told(said: Any) -> None:
    assert Train(max_steps=1).loss_chunk == "auto"
    with pytest.raises(ValidationError, match="loss_chunk"):
        Train(max_steps=1, loss_chunk=said)


@pytest.mark.parametrize(
    ("vocabulary", "device", "rows"),
    [(32_000, "cpu", 1024), (128_256, "cpu", 256), (128_256, "cuda", 1024), (10**8, "cpu", 64)],
)
def test_auto_bounds_the_bytes_of_a_chunk(vocabulary: int, device: str, rows: int) -> None:
    assert rows_of_chunk(vocabulary, device) == pytest.approx(rows, rel=0.05)
