"""A model's forward pass for learning: logits at supervised positions only.

N supervised positions of a batch, in row-major order; V tokens in the vocabulary; H hidden size; B, T as in
`core.batch`.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from finesight.core.batch import IGNORE, Batch
from finesight.core.ports import ImagePort, PicturePort
from finesight.models.packing import PackedRows

_NOT_FOR_MODELS = ("num_tiles",)
"""Extras of which others are made."""

_PRE_NORM_LAYERS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer)
"""Decoder layers y = x + attention(norm(x)), then y + mlp(norm(y)): only the attention mixes positions."""


class SupervisedForward:
    """Calls a `transformers` model and returns logits (N, V) of the supervised positions.

    Rows that nothing is learned from (pictures, questions, padding) are left out where no other row needs them any
    more, by hooks that are there during the call alone: always before the output embeddings; in the last decoder layer,
    where it is of a known form, right after its attention, which reads the keys and values of all rows.
    """

    def __init__(self, model: nn.Module, image: PicturePort | None) -> None:
        self._model: Any = model
        self._image = image
        self._last, self.head = _last_layer(model), output_embeddings(model)
        takes = inspect.signature(type(model).forward).parameters
        self._settings = {"use_cache": False} if "use_cache" in takes or "kwargs" in takes else {}

    @cached_property
    def packed_rows(self) -> PackedRows:
        """How the model computes packed rows; raises ModelError where it cannot be given any."""
        return PackedRows(self._model)

    @property
    def hooked(self) -> Any:
        """The layer that gets hooks of its own at each call; None where there is none."""
        # a checkpointed layer runs again in the backward pass, when the hooks are gone
        return self._last if self._last is not None and not self._last.gradient_checkpointing else None

    def __call__(self, batch: Batch) -> Tensor:
        """Logits (N, V) of a batch on the model's device."""
        return self._logits(batch, nullcontext())

    def rows(self, batch: Batch) -> Tensor:
        """What the output embeddings get of the supervised positions, (N, H); they are given the first row alone."""
        taken: list[Tensor] = []
        self._logits(batch, _first_row(self.head, taken))
        return taken[0]

    def of_one_row(self, batch: Batch) -> Tensor:
        """Logits (1, V) of the first supervised position, as the model makes them."""
        return self._logits(batch, _first_row(self.head, []))

    def _logits(self, batch: Batch, more: AbstractContextManager[None]) -> Tensor:
        """Logits of the rows that reach the head; `more` is entered after the hooks that select them."""
        inputs = float_pictures(batch.inputs, self._image)
        keep = batch.targets != IGNORE
        last = self.hooked
        rows = _rows_of_head(self.head, keep) if last is None else _rows_of_layer(last, keep)
        if batch.segments:
            inputs = self.packed_rows.inputs(inputs, batch.segments)
        packed = self.packed_rows.open(batch.segments) if batch.segments else nullcontext()
        with rows, packed, more:
            logits: Tensor = self._model(**inputs, **self._settings).logits  # (N, V) or (1, N, V)
        return logits.flatten(0, -2)


def _last_layer(model: nn.Module) -> Any:
    """The last decoder layer, where its form is known."""
    layers = [layer for layer in model.modules() if isinstance(layer, _PRE_NORM_LAYERS)]
    return layers[-1] if layers else None


def output_embeddings(model: nn.Module) -> nn.Module:
    """The output embeddings; of a captioner, those of its text model."""
    found = (part.get_output_embeddings() for part in model.modules() if isinstance(part, PreTrainedModel))
    head: nn.Module = next(head for head in found if head is not None)
    return head


@contextmanager
def _rows_of_head(head: nn.Module, keep: Tensor) -> Iterator[None]:
    """While open, `head` sees only the rows (N, H) of its input (B, T, H) that the mask `keep` (B, T) marks."""
    places = keep.nonzero(
        as_tuple=True
    )  # now: a GPU that is asked amid its work has to finish what it has first

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = arguments[0]
        before = hidden.shape[1] - keep.shape[1]  # a captioner's pictures stand before its text
        return (_at(hidden[:, before:], places), *arguments[1:])

    with _removed(head.register_forward_pre_hook(select)):
        yield


@contextmanager
def _rows_of_layer(layer: Any, keep: Tensor) -> Iterator[None]:
    """While open, `layer` gives only the rows (1, N, H) that the mask `keep` (B, T) marks, of its output (B, T, H).

    Its residual path begins with these rows; its first norm, and so its attention, still gets all of them.
    """
    whole: list[Tensor] = []
    places = keep.nonzero(as_tuple=True)

    def kept(rows: Tensor) -> Tensor:
        return _at(rows, places)[None]

    def enter(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole.append(arguments[0])
        return (kept(arguments[0]), *arguments[1:])

    def restore(_: nn.Module, __: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (whole.pop(),)

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (kept(arguments[0]),)

    with (
        _removed(layer.register_forward_pre_hook(enter)),
        _removed(layer.input_layernorm.register_forward_pre_hook(restore)),
        _removed(layer.self_attn.o_proj.register_forward_pre_hook(select)),
    ):
        yield


def _at(rows: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    """The rows (N, H) of (B, T, H) at N places, which may be on another device, as the inputs of a spread model are."""
    return rows[tuple(place.to(rows.device) for place in places)]


@contextmanager
def _first_row(head: nn.Module, taken: list[Tensor]) -> Iterator[None]:
    """While open, `head` gets the first row alone of its input; all of them (N, H) go to `taken`."""

    def take(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = arguments[0].flatten(0, -2)
        taken.append(rows)
        first = rows[:1].detach()
        return (first[None] if arguments[0].ndim == 3 else first, *arguments[1:])

    # a generator's body runs when it is entered, so this hook comes after those that select rows
    with _removed(head.register_forward_pre_hook(take)):
        yield


@contextmanager
def _removed(handle: RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def float_pictures(inputs: Mapping[str, Tensor], image: PicturePort | None) -> dict[str, Tensor]:
    """Inputs with uint8 pictures (P, C, H, W) turned to floats on their device, as the processor would."""
    ready = {name: value for name, value in inputs.items() if name not in _NOT_FOR_MODELS}
    if isinstance(image, ImagePort) and "pixel_values" in ready:
        levels = ready["pixel_values"]
        mean, std = (
            torch.tensor(value, device=levels.device).view(1, -1, 1, 1) for value in (image.mean, image.std)
        )
        ready["pixel_values"] = (levels.float() / 255 - mean) / std
    return ready
