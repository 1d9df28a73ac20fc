"""What two processes do in one go: steps of a tiny Llama fed from its own predictions, with its loss in chunks."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finesight.config.train import Train
from finesight.core.batch import IGNORE, Batch
from finesight.models.forward import SupervisedForward
from finesight.models.headless import headless
from finesight.runtime.distributed import World
from finesight.training.agreement import agreed, facts_of
from finesight.training.chunks import Chunked
from finesight.training.optim import build_optimizer
from finesight.training.parallel import Engine, Replicated
from finesight.training.precision import Precision
from finesight.training.sampling import Sampling
from finesight.training.sharded import Sharded, shard
from finesight.training.state import model_tensors
from finesight.training.step import Step, evaluating

CASES = ("ddp chunked", "ddp fed", "ddp both", "fsdp fed")


def sample(number: int) -> Batch:
    """One ragged row, most of it supervised."""
    draw = torch.Generator().manual_seed(number)
    tokens = torch.randint(3, 40, (1, 6 + number % 4), generator=draw)
    targets = torch.full_like(tokens, IGNORE)
    targets[:, 1:-1] = tokens[:, 2:]
    return Batch((f"s{number}",), {"input_ids": tokens}, targets, tokens.numel() - 2, tokens.numel())


def learned(case: str, world: World) -> dict[str, Any]:
    """Losses and gradient norms of five steps of unlike numbers of samples, and what the model learned."""
    torch.manual_seed(1)
    net: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(3)
    strategy, how = case.split()
    forward = SupervisedForward(net, None)
    with evaluating(net):
        found = headless(net, forward, sample(1))
    assert found is not None
    chunked = Chunked(forward, found, 3)
    engine: Engine | None = None
    if world.size > 1:
        if strategy == "fsdp":
            shard(net, "fp32", torch.device("cpu"))
        kind = Sharded if strategy == "fsdp" else Replicated
        engine = kind(net, world.rank, world.size, lambda _: sample(7))
    numbers = Precision("fp32", "cpu")
    chunks = how in ("chunked", "both")

    def whole(batch: Batch, allowed: Any) -> torch.Tensor:
        return allowed(forward(batch)).argmax(-1)

    feed = Sampling(net, chunked.best if chunks else whole, numbers, lambda number: 1 - number / 5, 3, (0,))
    step = Step(
        *(
            net,
            forward,
            build_optimizer(net, Train(max_steps=1)),
            numbers,
            0.5,
            0,
            torch.device("cpu"),
            engine,
        ),
        loss=chunked.loss if chunks else None,
        feed=feed if how in ("fed", "both") else None,
    )
    told = []
    for number in range(1, 6):
        samples = [sample(10 * number + one) for one in range(1 + number % 4)]
        window = samples[world.rank :: world.size]
        result = step(window, number, 0.01, agreed(world.together(facts_of(window))))
        told.append([result.loss, result.grad_norm])
    return {
        "told": told,
        "values": {name: value.tolist() for name, value in model_tensors(net).items()},
    }


def fed_steps(world: World) -> dict[str, Any]:
    """Every case."""
    return {case: learned(case, world) for case in CASES}
