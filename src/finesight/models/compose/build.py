"""A model composed of a vision encoder, a projector and a language model, and of ears: its processor, configuration and
weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from finesight.config.compose import Compose
from finesight.core.errors import Fault, FinesightError, ModelError
from finesight.models.compose.audio import Ear, open_ear
from finesight.models.compose.language import Language, Words, open_language
from finesight.models.compose.modeling_finesight import (
    FinesightAudioProjector,
    FinesightLlavaConfig,
    FinesightLlavaForConditionalGeneration,
)
from finesight.models.compose.processing_finesight import FinesightProcessor
from finesight.models.compose.projector import draw_projector, load_projector
from finesight.models.compose.sources import know_composed
from finesight.models.compose.templates import AUDIO, chat_template
from finesight.models.compose.vision import Encoder, open_encoder
from finesight.models.parts import keep_fixed
from finesight.models.scratch import IMAGE, PAD, tokenizer_of

_AUTO = {
    "AutoConfig": "modeling_finesight.FinesightLlavaConfig",
    "AutoModelForImageTextToText": "modeling_finesight.FinesightLlavaForConditionalGeneration",
}
_SAME = 1e-4
"""Largest difference, as a share of the largest logit, between a language model alone and as a part: other kernels
may be chosen, and a scaled or capped logit differs by much more."""


@dataclass(frozen=True)
class Parts:
    """The parts of a composed model before any weights are read."""

    compose: Compose
    vision: Encoder
    language: Language
    audio: Ear | None = None

    @property
    def tokens_per_image(self) -> int:
        """Visual tokens of a picture, K."""
        part, vision = self.compose.vision, self.vision
        if part.tokens == "cls":
            return 1
        grid = vision.grid // self.factor
        return grid * grid + (vision.prefix if part.tokens == "all" else 0)

    @property
    def factor(self) -> int:
        """Side of the squares of patches that become one token."""
        projector = self.compose.projector
        return (projector.factor or 2) if projector.kind == "pixel_shuffle" else 1

    @property
    def drops_class(self) -> bool:
        """Whether LLaVA's own strategy of leaving out the first token is used."""
        return self.compose.vision.tokens == "patches" and self.vision.prefix == 1 and self.vision.known

    @property
    def plain(self) -> bool:
        """Whether a LLaVA model of `transformers` can hold these parts."""
        projector = self.compose.projector
        simple = projector.kind == "linear" or (projector.kind == "mlp" and projector.width is None)
        return simple and self.vision.known and self.language.known and self.audio is None


def open_parts(compose: Compose) -> Parts:
    """Read what the parts are; raises ModelError with everything that is wrong with them."""
    know_composed()
    faults: list[Fault] = []

    def told(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except FinesightError as error:
            faults.extend(error.faults)
            return None

    vision = told(lambda: open_encoder(compose.vision))
    language = told(lambda: open_language(compose.language))
    ear = compose.audio
    audio = None if ear is None else told(lambda: open_ear(ear))
    if language is not None:
        told(lambda: _template(compose, language))
    if vision is not None:
        told(lambda: _fits(compose, vision))
    if faults:
        raise ModelError.of(faults)
    return Parts(compose, vision, language, audio)


def _fits(compose: Compose, vision: Encoder) -> None:
    projector, tokens = compose.projector, compose.vision.tokens
    if tokens == "cls" and not vision.prefix:
        raise ModelError("this encoder has no class token", "model.compose.vision.tokens", "choose `patches`")
    if projector.kind != "pixel_shuffle":
        return
    factor = projector.factor or 2
    if tokens == "cls" or (tokens == "all" and vision.prefix):
        raise ModelError(
            f"pixel_shuffle needs a square of patches, and `tokens: {tokens}` gives none",
            "model.compose.vision.tokens",
            "choose `patches`",
        )
    if vision.grid % factor:
        raise ModelError(
            f"`factor: {factor}` does not divide the {vision.grid} × {vision.grid} patches of a picture",
            "model.compose.projector.factor",
            "choose a factor, or an image_size, of which the number of patches in a row is a multiple",
        )


def _template(compose: Compose, language: Language) -> str:
    around = compose.image_start, compose.image_end
    own = language.part.template, language.template, language.close
    return chat_template(*own, *around, hears=compose.audio is not None)


def build_processor(parts: Parts, learned: str | None = None) -> LlavaProcessor:
    """The processor that is saved beside the model; `learned` is the tokenizer of a language model without one."""
    compose, vision, language = parts.compose, parts.vision, parts.language
    if language.tokenizer is None:
        assert learned is not None
        tokenizer = tokenizer_of(learned)
    else:
        tokenizer = copy.deepcopy(language.tokenizer)
    ears = [] if parts.audio is None else [AUDIO]
    special = [IMAGE, *(token for token in (compose.image_start, compose.image_end) if token), *ears]
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True
    )
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.model_max_length = language.config.max_position_embeddings
    tokenizer.chat_template = None  # the processor's is the one
    size, grid = vision.size, vision.grid // parts.factor
    kind: Any = LlavaProcessor
    if parts.audio is not None:
        kind = partial(
            FinesightProcessor,
            feature_extractor=parts.audio.extractor,
            audio_token=AUDIO,
            audio_stride=parts.audio.stride,
            audio_factor=parts.audio.part.projector.factor,
        )
    return kind(
        image_processor=SiglipImageProcessorPil(
            size={"height": size, "width": size},
            image_mean=list(vision.mean),
            image_std=list(vision.std),
            resample=vision.resample,
        ),
        tokenizer=tokenizer,
        # (size // patch)² and the additional ones are what it writes for a picture
        patch_size=size if compose.vision.tokens == "cls" else size // grid,
        num_additional_image_tokens=(
            vision.prefix if compose.vision.tokens == "all" or parts.drops_class else 0
        ),
        vision_feature_select_strategy="default" if parts.drops_class else "full",
        chat_template=_template(compose, language),
        image_token=IMAGE,
    )


def build_config(parts: Parts, processor: LlavaProcessor) -> LlavaConfig:
    """The model's configuration; no weights are made."""
    compose, vision, tokenizer = parts.compose, parts.vision, processor.tokenizer
    text = copy.deepcopy(parts.language.config)
    text.vocab_size = (
        len(tokenizer) if parts.language.weights is None else max(text.vocab_size, len(tokenizer))
    )
    text.pad_token_id, text.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    text.bos_token_id = tokenizer.bos_token_id
    common: dict[str, Any] = {
        "vision_config": copy.deepcopy(vision.config),
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids(IMAGE),
        "image_seq_length": parts.tokens_per_image,
        "vision_feature_layer": compose.vision.layer,
        "vision_feature_select_strategy": processor.vision_feature_select_strategy,
        "tie_word_embeddings": text.tie_word_embeddings,
    }
    if parts.plain:
        # "linear" is the identity between LLaVA's two matrices: together one linear map
        return LlavaConfig(
            **common, projector_hidden_act="gelu" if compose.projector.kind == "mlp" else "linear"
        )
    projector = compose.projector
    return FinesightLlavaConfig(
        **common,
        vision_width=vision.width,
        vision_prefix=vision.prefix,
        vision_tokens=compose.vision.tokens,
        projector_kind=projector.kind,
        projector_width=projector.width,
        projector_blocks=projector.blocks or 1,
        projector_factor=parts.factor,
        head_bias=parts.language.bias,
        auto_map=dict(_AUTO),
        **_audio_config(parts, tokenizer),
    )


def _audio_config(parts: Parts, tokenizer: Any) -> dict[str, Any]:
    """What the configuration says of the ears."""
    if parts.audio is None:
        return {}
    part, projector = parts.audio.part, parts.audio.part.projector
    return {
        "audio_config": copy.deepcopy(parts.audio.config),
        "audio_token_index": tokenizer.convert_tokens_to_ids(AUDIO),
        "audio_width": parts.audio.width,
        "audio_stride": parts.audio.stride,
        "audio_layer": part.layer,
        "audio_projector_kind": projector.kind,
        "audio_projector_width": projector.width,
        "audio_projector_factor": projector.factor,
    }


def build_model(parts: Parts, processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """The model; what is not pretrained gets random values that depend on `seed` alone."""
    config = build_config(parts, processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = parts.vision.load()
        words = parts.language.load(config.text_config, len(processor.tokenizer))
        ids = torch.arange(min(8, config.text_config.vocab_size))[None]
        alone = _logits(words, ids)
        config.vision_config, config.text_config = (
            tower.config,
            _with_tokens(words.decoder.config, config.text_config),
        )
        kind = LlavaForConditionalGeneration if parts.plain else FinesightLlavaForConditionalGeneration
        with torch.device("meta"):
            model = kind(config)
        projector = type(model.model.multi_modal_projector)(config)
        draw_projector(projector)
        if parts.audio is not None:
            _give_ears(model, parts.audio, config)
    if parts.compose.projector.pretrained is not None:
        load_projector(projector, parts.compose.projector.pretrained)
    model.model.vision_tower, model.model.language_model = tower, words.decoder
    model.model.multi_modal_projector, model.lm_head = projector, words.head
    if config.tie_word_embeddings:
        model.lm_head.weight = words.decoder.get_input_embeddings().weight
    model.eval()
    keep_fixed(model)
    _same_logits(model, ids, alone, parts)
    model.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


def _give_ears(model: Any, audio: Ear, config: Any) -> None:
    """The encoder of sounds and its projector with their weights, in the place of those without."""
    tower, projector = audio.load(), FinesightAudioProjector(config)
    draw_projector(projector)
    if audio.part.projector.pretrained is not None:
        load_projector(projector, audio.part.projector.pretrained, "model.compose.audio.projector")
    config.audio_config = tower.config
    model.model.audio_tower, model.model.audio_projector = tower, projector


def _with_tokens(own: Any, planned: Any) -> Any:
    """The configuration that a decoder was made with, with the special tokens of the processor."""
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        setattr(own, name, getattr(planned, name))
    return own


@torch.no_grad()
def _logits(words: Words, ids: Tensor) -> Tensor:
    """Logits (1, T, V) of the language model alone."""
    logits: Tensor = words.whole(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


@torch.no_grad()
def _same_logits(model: Any, ids: Tensor, alone: Tensor, parts: Parts) -> None:
    """Refuse a language model that does more after its last layer than multiply by a matrix: it would be lost."""
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    if not torch.allclose(logits, alone, rtol=0, atol=_SAME * float(alone.abs().max())):
        raise ModelError(
            f"{parts.language.config.model_type} scales or caps its logits, which a composed model does not",
            "model.compose.language",
            "name another language model",
        )
