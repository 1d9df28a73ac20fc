"""AdamW with the right groups: matrices decay; biases, norms and embeddings do not."""

from collections.abc import Sequence

import torch
from torch import nn

from finesight.config.train import Train


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups over the parameters that learn, each with its `names`; a frozen one is in none.

    A frozen parameter that were handed to AdamW would decay away whenever it had a gradient of zero.
    """
    embeddings = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        for parameter in part.parameters()
    }
    decayed: list[tuple[str, nn.Parameter]] = []
    kept: list[tuple[str, nn.Parameter]] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings
            (decayed if decays else kept).append((name, parameter))
    groups = ((decayed, weight_decay), (kept, 0.0))
    return [
        {"params": [p for _, p in group], "names": [n for n, _ in group], "weight_decay": decay}
        for group, decay in groups
        if group
    ]


def build_optimizer(module: nn.Module, train: Train) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), fused into one pass over the memory."""
    groups = parameter_groups(module, train.weight_decay)
    fused = all(p.device.type in ("cpu", "cuda", "mps") for group in groups for p in _parameters(group))
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, eps=train.eps, fused=fused)


def _parameters(group: dict[str, object]) -> Sequence[nn.Parameter]:
    return group["params"]  # type: ignore[return-value]
