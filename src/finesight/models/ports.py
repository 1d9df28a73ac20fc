"""Ports of a model: what data needs to know of it, read from its processor and configuration alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from finesight.core.errors import ModelError
from finesight.core.ports import Encoder, ImagePort, Ports
from finesight.core.sample import Image, Message, Part, Text
from finesight.models.families import FAMILIES, NONE, PLAIN, Along, Family
from finesight.models.kinds import inputs_of, model_kind
from finesight.models.pictures import ProcessorPort, probed, squashed
from finesight.models.processors import Pair, image_processor_of, tokenizer_of
from finesight.models.sounds import PlacedSounds, sound_port

_CONTEXTS = (
    "max_position_embeddings",
    "max_target_positions",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
)
"""Names of the longest sequence in configurations."""

_ENDLESS = 1 << 30
"""Tokenizers say numbers like this where they know no longest text."""

_RATE = 16_000
"""Samples of sound a second that `data.sounds` decodes to."""

_USER = Message("user", (Text("a"),))


def as_conversation(messages: Sequence[Message], joined: bool = False) -> list[dict[str, Any]]:
    """Messages in the form that `apply_chat_template` takes; `joined`: their words alone, for a text model."""
    return [
        {
            "role": message.role,
            "content": message.text if joined else [_as_content(part) for part in message.parts],
        }
        for message in messages
    ]


def _as_content(part: Part) -> dict[str, str]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image" if isinstance(part, Image) else "audio"}


def _beginning(tokenizer: Any) -> str:
    """The token that this tokenizer puts before every text, if any; some templates write it, some leave it out."""
    if tokenizer.bos_token_id is None or tokenizer("")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return ""
    return str(tokenizer.bos_token)


@dataclass(frozen=True)
class _Render:
    """A chat template; a class, so that a loader's worker that is not forked can be sent it.

    `writer` is a processor or tokenizer. `begin` is put before texts that lack it, `close` after answers whose end the
    template does not write.
    """

    writer: Any
    begin: str
    joined: bool
    close: str = ""

    def __call__(self, messages: Sequence[Message], ask: bool) -> str:
        turns = as_conversation([self._closed(turn) for turn in messages], self.joined)
        text = str(self.writer.apply_chat_template(turns, add_generation_prompt=ask, tokenize=False))
        return text if self.begin in text else self.begin + text

    def _closed(self, turn: Message) -> Message:
        if not self.close or turn.role != "assistant":
            return turn
        return replace(turn, parts=(Text(turn.text.strip() + self.close),))


def _no_template(messages: Sequence[Message], ask: bool) -> str:
    raise RuntimeError("an encoder-decoder has no chat template")


def _read(messages: Sequence[Message]) -> str:
    """What an encoder reads of turns: their words, one after another."""
    return "\n".join(turn.text for turn in messages)


def _context(config: Any, tokenizer: Any) -> int:
    """The longest sequence of tokens, as the configuration says, or the tokenizer."""
    text = config.get_text_config(decoder=True)
    for name in _CONTEXTS:
        if getattr(text, name, None):
            return int(getattr(text, name))
    most = int(tokenizer.model_max_length)
    return most if most < _ENDLESS else 512


def _picture_port(
    processor: Any, config: Any, family: Family, where: str
) -> ImagePort | ProcessorPort | None:
    images = image_processor_of(processor)
    if images is None:
        return None
    token = (
        ""
        if family.beside or isinstance(processor, Pair)
        else str(getattr(processor, "image_token", None) or "")
    )
    number = tokenizer_of(processor).convert_tokens_to_ids(token) if token else -1
    named = (one for one in getattr(processor, "image_token_ids", ()) if one is not None)
    visual = tuple(map(int, named)) or (number,)
    names = inputs_of(config)
    along = _along(family, names)
    simple = squashed(images) if along == "none" else None
    if not token:
        if simple is not None:
            return replace(simple, most=1)
        return probed(ProcessorPort(images, {}, "", -1, (), names, most=1), where)
    settings = _settings(processor)
    port = ProcessorPort(
        images, settings, token, visual[0], visual, names, kind=along, write=_writer(processor)
    )
    port = probed(port, where)
    if simple is not None and len(port.fixed) == 1:
        (words,) = port.fixed
        each = words.count(token)
        if words == token * each:
            return replace(simple, placeholder=token, placeholder_id=number, tokens_per_image=each)
    return port


def _along(family: Family, names: frozenset[str]) -> Along:
    if family.along != "none":
        return family.along
    return "kinds" if "mm_token_type_ids" in names else "none"


def _settings(processor: Any) -> Mapping[str, Any]:
    """What the processor hands to its image processor beside the pictures."""
    merged = processor._merge_kwargs(tokenizer_init_kwargs=processor.tokenizer.init_kwargs)
    return {name: value for name, value in merged["images_kwargs"].items() if name != "return_tensors"}


def _writer(processor: Any) -> Any:
    """How the processor writes picture number `at` of what its image processor `found`."""
    if "num_query_tokens" in vars(processor):  # BLIP-2's knows the number, and has no method for it
        token, count = str(processor.image_token), int(processor.num_query_tokens)
        return lambda found, at: token * count
    return lambda found, at: processor.replace_image_token(found, image_idx=at)


def ports_of(processor: Any, config: Any, where: str = "the model") -> Ports:
    """Ports of a model from its processor and configuration; no weights are touched.

    Raises ModelError for a family that cannot be used, and says why.
    """
    family = FAMILIES.get(config.model_type, NONE)
    if family.refused:
        raise ModelError(
            f"models of the family `{config.model_type}` cannot be used: {family.refused}", where, _OTHER
        )
    tokenizer = tokenizer_of(processor)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise ModelError(
            "its tokenizer is not one of the fast ones, which tell where tokens stand", where, _OTHER
        )
    image, sound = _picture_port(processor, config, family, where), sound_port(processor)
    if sound is not None and sound.rate != _RATE:
        what = f"it wants {sound.rate:,} samples of sound a second, and sounds are read with {_RATE:,}"
        raise ModelError(what, where, _OTHER)
    pad = tokenizer.pad_token_id
    ends = _ends(tokenizer)
    encoder, said = None, list[tuple[str, str]]()
    if model_kind(config) == "apart":
        encoder = _encoder(tokenizer, config, image is None and sound is None)
        render: Any = _no_template
    else:
        render = _render_of(processor, tokenizer, config, family, image, said, where)
        closing = _closing(render, tokenizer)
        if closing is None and ends:
            close = tokenizer.decode([ends[0]])
            render = replace(render, close=close)
            closing = _closing(render, tokenizer)
            said.append(
                ("template", f"its chat template writes no end after an answer: {close} is put there")
            )
        if closing is None:
            what = "its chat template ends answers with no end token, so the model would not learn to stop"
            raise ModelError(what, where, "use a model whose template closes the assistant's turn")
        ends = tuple(dict.fromkeys([*ends, closing]))
    first = None if family.first is None else int(getattr(config.get_text_config(), family.first))
    return Ports(
        tokenizer=tokenizer,
        render=render,
        image=image,
        pad_id=ends[0] if pad is None else pad,
        end_ids=ends,
        context=_context(config, tokenizer),
        fingerprint=_fingerprint(tokenizer, render, image, encoder, first, sound),
        encoder=encoder,
        sound=sound,
        plain_generate=family.plain_generate,
        first_id=first,
        asked_ids=() if family.asked is None else (int(getattr(tokenizer, f"{family.asked}_id")),),
        pads=family.pads,
        said=tuple(said),
    )


_OTHER = "use a model of another family; the docs have a table of those that work"


def _render_of(
    processor: Any,
    tokenizer: Any,
    config: Any,
    family: Family,
    image: Any,
    said: list[tuple[str, str]],
    where: str,
) -> _Render:
    """The model's own template, else its family's, else, for a text model, a plain one; the latter are kept with it."""
    text_only = image is None
    for writer in (processor, tokenizer):
        if writer.chat_template:
            begin = "" if family.template is not None else _beginning(tokenizer)
            return _Render(writer, begin, text_only)
    if family.template is not None:
        placeholder = image.placeholder if image is not None else ""
        processor.chat_template = tokenizer.chat_template = family.template.replace("<PICTURE>", placeholder)
        return _Render(tokenizer, "", False)
    if text_only:
        tokenizer.chat_template = PLAIN
        told = (
            "the model has no chat template: turns are written line by line, answers closed by its end token"
        )
        said.append(("template", told))
        return _Render(tokenizer, _beginning(tokenizer), True)
    what = (
        f"its processor has no chat template, and finesight knows none for the family `{config.model_type}`"
    )
    raise ModelError(what, where, "save a `chat_template.jinja` beside the model, or use another one")


def _closing(render: _Render, tokenizer: Any) -> int | None:
    """The token that the template ends an answer with; None where it is no control token."""
    answer = Message("assistant", (Text("b"),))
    try:
        asked, whole = render([_USER], True), render([_USER, answer], False)
    except TemplateError:  # it wants other turns than these; each sample is checked for its end
        return int(tokenizer.eos_token_id) if tokenizer.eos_token_id is not None else None
    if not whole.startswith(asked):
        return (
            tokenizer.eos_token_id
            if tokenizer.eos_token and tokenizer.eos_token in whole.partition("b")[2]
            else None
        )
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    after = tokenizer(whole[len(asked) :], add_special_tokens=False)["input_ids"]
    return next((number for number in after if number in special), None)


def _ends(tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's end token. A configuration's is not asked: where nobody set it, it is some number."""
    found = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return () if found is None else (int(found),)


def _encoder(tokenizer: Any, config: Any, reads: bool) -> Encoder:
    """How an encoder–decoder begins its answers: its start token, and what the tokenizer puts before a target.

    `reads`: its encoder takes text.
    """
    text = config.get_text_config(decoder=True)
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(text, "decoder_start_token_id", None)
    if start is None:
        start = getattr(text, "bos_token_id", None)
    special = set(tokenizer.all_special_ids)
    before = []
    for number in tokenizer(text_target="a")["input_ids"]:
        if number not in special:
            break
        before.append(number)
    begun = ([] if start is None else [int(start)]) + [number for number in before if number != start]
    most = int(tokenizer.model_max_length)
    own = _context(config.get_text_config(encoder=True) if reads else text, tokenizer)
    return Encoder(_read if reads else None, tuple(begun), min(own, most))


def _fingerprint(
    tokenizer: Any, render: Any, image: Any, encoder: Encoder | None, first: int | None, sound: Any
) -> str:
    """Of all that makes an example. What a family does not have is left out, so that a new field changes no other's."""
    described: list[Any] = [tokenizer.backend_tokenizer.to_str()]
    if isinstance(render, _Render):
        described.append(render.writer.chat_template)
    if isinstance(image, ImagePort):
        described.append({name: value for name, value in vars(image).items() if value is not None})
    elif image is not None:
        described += [
            image.image_processor.to_dict(),
            repr(sorted(image.settings.items())),
            image.fixed,
            image.kind,
        ]
    if encoder is not None:
        described.append([encoder.start, encoder.context])
    quirks = {"close": getattr(render, "close", ""), "first": first}
    described += [quirks] if any(quirks.values()) else []
    described += [sound.told] if isinstance(sound, PlacedSounds) else []
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
