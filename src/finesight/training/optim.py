"""Optimizers with the right groups: matrices decay; biases, norms and embeddings do not."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec

import torch
from torch import nn

from finesight.config.train import Group, Train
from finesight.core.errors import ModelError

PartOf = Callable[[str], str]
"""The part of a model that a parameter belongs to, by its name."""

ADAPTER = "adapter"
"""The word for what an adapter adds."""

STATE_BYTES: Mapping[str, float] = {"adamw": 8, "adamw8bit": 2.1, "adafactor": 0.1}
"""Bytes that an optimizer keeps for each value that learns, about: two averages in fp32; the same in a byte each, and a
scale for each 256 values; a row and a column of a matrix."""


def parameter_groups(module: nn.Module, train: Train, part_of: PartOf = str) -> list[dict[str, object]]:
    """Groups over the parameters that learn, each with its `names`, `weight_decay` and `share` of the learning rate.

    A frozen parameter is in none: were it handed to AdamW, it would decay away whenever it had a gradient of zero.
    Raises ModelError where a pattern of `train.groups` matches nothing that learns.
    """
    embeddings = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        for parameter in part.parameters()
    }
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    chosen = {name: group_of(name, train.groups, part_of) for name in learning}
    _all_match(train.groups, learning, part_of)
    groups: dict[tuple[float, float], list[str]] = {}
    for name, parameter in learning.items():
        own = chosen[name]
        share = 1.0 if own is None or own.lr is None else own.lr / train.lr
        decays = parameter.ndim >= 2 and id(parameter) not in embeddings
        decay = train.weight_decay if decays else 0.0
        if own is not None and own.weight_decay is not None:
            decay = own.weight_decay
        groups.setdefault((share, decay), []).append(name)
    # those that decay come first, as they always did
    return [
        {"params": [learning[name] for name in names], "names": names, "weight_decay": decay, "share": share}
        for (share, decay), names in sorted(groups.items(), key=lambda one: (-one[0][1], -one[0][0]))
    ]


def group_lines(optimizer: torch.optim.Optimizer, train: Train) -> list[str]:
    """What each group learns with; nothing where all of it is what the recipe says of all."""
    if not train.groups:
        return []
    return [
        f"learning rate {train.lr * group['share']:g}, decay {group['weight_decay']:g}: "
        f"{sum(p.numel() for p in group['params']):,} values in {len(group['params'])} tensors"
        for group in optimizer.param_groups
    ]


def state_bytes(module: nn.Module, train: Train) -> float:
    """Bytes that the optimizer's averages take, about."""
    return STATE_BYTES[train.optimizer] * sum(p.numel() for p in module.parameters() if p.requires_grad)


def _matches(name: str, word: str, part_of: PartOf) -> bool:
    if word == ADAPTER:
        return ".lora_" in name
    return part_of(name) == word or fnmatchcase(name, word)


def group_of(name: str, groups: Sequence[Group], part_of: PartOf) -> Group | None:
    """The group that a parameter learns in: the first that matches."""
    return next((group for group in groups if _matches(name, group.match, part_of)), None)


def _all_match(groups: Sequence[Group], learning: Mapping[str, object], part_of: PartOf) -> None:
    for number, group in enumerate(groups):
        if not any(_matches(name, group.match, part_of) for name in learning):
            parts = sorted({part_of(name) for name in learning})
            some = ", ".join(list(learning)[:4])
            raise ModelError(
                f"`{group.match}` matches nothing that learns",
                f"train.groups[{number}].match",
                f"what learns belongs to {', '.join(parts)}; its names are such as {some}",
            )


def build_optimizer(module: nn.Module, train: Train, part_of: PartOf = str) -> torch.optim.Optimizer:
    """The optimizer of a recipe over what learns.

    AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), fused into one pass over the memory; the same
    with averages in 8 bits (Dettmers et al. 2022, https://arxiv.org/abs/2110.02861); Adafactor (Shazeer & Stern 2018,
    https://arxiv.org/abs/1804.04235) with the rate that the schedule says, as torch has it. Raises ModelError where a
    value that learns is held in half precision.
    """
    _ensure_full_precision(module)
    groups = parameter_groups(module, train, part_of)
    if train.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=train.lr)
    if train.optimizer == "adamw8bit":
        return _in_8_bits(groups, train)
    fused = all(p.device.type in ("cpu", "cuda", "mps") for group in groups for p in _parameters(group))
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, eps=train.eps, fused=fused)


def _ensure_full_precision(module: nn.Module) -> None:
    """In bf16 a weight of 1 stays as it is at any step below 2⁻⁹: it would never learn, and nobody would see."""
    short = [
        name
        for name, value in module.named_parameters()
        if value.requires_grad and value.dtype not in (torch.float32, torch.float64)
    ]
    if short:
        more = ", …" if len(short) > 5 else ""
        raise ModelError(
            f"{len(short)} tensors that learn are held in half precision, where small steps are rounded away: "
            f"{', '.join(short[:5])}{more}",
            "train.precision",
            "hold weights in fp32 (`model.float()`); `train.precision: bf16` computes in bf16 and keeps them so",
        )


def _in_8_bits(groups: list[dict[str, object]], train: Train) -> torch.optim.Optimizer:
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "AdamW in 8 bits needs bitsandbytes", "train.optimizer", "`pip install finesight[quant]`"
        )
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(groups, lr=train.lr, betas=train.betas, eps=train.eps)
    return made


def _parameters(group: Mapping[str, object]) -> Sequence[nn.Parameter]:
    return group["params"]  # type: ignore[return-value]
