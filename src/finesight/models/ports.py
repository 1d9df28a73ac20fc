"""Ports of a model: what data needs to know of it, read from its processor alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finesight.core.errors import ModelError
from finesight.core.ports import ImagePort, Ports, Resample
from finesight.core.sample import Image, Message, Part, Text

_RESAMPLE: dict[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of its filters."""


def as_conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the form that `apply_chat_template` takes."""
    return [
        {
            "role": message.role,
            "content": [_as_content(part) for part in message.parts],
        }
        for message in messages
    ]


def _as_content(part: Part) -> dict[str, str]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image" if isinstance(part, Image) else "audio"}


def _image_port(processor: Any, tokens_per_image: int) -> ImagePort:
    settings = processor.image_processor
    size = dict(settings.size)
    if set(size) != {"height", "width"} or getattr(settings, "do_center_crop", False):
        raise ModelError(
            f"pictures of size {size} with cropping cannot be prepared yet",
            "the model's image processor",
            "use a model whose processor resizes to a fixed height and width",
        )
    return ImagePort(
        height=size["height"],
        width=size["width"],
        mean=tuple(settings.image_mean),
        std=tuple(settings.image_std),
        resample=_RESAMPLE[int(settings.resample)],
        placeholder=processor.image_token,
        placeholder_id=processor.image_token_id,
        tokens_per_image=tokens_per_image,
    )


def _beginning(tokenizer: Any) -> str:
    """The token that this tokenizer puts before every text, if any; some templates write it, some leave it out."""
    if tokenizer.bos_token_id is None or tokenizer("")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return ""
    return str(tokenizer.bos_token)


@dataclass(frozen=True)
class _Render:
    """A processor's chat template; a class, so that a loader's worker that is not forked can be sent it."""

    processor: Any
    begin: str

    def __call__(self, messages: Sequence[Message], ask: bool) -> str:
        turns = as_conversation(messages)
        text = str(self.processor.apply_chat_template(turns, add_generation_prompt=ask, tokenize=False))
        return text if text.startswith(self.begin) else self.begin + text


def ports_of(processor: Any, config: Any) -> Ports:
    """Ports of a LLaVA model from its processor and configuration; no weights are touched."""
    tokenizer = processor.tokenizer
    size = processor.image_processor.size
    patches = (size["height"] // processor.patch_size) if "height" in size else 0
    extra = processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
    image = _image_port(processor, patches**2 + extra)

    described = [tokenizer.backend_tokenizer.to_str(), processor.chat_template, vars(image)]
    return Ports(
        tokenizer=tokenizer,
        render=_Render(processor, _beginning(tokenizer)),
        image=image,
        pad_id=tokenizer.pad_token_id,
        end_ids=(tokenizer.eos_token_id,),
        context=config.text_config.max_position_embeddings,
        fingerprint=hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest(),
    )
