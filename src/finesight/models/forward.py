"""A model's forward pass for learning: logits at supervised positions only.

N supervised positions of a batch, in row-major order; V tokens in the vocabulary; H hidden size; B, T as in `core.batch`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finesight.core.batch import IGNORE, Batch
from finesight.core.ports import ImagePort


class SupervisedForward:
    """Calls a `transformers` model and returns logits (N, V) of the supervised positions.

    The rows are selected from the hidden states just before the output embeddings, by a hook on these: the positions
    that nothing is learned from (pictures, questions, padding) never meet the vocabulary. The model is left as it is.
    """

    def __init__(self, model: nn.Module, image: ImagePort | None) -> None:
        self._model, self._image = model, image

    def __call__(self, batch: Batch) -> Tensor:
        inputs = float_pictures(batch.inputs, self._image)
        with _kept_rows(self._model.get_output_embeddings(), batch.targets != IGNORE):
            return self._model(**inputs, use_cache=False).logits


@contextmanager
def _kept_rows(head: nn.Module, keep: Tensor) -> Iterator[None]:
    """While open, `head` sees only the rows (N, H) of its input (B, T, H) that the mask `keep` (B, T) marks."""

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][keep], *arguments[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def float_pictures(inputs: Mapping[str, Tensor], image: ImagePort | None) -> dict[str, Tensor]:
    """Inputs with uint8 pictures (P, C, H, W) turned to floats on their device, as the processor would."""
    ready = dict(inputs)
    if image is not None and "pixel_values" in ready:
        levels = ready["pixel_values"]
        mean, std = (torch.tensor(value, device=levels.device).view(1, -1, 1, 1) for value in (image.mean, image.std))
        ready["pixel_values"] = (levels.float() / 255 - mean) / std
    return ready
