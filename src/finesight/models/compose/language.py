"""The language model of a composed model: what it is, its tokenizer, and its weights.

V rows of the embeddings, E its width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from finesight.config.compose import LanguagePart
from finesight.core.errors import ModelError
from finesight.models.compose.bodies import BODIES, find_body
from finesight.models.compose.gguf import converted
from finesight.models.compose.sources import (
    COMPOSED,
    READ_ERRORS,
    config_at,
    config_from,
    reading_weights,
    said,
    whole,
)
from finesight.models.scratch import CHAT_TEMPLATE, END

_WHERE = "model.compose.language"


@dataclass(frozen=True)
class Words:
    """A language model: the `whole`, its `decoder`, and its `head` from hidden states (…, E) to logits (…, V)."""

    whole: Any
    decoder: Any
    head: nn.Linear


@dataclass(frozen=True)
class Language:
    """A language model before its weights are read; `tokenizer` is None where it is to be learned.

    `bias` says whether its output embeddings have one, `known` whether LLaVA's can stand for them.
    """

    part: LanguagePart
    config: Any
    weights: str | None
    tokenizer: Any
    bias: bool
    known: bool

    @property
    def template(self) -> str | None:
        """Its own chat template."""
        if self.tokenizer is None:
            return CHAT_TEMPLATE
        own = self.tokenizer.chat_template
        return own.get("default") if isinstance(own, dict) else own

    @property
    def close(self) -> str:
        """The token that ends an answer."""
        return END if self.tokenizer is None else str(self.tokenizer.eos_token)

    def load(self, config: Any, tokens: int) -> Words:
        """The model with its weights in fp32, and with the rows of the embeddings that `config` says.

        New tokens, those from the size of its own tokenizer up to `tokens`, begin as the mean of the old ones. All is
        random where it comes from a `config` of the recipe.
        """
        if self.weights is None:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            return Words(model, _decoder_of(model), model.get_output_embeddings())
        words = _loaded(self.weights, self.config)
        _grow(words, config.vocab_size, len(self.tokenizer), tokens)
        return words


def open_language(part: LanguagePart) -> Language:
    """Read what a language model is; raises ModelError where none is there."""
    if part.config is not None:
        config = config_from(part.config, f"{_WHERE}.config")
        return Language(part, config, None, None, *_head(config, f"{_WHERE}.config"))
    place = str(part.pretrained)
    if place in BODIES:
        place = str(find_body(place))
    if place.endswith(".gguf"):
        place = converted(Path(place))
    config = config_at(place, _WHERE)
    inside = config.to_dict().get("text_config")
    config = config if inside is None else config.text_config
    bias, known = _head(config, f"{_WHERE}.pretrained: {place}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except READ_ERRORS as error:
        raise ModelError(
            f"its tokenizer cannot be read: {said(error)}",
            f"{_WHERE}.pretrained: {place}",
            "save the tokenizer beside it",
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "its tokenizer has no end token, so the model would not learn to stop",
            f"{_WHERE}.pretrained: {place}",
            "set its `eos_token`, and save it again",
        )
    return Language(part, config, place, tokenizer, bias, known)


def _head(config: Any, where: str) -> tuple[bool, bool]:
    """Whether the output embeddings have a bias, and whether LLaVA's can stand for them."""
    if type(config) not in AutoModelForCausalLM._model_mapping or config.is_encoder_decoder:
        raise ModelError(
            f"{config.model_type} is no language model that writes word after word",
            where,
            "name one such as Llama, Qwen or Phi",
        )
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (TypeError, ValueError, RuntimeError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"its sizes do not go together: {said(error)}", where, "correct them") from error
    head, decoder = model.get_output_embeddings(), _decoder_of(model)
    if not isinstance(head, nn.Linear) or decoder is model or head.in_features != config.hidden_size:
        raise ModelError(
            f"the output embeddings of {config.model_type} are no plain matrix over its hidden states",
            where,
            "name another language model",
        )
    if "max_position_embeddings" not in config.to_dict().keys() | config.attribute_map.keys():
        raise ModelError(
            f"{config.model_type} does not say how many tokens it takes", where, "name another language model"
        )
    name = next(name for name, part in decoder.named_modules() if part is decoder.get_input_embeddings())
    bias = head.bias is not None
    return bias, not bias and (name == "embed_tokens" or not config.tie_word_embeddings)


def _decoder_of(model: Any) -> Any:
    """The decoder alone, as `AutoModel` makes it from the same configuration."""
    return getattr(model, model.base_model_prefix, model)


def _loaded(place: str, config: Any) -> Words:
    with reading_weights(f"{_WHERE}.pretrained: {place}"):
        if AutoConfig.from_pretrained(place, trust_remote_code=False).model_type in COMPOSED:
            both = AutoModelForImageTextToText.from_pretrained(place, dtype="float32", use_safetensors=True)
            return Words(both, both.model.language_model, both.get_output_embeddings())
        model, facts = AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype="float32", output_loading_info=True, use_safetensors=True
        )
    whole(facts, place, lambda name: False)
    return Words(model, _decoder_of(model), model.get_output_embeddings())


@torch.no_grad()
def _grow(words: Words, rows: int, known: int, tokens: int) -> None:
    """Give the embeddings `rows` rows; those of the tokens from `known` to `tokens`, and those that are new, become the
    mean of the rows of known tokens; a tied matrix is one still.
    """
    inner, head = words.decoder.get_input_embeddings(), words.head
    tied = inner.weight is head.weight
    inner.weight, inner.num_embeddings = _grown(inner.weight, rows, known, tokens), rows
    head.weight = inner.weight if tied else _grown(head.weight, rows, known, tokens)
    head.out_features = rows
    if head.bias is not None:
        head.bias = _grown(head.bias, rows, known, tokens)
    words.decoder.config.vocab_size = rows


def _grown(table: Any, rows: int, known: int, tokens: int) -> nn.Parameter:
    """(V, …) to (rows, …)."""
    old = table.data
    mean = old[:known].mean(0)
    grown = old.new_empty(rows, *old.shape[1:])
    grown[: len(old)] = old
    grown[len(old) :] = mean
    grown[known:tokens] = mean
    return nn.Parameter(grown, table.requires_grad)
