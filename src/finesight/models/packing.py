"""Several samples in one row, none of which sees another: the attention of a text decoder over packed rows.

A decoder's attention and masks are taken over while a packed row is computed, and only then, through the interfaces
that `transformers` has for it. The boundaries are passed beside the model, in a context variable, because its own
signatures have no place for them. Towers keep the attention that they have.

T tokens of a row in S segments, Q query heads, K key heads, L tokens of a segment, D size of a head.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from finesight.core.errors import ModelError
from finesight.models.families import why_not_packed
from finesight.models.varlen import Route, attend_varlen, autocast, can_varlen

NAME = "finesight_packed"
"""What the attention is called in the interfaces of `transformers`."""

_MEND = "set `train.packing: false`; `train.batch_tokens` then puts samples of like length together"


@dataclass(frozen=True)
class _Row:
    """A row that is being computed: its bounds (S + 1), the decoder's configuration, the ways in which its attention
    was computed, and the masks made for it.

    A mask goes through the model as a tensor (1, 1, 0, n) without values, whose last size is its number here: models
    look at a mask's shape, and hand on what has four dimensions.
    """

    bounds: tuple[int, ...]
    config: Any
    routes: set[Route]
    masks: list["SegmentMasks"] = field(default_factory=list)

    def keep(self, masks: "SegmentMasks", device: torch.device) -> Tensor:
        """Remember masks; what stands for them."""
        self.masks.append(masks)
        return torch.empty(1, 1, 0, len(self.masks) - 1, dtype=torch.bool, device=device)

    def kept(self, mask: Any) -> "SegmentMasks | None":
        """The masks that `mask` stands for; raises ModelError where it is another one."""
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.shape[:3] != (1, 1, 0):
            raise refused("it makes a mask of its own", self.config.model_type)
        return self.masks[mask.shape[3]]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Begin and end of each segment."""
        return list(pairwise(self.bounds))

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return max(end - begin for begin, end in self.pairs)


_ROW: ContextVar[_Row | None] = ContextVar("finesight_packed_row", default=None)


@dataclass(frozen=True)
class SegmentMasks:
    """What of its own segment each token sees, where that is not all up to itself.

    `window`: the newest so many tokens, itself among them. Else `masks` has one (1, 1, L, L) for each segment, None for
    those where each token sees all up to itself.
    """

    window: int | None = None
    masks: tuple[Tensor | None, ...] = ()

    def of(self, number: int, length: int, device: torch.device) -> Tensor | None:
        """The mask of segment `number`; True is seen."""
        if self.window is None:
            return self.masks[number]
        if length <= self.window:
            return None
        at = torch.arange(length, device=device)
        back = at[:, None] - at[None, :]
        return ((back >= 0) & (back < self.window))[None, None]


@dataclass
class _Open:
    """While entered, a decoder computes this packed row."""

    row: _Row
    before: list[tuple[Token[_Row | None], str]] = field(default_factory=list)

    def __enter__(self) -> None:
        config = self.row.config
        self.before.append((_ROW.set(self.row), config._attn_implementation_internal))
        config._attn_implementation_internal = NAME

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, implementation = self.before.pop()
        self.row.config._attn_implementation_internal = implementation
        _ROW.reset(token)


def recomputed() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a checkpointed layer's forward pass and of the second one, in the backward pass, which may run in
    another thread: the row that is being computed now is there then, too."""
    row = _ROW.get()
    return nullcontext(), nullcontext() if row is None else _Open(row)


class PackedRows:
    """How one model computes packed rows; raises ModelError where it is known that it cannot.

    `routes` are the ways in which attention was computed so far.
    """

    def __init__(self, model: nn.Module) -> None:
        inner: Any = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
        why = why_not_packed(inner.config.model_type, inner.config.is_encoder_decoder)
        if why:
            raise refused(why, inner.config.model_type)
        self._config = inner.config.get_text_config(decoder=True)
        self.routes: set[Route] = set()
        # M-RoPE: three positions a token, which the model's own function computes from its pictures
        self._rope: Callable[..., tuple[Tensor, Tensor]] | None = next(
            (
                part.get_rope_index
                for part in inner.modules()
                if any("get_rope_index" in vars(kind) for kind in type(part).__mro__)
            ),
            None,
        )
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, masks_of)

    @staticmethod
    def keep_out_of_graphs() -> None:
        """Let `torch.compile` leave this attention as it is: a graph of it would be one of this row's boundaries."""
        AttentionInterface.register(NAME, torch.compiler.disable(attend))  # type: ignore[no-untyped-call]

    def open(self, segments: tuple[int, ...]) -> AbstractContextManager[None]:
        """A context in which the model computes a row of these segments."""
        return _Open(_Row((0, *accumulate(segments)), self._config, self.routes))

    def inputs(self, inputs: Mapping[str, Tensor], segments: tuple[int, ...]) -> dict[str, Tensor]:
        """The model's inputs for a packed row, from a batch's.

        Its mask says that nothing is padding: without one, `transformers` would look for boundaries by itself, and turn
        some masks (Gemma 3's sliding ones) by positions that are not those in the row.
        """
        ready = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
        if self._rope is not None and "image_grid_thw" in inputs:
            ready["position_ids"] = _rope_positions(self._rope, inputs, segments)
        return ready


def refused(why: str, family: str) -> ModelError:
    """The error of a model that cannot compute packed rows."""
    return ModelError(f"samples cannot be packed for a `{family}`: {why}", "train.packing", _MEND)


def _rope_positions(
    rope: Callable[..., tuple[Tensor, Tensor]], inputs: Mapping[str, Tensor], segments: tuple[int, ...]
) -> Tensor:
    """Positions (3, 1, T) of a packed row: the model's own, of each segment alone."""
    device = inputs["input_ids"].device
    lengths = torch.tensor(segments, device=device)
    there = torch.arange(max(segments), device=device)[None] < lengths[:, None]

    def apart(row: Tensor) -> Tensor:
        rows = row.new_zeros(there.shape)
        rows[there] = row[0]
        return rows

    positions, _ = rope(
        input_ids=apart(inputs["input_ids"]),
        mm_token_type_ids=apart(inputs["mm_token_type_ids"]),
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=there.long(),
    )
    return positions[:, there][:, None]


def masks_of(
    *,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    allow_is_causal_skip: bool = True,
    local_size: int | None = None,
    config: Any = None,
    use_vmap: bool = False,
    device: torch.device,
    **more: Any,
) -> Tensor | None:
    """The masks of a packed row, in the form of `transformers.masking_utils`; None where each token sees all of its
    segment up to itself.

    `mask_function` tells of two places in the row whether one sees the other; it is asked within segments alone.
    """
    row = _row()
    if not q_length == kv_length == row.bounds[-1]:
        raise refused("it attends to more than its row", row.config.model_type)
    shorter = local_size is None or row.longest <= local_size
    if allow_is_causal_skip and not use_vmap:
        if shorter:
            return None
        if getattr(config, "attention_chunk_size", None) != local_size:
            return row.keep(SegmentMasks(window=local_size), device)
    if not shorter and getattr(config, "attention_chunk_size", None) == local_size:
        raise refused("it attends within chunks, and a sample is longer than one", row.config.model_type)
    asked = tuple(_asked(mask_function, *pair, use_vmap, device) for pair in row.pairs)
    return row.keep(SegmentMasks(masks=asked), device)


def _asked(
    sees: Callable[..., Tensor], begin: int, end: int, use_vmap: bool, device: torch.device
) -> Tensor | None:
    """The mask of one segment (1, 1, L, L); None where each token sees all up to itself."""
    at, zero = torch.arange(begin, end, device=device), torch.zeros(1, dtype=torch.long, device=device)
    if use_vmap:  # functions of elsewhere are written for single places
        for dims in (
            (None, None, None, 0),
            (None, None, 0, None),
            (None, 0, None, None),
            (0, None, None, None),
        ):
            sees = torch.vmap(sees, in_dims=dims, out_dims=0)
        mask = sees(zero, zero, at, at)
    else:
        mask = sees(zero[:, None, None, None], zero[None, :, None, None], at[:, None], at[None, :])
    mask = mask.expand(1, 1, end - begin, end - begin)
    plain = device.type == "cpu" and bool((mask == torch.ones_like(mask).tril()).all())
    return None if plain else mask


def _row() -> _Row:
    row = _ROW.get()
    assert row is not None, "a packed row is computed outside of its context"
    return row


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of query (1, Q, T, D) over key and value (1, K, T, D) within the segments of the row: (1, T, Q, D).

    In the form of `transformers.AttentionInterface`. Raises ModelError for what it does not know.
    """
    row = _row()
    family = row.config.model_type
    if not query.shape[2] == key.shape[2] == row.bounds[-1] or query.shape[0] != 1:
        raise refused("it attends to more than its row", family)
    if s_aux is not None or position_bias is not None:
        raise refused("its attention has biases of its own", family)
    masks = row.kept(attention_mask)
    causal = more.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    window = None if masks is None else masks.window
    simple = causal and (masks is None or window is not None) and softcap is None and not dropout
    if simple:
        q, k, v = autocast(query, key, value)
        if can_varlen(q, v):
            row.routes.add("varlen")
            return attend_varlen(q, k, v, row.bounds, row.longest, scaling, window), None
    row.routes.add("segments")
    made = []
    lengths = [end - begin for begin, end in row.pairs]
    # `split`, because the gradient of a slice is a whole row of zeros for each segment
    parts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    for number, (q, k, v) in enumerate(parts):
        mask = None if masks is None else masks.of(number, lengths[number], query.device)
        if softcap is None:
            found, _ = sdpa_attention_forward(
                module, q, k, v, mask, dropout=dropout, scaling=scaling, is_causal=causal
            )
        else:
            found = _capped(module, q, k, v, mask, dropout, scaling, softcap)
        made.append(found)
    return torch.cat(made, dim=1), None


def _capped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """Attention (1, L, Q, D) of one segment whose scores are held within ± softcap by a tanh (Gemma 2)."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = torch.matmul(query, key.transpose(2, 3)) * (
        query.shape[-1] ** -0.5 if scaling is None else scaling
    )
    scores = torch.tanh(scores / softcap) * softcap
    seen = (
        torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril() if mask is None else mask
    )
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous()
