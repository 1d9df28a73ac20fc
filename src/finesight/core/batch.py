"""What a model takes: examples and the batches that they make.

Shapes: B examples in a batch, T tokens of the longest, P pictures in the batch, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

IGNORE = -100
"""Target of a position that is not learned from."""


@dataclass(frozen=True)
class Example:
    """A sample encoded for one model.

    `targets[t]` is the token that the logits at position t must predict, or IGNORE: aligned here, once, so that
    no model and no loss shifts again. `pictures` are uint8 arrays of shape (C, H, W), one for each run of
    placeholder tokens, in order.
    """

    id: str
    tokens: "np.ndarray"
    targets: "np.ndarray"
    pictures: tuple["np.ndarray", ...]

    @property
    def supervised(self) -> int:
        """Number of targets that are learned from."""
        return int((self.targets != IGNORE).sum())


@dataclass(frozen=True)
class Batch:
    """Examples collated.

    `inputs` are keyword arguments of the model's forward: `input_ids` (B, T), `attention_mask` (B, T) and, where
    there are pictures, `pixel_values` (P, C, H, W), uint8 until the device turns them to floats.
    `targets` is (B, T) with IGNORE; `supervised` counts the others; `tokens` counts the positions that are not padding.
    """

    ids: tuple[str, ...]
    inputs: Mapping[str, "torch.Tensor"]
    targets: "torch.Tensor"
    supervised: int
    tokens: int

    def to(self, device: Any) -> "Batch":
        """The same batch on another device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return replace(self, inputs=moved, targets=self.targets.to(device, non_blocking=True))
