"""What two processes do in one go to answer many questions about steps: a toy model that sees, and ragged windows."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finesight.config.train import Train
from finesight.core.batch import IGNORE, Batch
from finesight.core.errors import TrainingError
from finesight.runtime.distributed import World
from finesight.runtime.notices import Notices
from finesight.training.agreement import agreed, facts_of
from finesight.training.audit import Audit
from finesight.training.optim import build_optimizer
from finesight.training.parallel import Engine, Replicated
from finesight.training.precision import Precision
from finesight.training.sharded import Sharded, fill, gathered, outline, shard
from finesight.training.slices import plan_slices, read_slices
from finesight.training.state import model_tensors, optimizer_tensors
from finesight.training.step import Step

V, H = 13, 10
STEPS = 30


class Seeing(nn.Module):
    """Tokens (B, T), and pictures (P, H) that a tower turns into what is added to the first row; logits (B, T, V).

    `scale` does not learn, `unseen` is reached by nothing; embeddings and head are tied.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(V, H)
        self.tower = nn.ModuleList([nn.Linear(H, H), nn.Linear(H, H, bias=False)])
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.Linear(H, 7), nn.Tanh(), nn.Linear(7, H)) for _ in range(2)]
        )
        self.scale = nn.Parameter(torch.full((H,), 1.1), requires_grad=False)
        self.unseen = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(H, V, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, pictures: Tensor | None) -> Tensor:
        x = self.embed(tokens)
        if pictures is not None:
            for part in self.tower:
                pictures = torch.tanh(part(pictures))
            seen = torch.zeros_like(x)
            seen[0, 0] = pictures.sum(0)
            x = x + seen
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x * self.scale)


def forward_of(model: nn.Module) -> Callable[[Batch], Tensor]:
    return lambda batch: model(batch.inputs["input_ids"], batch.inputs.get("pixel_values"))[
        batch.targets != IGNORE
    ]


def sample(number: int, shown: bool, dtype: torch.dtype) -> Batch:
    """One ragged row, some of it supervised, with one to three pictures or none."""
    draw = torch.Generator().manual_seed(number)
    length = 3 + number % 5
    tokens = torch.randint(0, V, (1, length), generator=draw)
    targets = torch.randint(0, V, (1, length), generator=draw)
    targets[:, : number % 3] = IGNORE
    inputs = {"input_ids": tokens}
    if shown:
        inputs["pixel_values"] = torch.randn(1 + number % 3, H, generator=draw, dtype=dtype)
    return Batch((f"s{number}",), inputs, targets, int((targets != IGNORE).sum()), length)


def samples_of(step: int, kind: str, dtype: torch.dtype) -> list[Batch]:
    """The samples of a step: of unlike numbers, one alone in the sixth; `mixed` ones see on one process alone."""
    count = 1 if step % 6 == 5 else 2 + step % 4
    numbers = range(100 * step, 100 * step + count)
    if kind == "mixed":
        return [sample(n, n % 2 == step % 2 and step % 5 != 4, dtype) for n in numbers]
    return [sample(n, kind == "shown", dtype) for n in numbers]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(model, Train(max_steps=1, weight_decay=0.1))


def run(
    model: nn.Module,
    engine: Engine | None,
    world: World,
    kind: str,
    dtype: torch.dtype,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    optimizer = optimizer or optimizer_of(model)
    step = Step(
        model, forward_of(model), optimizer, Precision("fp32", "cpu"), 0.5, 0, torch.device("cpu"), engine
    )
    told = []
    for number in range(1, STEPS + 1):
        window = samples_of(number, kind, dtype)[world.rank :: world.size]
        common = agreed(world.together(facts_of(window)))
        result = step(window, number, 0.02, common)
        told.append((result.loss, result.grad_norm))
    return told


def values(model: nn.Module) -> dict[str, Any]:
    return {name: value.double().tolist() for name, value in model_tensors(model).items()}


def summed(model: nn.Module) -> float:
    with torch.no_grad():
        return float(forward_of(model)(sample(3, True, torch.float32)).sum())


def engine_for(strategy: str, model: nn.Module, world: World, dtype: torch.dtype) -> Engine:
    def spare(kind: str | None) -> Batch:
        return sample(7, kind == "pictures", dtype)

    if strategy == "ddp":
        return Replicated(model, world.rank, world.size, spare)
    shard(model, "fp32", torch.device("cpu"))
    return Sharded(model, world.rank, world.size, spare)


CASES = [
    ("ddp", "mixed", "float32"), ("ddp", "text", "float64"), ("fsdp", "mixed", "float32"),
    ("fsdp", "mixed", "float64"), ("fsdp", "shown", "float32"), ("ddp", "mixed", "float64"),
]  # fmt: skip


def steps(world: World, folder: str) -> dict[str, Any]:
    """Every case of `CASES`, and what else is asked of two processes."""
    found: dict[str, Any] = {}
    for strategy, kind, name in CASES:
        dtype = getattr(torch, name)
        model = Seeing().to(dtype)
        told = run(model, engine_for(strategy, model, world, dtype), world, kind, dtype)
        found[f"{strategy} {kind} {name}"] = {"told": told, "values": values(model)}
    found |= {f"audit {strategy}": audited(world, strategy) for strategy in ("ddp", "fsdp")}
    found |= {f"nan {strategy}": not_a_number(world, strategy) for strategy in ("ddp", "fsdp")}
    found["slices"] = slices(world, Path(folder))
    return found


def audited(world: World, strategy: str) -> dict[str, Any]:
    """The record of an audit over three steps, of which the second has pictures, on one process alone; what was told,
    and the gradient norm of each step."""
    model = Seeing()
    engine = engine_for(strategy, model, world, torch.float32) if world.size > 1 else None
    numbers = Precision("fp32", "cpu")
    step = Step(model, forward_of(model), optimizer_of(model), numbers, 0.5, 0, torch.device("cpu"), engine)
    found: dict[str, Any] = {}
    notices = Notices()
    step.audit = Audit(
        *(model, (), lambda name: "vision_tower" if "tower" in name else "language_model"),
        *(notices, found.update, None, world),
    )
    norms = []
    for number in (1, 2, 3):
        samples = [sample(10 * number + place, number == 2 and place == 1, torch.float32) for place in (0, 1)]
        window = samples[world.rank :: world.size]
        norms.append(step(window, number, 0.02, agreed(world.together(facts_of(window)))).grad_norm)
    return {**found, "told": [row["text"] for row in notices.rows()], "norms": norms}


def not_a_number(world: World, strategy: str) -> dict[str, Any]:
    """A step of which process 1 alone has a sample whose loss is not finite."""
    model = Seeing()
    whole = outline(model)[0]
    engine = engine_for(strategy, model, world, torch.float32)
    before = values(model)
    window: Sequence[Batch] = [sample(world.rank, True, torch.float32)]
    if world.rank:
        window[0].inputs["pixel_values"][0, 0] = math.nan
    step = Step(
        *(
            model,
            forward_of(model),
            optimizer_of(model),
            Precision("fp32", "cpu"),
            1.0,
            0,
            torch.device("cpu"),
        ),
        engine,
    )
    said = ""
    try:
        step(window, 3, 0.1, agreed(world.together(facts_of(window))))
    except TrainingError as error:
        said = str(error)
    with gathered(model):
        sums = [summed(model) for _ in range(1 + world.rank)]  # each as often as it wants
    if strategy == "fsdp":
        fill(whole, model, torch.device("cpu"))
        sums.append(summed(whole))
    return {"said": said, "same": values(model) == before, "sums": sums}


def slices(world: World, folder: Path) -> dict[str, Any]:
    """Slices that were written and read again, and the whole of what was written."""
    model = Seeing()
    engine = engine_for("fsdp", model, world, torch.float32)
    optimizer = optimizer_of(model)
    run(model, engine, world, "shown", torch.float32, optimizer)
    place = folder / "slices"
    place.mkdir(exist_ok=True)
    world.together()
    values = {
        "model": model_tensors(model, sliced=True),
        "optimizer": optimizer_tensors(optimizer, sliced=True),
    }
    planned = plan_slices(values, copy=True)
    whole = {"model": model_tensors(model, copy=True), "optimizer": optimizer_tensors(optimizer, copy=True)}
    with torch.no_grad():
        for group in values.values():  # what is learned meanwhile does not reach what is written
            for value in group.values():
                value.zero_()
    written = world.together(planned.write(place))
    if world.first:
        planned.index(place, written)
    world.together()
    again = read_slices(place)
    return {
        "equal": all(
            torch.equal(whole[group][name], again[group][name]) for group in whole for name in whole[group]
        ),
        "names": {group: sorted(again[group]) == sorted(whole[group]) for group in whole},
        "folder": str(place),
        "files": sorted(path.name for path in place.iterdir()),
    }
