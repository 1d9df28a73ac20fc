"""From a sample to an example: the turns rendered, tokens, and targets set once.

T tokens of the example. `targets[t]` holds what the logits at position t must predict: the token at t + 1 where that
token belongs to an answer (its end token included), else IGNORE.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import TemplateError

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Message, Sample, Text


@dataclass(frozen=True)
class EncodedText:
    """Tokens and targets of one sample, int32 of shape (T,)."""

    tokens: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class _Span:
    """Where an answer stands in the rendered text: `begin` to `end`, its end token and what follows it included."""

    begin: int
    end: int
    answer: str


def encode(sample: Sample, ports: Ports) -> EncodedText:
    """Tokens and targets of a sample; raises DataError naming its origin where it cannot be learned from.

    Every answer is verified: its supervised tokens must decode to the answer and its end, character for character.
    """
    _check_words(sample, ports)
    text, spans = _rendered(sample, ports)
    if not spans:
        raise DataError(
            "there is no answer to learn from", str(sample.origin), "give it a turn of the assistant"
        )
    encoding = ports.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = np.asarray(encoding["input_ids"], dtype=np.int32)
    starts, ends = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    if len(tokens) > ports.context:
        raise DataError(
            f"the sample has {len(tokens)} tokens, the model takes {ports.context}",
            str(sample.origin),
            "shorten it, or raise the model's context",
        )
    targets = np.full(len(tokens), IGNORE, dtype=np.int32)
    for span in spans:
        inside = np.flatnonzero((starts >= span.begin) & (ends <= span.end))
        # tokens of no width (some tokenizers cut blanks off) count to the answer that they stand in, none to its edges
        inside = inside[(ends[inside] > span.begin) & (starts[inside] < span.end)]
        learned = _to_its_end(inside, tokens, text, span, sample, ports)
        targets[learned - 1] = tokens[learned]
    return EncodedText(tokens, targets)


def _to_its_end(
    inside: np.ndarray, tokens: np.ndarray, text: str, span: _Span, sample: Sample, ports: Ports
) -> np.ndarray:
    """Positions of the tokens of an answer up to its end token, after which the model's output is not read."""
    ends = _end_ids(ports)
    closing = next((at for at, token in enumerate(tokens[inside].tolist()) if token in ends), None)
    if closing is None:
        raise DataError(
            "the chat template ends the answer with no end token, so the model would not learn to stop",
            str(sample.origin),
            "use a model whose chat template closes the assistant's turn",
        )
    learned = inside[: closing + 1]
    decoded = _decode(tokens[learned], ports)
    if not text.startswith(decoded, span.begin):  # a decoder may drop a blank that comes first
        before, through = _decode(tokens[: learned[0]], ports), _decode(tokens[: learned[-1] + 1], ports)
        decoded = through.removeprefix(before)
    if learned[0] == 0 or not text.startswith(decoded, span.begin) or span.answer not in decoded:
        raise DataError(
            f"the tokens to learn read {decoded!r}, the answer is {span.answer!r}",
            str(sample.origin),
            "this tokenizer or chat template cannot write it as it stands: change the text, or use another model",
        )
    return learned


def _decode(tokens: np.ndarray, ports: Ports) -> str:
    text: str = ports.tokenizer.decode(
        tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


@lru_cache(maxsize=8)
def _end_ids(ports: Ports) -> frozenset[int]:
    """Ids of the tokens that may close an answer: the model's end tokens, or any control token."""
    return _control_tokens(ports)[0] | frozenset(ports.end_ids)


@lru_cache(maxsize=8)
def _control_tokens(ports: Ports) -> tuple[frozenset[int], re.Pattern[str] | None]:
    """Ids of the tokens that no person's text may be read as, and a pattern that finds them in text."""
    added: dict[int, Any] = ports.tokenizer.added_tokens_decoder
    named = {number: token.content for number, token in added.items() if token.special}
    if ports.image is not None:
        named[ports.image.placeholder_id] = ports.image.placeholder
    ids = frozenset(named) | frozenset(ports.tokenizer.all_special_ids)
    words = {word for word in [*named.values(), *ports.tokenizer.all_special_tokens] if word}
    longest_first = sorted(words, key=len, reverse=True)
    return ids, re.compile("|".join(map(re.escape, longest_first))) if words else None


def _check_words(sample: Sample, ports: Ports) -> None:
    """Words that a person wrote must never turn into a special token or a picture's placeholder."""
    pattern = _control_tokens(ports)[1]
    for turn in sample.messages:
        found = pattern.search(turn.text) if pattern else None
        if found:
            words = "answer" if turn.role == "assistant" else "question"
            raise DataError(
                f"the {words} contains `{found[0]}`, which this model reads as a control token",
                str(sample.origin),
                "change the text of this row",
            )


def _render(turns: Sequence[Message], ask: bool, sample: Sample, ports: Ports) -> str:
    try:
        return ports.render(turns, ask)
    except TemplateError as error:
        what = f"the chat template refuses these turns: {error}"
        raise DataError(
            what, str(sample.origin), "change the turns, or use a model with another template"
        ) from error


def _rendered(sample: Sample, ports: Ports) -> tuple[str, list[_Span]]:
    """The whole text with placeholders repeated, and where the answers stand in it.

    An answer begins where the model is asked for it (the turns before, rendered with a generation prompt) and ends
    where its rendered turn does: found by rendering prefixes, so that any chat template serves.
    """
    whole = _render(sample.messages, False, sample, ports)
    spans = []
    for number, turn in enumerate(sample.messages):
        if turn.role != "assistant":
            continue
        before = _render(sample.messages[:number], True, sample, ports)
        last = number == len(sample.messages) - 1
        through = whole if last else _render(sample.messages[: number + 1], False, sample, ports)
        answer = turn.text.strip()
        if not through.startswith(before) or not whole.startswith(through):
            what = "the chat template does not write turns one after another, so answers cannot be told from questions"
            raise DataError(what, str(sample.origin), "use a model with another chat template")
        if not through[len(before) :].lstrip().startswith(answer):
            what = (
                f"the chat template changes the answer: it writes {through[len(before) :]!r} for {answer!r}"
            )
            raise DataError(
                what, str(sample.origin), "change the text, or use a model with another chat template"
            )
        # repeated placeholders move what follows them
        begin, end = (len(text) + _growth(text, ports) for text in (before, through))
        spans.append(_Span(begin, end, answer))
    return _expand(whole, ports, sample), spans


def _growth(text: str, ports: Ports) -> int:
    """Characters that repeating the placeholders of `text` adds."""
    if ports.image is None:
        return 0
    return (
        text.count(ports.image.placeholder)
        * len(ports.image.placeholder)
        * (ports.image.tokens_per_image - 1)
    )


def _expand(rendered: str, ports: Ports, sample: Sample) -> str:
    """Each placeholder repeated for its visual tokens; their number must be that of the pictures."""
    if ports.image is None:
        if sample.images:
            raise DataError("this model takes no pictures", str(sample.origin), "use a model that does")
        return rendered
    placeholder = ports.image.placeholder
    found = rendered.count(placeholder)
    if found != len(sample.images):
        raise DataError(
            f"the rendered turns have {found} picture placeholders, the sample {len(sample.images)} pictures",
            str(sample.origin),
            "check the chat template of the model",
        )
    return rendered.replace(placeholder, placeholder * ports.image.tokens_per_image)


def encode_prompt(sample: Sample, ports: Ports) -> np.ndarray:
    """Tokens (int32, shape (T,)) of all turns before the last answer, ending where the model is to answer."""
    _check_words(sample, ports)
    turns = sample.messages[:-1] if sample.messages[-1].role == "assistant" else sample.messages
    text = _expand(_render(turns, True, sample, ports), ports, sample)
    return np.asarray(ports.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)


def sample_digest(sample: Sample) -> bytes:
    """A hash over all that an example is made from: words, pictures and references."""
    digest = hashlib.blake2b(digest_size=16)

    def add(kind: bytes, content: bytes) -> None:
        digest.update(kind + len(content).to_bytes(8, "little") + content)

    for turn in sample.messages:
        add(b"R", turn.role.encode())
        for part in turn.parts:
            if isinstance(part, Text):
                add(b"T", part.text.encode())
            else:
                add(b"I", part.data)
    for reference in sample.references:
        add(b"A", reference.encode())
    return digest.digest()
