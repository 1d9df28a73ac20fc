"""All that data needs to know of a model, built without its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finesight.core.sample import Message

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class ImagePort:
    """How a picture enters the model: squashed to `height` × `width` pixels, then (level / 255 − mean) / std.

    `placeholder` is the special token that a chat template writes for one picture; it stands for
    `tokens_per_image` visual tokens.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Resample
    placeholder: str
    placeholder_id: int
    tokens_per_image: int


@dataclass(frozen=True)
class Ports:
    """Tokenizer, template and picture settings of one model.

    `tokenizer` is a fast `transformers` tokenizer. `render(messages, ask)` writes the turns as the model reads
    them, one `placeholder` for each picture; with `ask` it ends where the model's answer begins.
    `context` is the longest sequence in tokens; `fingerprint` changes whenever an example would.
    """

    tokenizer: Any
    render: Callable[[Sequence[Message], bool], str]
    image: ImagePort | None
    pad_id: int
    end_ids: tuple[int, ...]
    context: int
    fingerprint: str
