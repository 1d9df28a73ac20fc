"""New models of a type that `transformers` knows, with random weights: captioners and text models.

The tokenizer is learned from the person's own words, as that of a model from scratch.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, processors
from transformers import BlipImageProcessorPil, BlipProcessor, PreTrainedTokenizerFast

from finesight.config.model import Fresh
from finesight.core.errors import ModelError
from finesight.models.compose.sources import config_from
from finesight.models.families import LINES
from finesight.models.kinds import auto_class, model_kind
from finesight.models.scratch import ASSISTANT, CHAT_TEMPLATE, END, PAD, SYSTEM, USER

_KEY = "model.fresh.config"
_BLIP = "blip"


def fresh_processor(fresh: Fresh, learned: str) -> Any:
    """The processor or tokenizer of the new model; `learned` is its tokenizer as JSON."""
    config = config_from(fresh.config, _KEY)
    kind = auto_class(config)
    if kind is None or (config.model_type != _BLIP and kind.__name__ == "AutoModelForImageTextToText"):
        raise ModelError(
            f"a new model of the type `{config.model_type}` is not made here",
            _KEY,
            "take blip or a text model such as t5 or llama; for others there are `model.scratch` and `model.compose`",
        )
    core = Tokenizer.from_str(learned)
    if config.model_type == _BLIP:
        tokenizer = _tokenizer(
            core, 512, cls_token=ASSISTANT, sep_token=END, additional_special_tokens=[USER, SYSTEM]
        )
        tokenizer.chat_template = (
            LINES  # the processor's own would be lost: BlipProcessor does not read it again
        )
        side = config.vision_config.image_size
        return BlipProcessor(BlipImageProcessorPil(size={"height": side, "width": side}), tokenizer)
    if model_kind(config) == "apart":
        number = core.token_to_id(END)
        core.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, number)]
        )
        return _tokenizer(core, fresh.context, eos_token=END)
    tokenizer = _tokenizer(
        core, fresh.context, eos_token=END, additional_special_tokens=[USER, ASSISTANT, SYSTEM]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _tokenizer(core: Tokenizer, context: int, **special: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **special,
    )


def fresh_config(fresh: Fresh, processor: Any) -> Any:
    """The configuration with what follows from the tokenizer; no weights are made."""
    if isinstance(processor, BlipProcessor):
        tokenizer = processor.tokenizer
        text = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        # BLIP's own range for its vision encoder is 1e-10, so that without pretrained weights it would see nothing
        vision = {"initializer_range": 0.02, **fresh.config.get("vision_config", {})}
        given = {**fresh.config, "text_config": {**fresh.config.get("text_config", {}), **text}}
        return config_from({**given, "vision_config": vision}, _KEY)
    ids = {
        "vocab_size": len(processor),
        "eos_token_id": processor.eos_token_id,
        "pad_token_id": processor.pad_token_id,
    }
    config = config_from({**fresh.config, **ids}, _KEY)
    config.bos_token_id = None
    if model_kind(config) == "apart":
        config.decoder_start_token_id = processor.pad_token_id
    return config


def fresh_model(config: Any, seed: int) -> Any:
    """The model with random weights that depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return auto_class(config).from_config(config, dtype=torch.float32)
        except (
            ValueError,
            RuntimeError,
            ZeroDivisionError,
            TypeError,
        ) as error:  # sizes that do not go together
            what = f"no {config.model_type} can be made of these sizes: {' '.join(str(error).split())}"
            raise ModelError(
                what, _KEY, "correct them; a width is a multiple of its number of heads"
            ) from error
