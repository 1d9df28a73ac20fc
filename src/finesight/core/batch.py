"""What a model takes: examples and the batches that they make.

Shapes: B examples in a batch, T tokens of the longest, S tokens of the longest text of an encoder, P pictures in the
batch, C channels, H height, W width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

IGNORE = -100
"""Target of a position that is not learned from."""


@dataclass(frozen=True)
class Extra:
    """An input of the model beside the tokens, of one example.

    What its first dimension counts tells how those of several examples become one: `items` (pictures, or their
    parts) follow one another; `tokens` are padded as the tokens are; of a `sample`, which has no such dimension, each
    is a row. Where other dimensions differ, they are filled with `fill`.
    """

    array: "np.ndarray"
    counts: Literal["items", "tokens", "sample"] = "items"
    fill: float = 0


def pixel_values(pictures: "Sequence[np.ndarray]") -> "dict[str, Extra]":
    """Pictures of one size, uint8 (C, H, W), as an input of the model."""
    if not pictures:
        return {}
    import numpy as np

    return {"pixel_values": Extra(np.stack(pictures))}


@dataclass(frozen=True)
class Example:
    """A sample encoded for one model.

    `targets[t]` is the token that the logits at position t must predict, or IGNORE: aligned here, once, so that
    no model and no loss shifts again. `extras` are the inputs that come from pictures, by name. Of an encoder–decoder
    `tokens` are the decoder's, and `source` is what its encoder reads (empty where that is no text).
    """

    id: str
    tokens: "np.ndarray"
    targets: "np.ndarray"
    extras: Mapping[str, Extra] = field(default_factory=dict)
    source: "np.ndarray | None" = None

    @property
    def supervised(self) -> int:
        """Number of targets that are learned from."""
        return int((self.targets != IGNORE).sum())

    @property
    def pictures(self) -> "tuple[np.ndarray, ...]":
        """The pictures as `pixel_values` has them."""
        return tuple(self.extras["pixel_values"].array) if "pixel_values" in self.extras else ()


@dataclass(frozen=True)
class Batch:
    """Examples collated.

    `inputs` are keyword arguments of the model's forward: `input_ids` (B, T), `attention_mask` (B, T) and, where
    there are pictures, `pixel_values` (P, C, H, W), uint8 until the device turns them to floats, or what
    the model's own processor makes of them. Of an encoder–decoder they are `decoder_input_ids` (B, T) and what its
    encoder reads, such as `input_ids` and `attention_mask` (B, S).
    `targets` is (B, T) with IGNORE; `supervised` counts the others; `tokens` counts the positions that are not padding.
    Where there are `segments`, the examples are packed: they lie one after another in one row, each of so many tokens,
    without padding and without an attention mask, and `position_ids` (1, T) begin at 0 for each. `seconds` are its
    share of the time in which its step was read, decoded and collated, wherever that was done.
    """

    ids: tuple[str, ...]
    inputs: Mapping[str, "torch.Tensor"]
    targets: "torch.Tensor"
    supervised: int
    tokens: int
    segments: tuple[int, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def positions(self) -> int:
        """Positions that the model computes, padding among them; an encoder's too."""
        read = (
            self.inputs["input_ids"].numel() if {"input_ids", "decoder_input_ids"} <= set(self.inputs) else 0
        )
        return self.targets.numel() + read

    def to(self, device: Any) -> "Batch":
        """The same batch on another device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return replace(self, inputs=moved, targets=self.targets.to(device, non_blocking=True))
