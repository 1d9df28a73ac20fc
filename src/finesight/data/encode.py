"""From a sample to an example: the turns rendered, tokens, and targets set once.

T tokens of the example. `targets[t]` holds what the logits at position t must predict: the token at t + 1 where that
token belongs to an answer (its end token included), else IGNORE.
"""

import bisect
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import TemplateError

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Image, Message, Sample, Text
from finesight.data.lengths import Limit, TooLong, droppable, without_turns


@dataclass(frozen=True)
class EncodedText:
    """Tokens and targets of one sample, int32 of shape (T,).

    `dropped` turns (and their pictures) were left out from the start: `lengths.without_turns` gives the sample that the
    tokens are of. `note` says what was done to a sample that was too long, for the list of them; empty where nothing.
    """

    tokens: np.ndarray
    targets: np.ndarray
    dropped: int = 0
    note: str = ""


@dataclass(frozen=True)
class _Span:
    """Where an answer stands in the rendered text: `begin` to `end`, its end token and what follows it included."""

    begin: int
    end: int
    answer: str
    learn: bool


@dataclass(frozen=True)
class _Written:
    """A sample as the model reads it: the text as the template writes it (`plain`), with its placeholders repeated
    (`text`), its tokens, and the characters of `text` that each stands for.
    """

    plain: str
    text: str
    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


_AS_IT_IS = Limit()
_SHORTEN = (
    "shorten it, choose another `data.on_long`, raise `data.max_tokens` or use a model with a longer context"
)


def encode(sample: Sample, ports: Ports, limit: Limit = _AS_IT_IS, answering: bool = False) -> EncodedText:
    """Tokens and targets of a sample; raises DataError naming its origin where it cannot be learned from.

    Every answer is verified: its supervised tokens must decode to the answer and its end, character for character.
    With `answering`, a sample that ends in a question is encoded as its prompt, with nothing to learn.

    A sample longer than `limit` raises TooLong, unless the limit lets it lose whole turns from the start, or the end of
    its last answer. A picture is never cut, and of an answer that was cut the end is not learned: the model would learn
    to stop in the midst of what it has to say.
    """
    _check(sample, ports)
    if answering and sample.messages[-1].role == "user":
        return _fitted_prompt(sample, ports, limit)
    if not any(turn.role == "assistant" and turn.learn for turn in sample.messages):
        raise DataError(
            "there is no answer to learn from", str(sample.origin), "give it a turn of the assistant"
        )
    most = limit.most(ports.context)
    written = _write(sample, ports, most)
    length = None if written is None else len(written.tokens)
    if written is not None and len(written.tokens) <= most:
        return EncodedText(
            written.tokens, _targets(written, _spans(written.plain, sample, ports), sample, ports)
        )
    if limit.on_long == "drop_turns":
        dropped = _fewest(droppable(sample), lambda item: _write(item, ports, most), most, sample)
        if dropped is not None:
            shorter = without_turns(sample, dropped)
            found = encode(shorter, ports, limit)
            note = f"{dropped} turns left out from the start: {_told('sample', length, most)}"
            return replace(found, dropped=dropped, note=note)
    if limit.on_long == "cut_answer" and written is not None:
        cut = _cut(written, most, sample, ports)
        if cut is not None:
            return cut
    raise _too_long("sample", length, most, sample)


def encode_prompt(sample: Sample, ports: Ports) -> np.ndarray:
    """Tokens (int32, shape (T,)) of all turns before the last answer, ending where the model is to answer."""
    _check(sample, ports)
    most = ports.context - 1  # an answer has one token at least
    written = _write_prompt(sample, ports, most)
    if written is None or len(written.tokens) > most:
        raise _too_long("question", None if written is None else len(written.tokens), most, sample)
    return written.tokens


def _fitted_prompt(sample: Sample, ports: Ports, limit: Limit) -> EncodedText:
    """The prompt of a question without an answer; nothing of it is learned, and room is left for an answer's token."""
    most = limit.most(ports.context - 1)
    written, dropped, note = _write_prompt(sample, ports, most), 0, ""
    length = None if written is None else len(written.tokens)
    if (length is None or length > most) and limit.on_long == "drop_turns":
        fewest = _fewest(
            droppable(sample, ask=True), lambda item: _write_prompt(item, ports, most), most, sample
        )
        if fewest is not None:
            dropped, written = fewest, _write_prompt(without_turns(sample, fewest), ports, most)
            note = f"{dropped} turns left out from the start: {_told('question', length, most)}"
    if written is None or len(written.tokens) > most:
        raise _too_long("question", length, most, sample)
    tokens = written.tokens
    return EncodedText(tokens, np.full(len(tokens), IGNORE, dtype=np.int32), dropped, note)


def _told(what: str, length: int | None, most: int) -> str:
    return (
        f"the {what} has {f'more than {most}' if length is None else length} tokens, the model takes {most}"
    )


def _too_long(what: str, length: int | None, most: int, sample: Sample) -> TooLong:
    return TooLong(_told(what, length, most), str(sample.origin), _SHORTEN)


def _fewest(
    choices: Sequence[int], write: Callable[[Sample], _Written | None], most: int, sample: Sample
) -> int | None:
    """The fewest turns to leave out so that the sample fits; the more are left out, the shorter it is."""

    def fits(dropped: int) -> bool:
        written = write(without_turns(sample, dropped))
        return written is not None and len(written.tokens) <= most

    at = bisect.bisect_left(choices, True, key=fits)
    return choices[at] if at < len(choices) else None


def _write(sample: Sample, ports: Ports, most: int) -> _Written | None:
    """The whole sample; None where its characters are more than `most` tokens can stand for."""
    plain = _render(sample.messages, False, sample, ports)
    return _tokenised(plain, _expand(plain, ports, sample), ports, most)


def _write_prompt(sample: Sample, ports: Ports, most: int) -> _Written | None:
    """The turns before the last answer, ending where the model is to answer."""
    turns = sample.messages[:-1] if sample.messages[-1].role == "assistant" else sample.messages
    plain = _render(turns, True, sample, ports)
    return _tokenised(plain, _expand(plain, ports, replace(sample, messages=turns)), ports, most)


def _tokenised(plain: str, text: str, ports: Ports, most: int) -> _Written | None:
    if len(text) > most * _longest_token(ports):
        return None  # not to spend a minute on a row of a hundred megabytes
    encoding = ports.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = np.asarray(encoding["input_ids"], dtype=np.int32)
    starts, ends = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    return _Written(plain, text, tokens, starts, ends)


@lru_cache(maxsize=8)
def _longest_token(ports: Ports) -> int:
    """Characters of the longest token."""
    return max(map(len, ports.tokenizer.get_vocab()))


def _targets(written: _Written, spans: Sequence[_Span], sample: Sample, ports: Ports) -> np.ndarray:
    targets = np.full(len(written.tokens), IGNORE, dtype=np.int32)
    for span in spans:
        if span.learn:
            learned = _learned(written, span, sample, ports)
            targets[learned - 1] = written.tokens[learned]
    return targets


def _learned(written: _Written, span: _Span, sample: Sample, ports: Ports) -> np.ndarray:
    """Positions of the tokens of an answer, its end token included."""
    starts, ends = written.starts, written.ends
    inside = np.flatnonzero((starts >= span.begin) & (ends <= span.end))
    # tokens of no width (some tokenizers cut blanks off) count to the answer that they stand in, none to its edges
    inside = inside[(ends[inside] > span.begin) & (starts[inside] < span.end)]
    return _to_its_end(inside, written.tokens, written.text, span, sample, ports)


def _cut(written: _Written, most: int, sample: Sample, ports: Ports) -> EncodedText | None:
    """The example with the end of its last answer cut off, and that answer's end token with it; None where it does not
    end in an answer to learn from, or no token of it would be left.
    """
    last = sample.messages[-1]
    prompt = _write_prompt(sample, ports, most) if last.role == "assistant" and last.learn else None
    if prompt is None or len(prompt.tokens) >= most:
        return None
    spans = _spans(written.plain, sample, ports)
    targets = _targets(written, spans, sample, ports)
    answer = _learned(written, spans[-1], sample, ports)[:-1]
    kept = int((answer < most).sum())
    while kept and kept < len(answer) and written.starts[answer[kept]] < written.ends[answer[kept - 1]]:
        kept -= 1  # the next token is of the same character, and half a character is none
    if not kept:
        return None
    end = int(answer[kept - 1]) + 1
    targets = targets[:end].copy()
    targets[-1] = IGNORE  # what comes next was cut off
    told = _told("sample", len(written.tokens), most)
    note = f"the answer is cut after {kept} of {len(answer)} tokens: {told}"
    return EncodedText(written.tokens[:end].copy(), targets, 0, note)


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
            f"the tokens to learn read {_short(decoded)}, the answer is {_short(span.answer)}",
            str(sample.origin),
            "this tokenizer or chat template cannot write it as it stands: change the text, or use another model",
        )
    return learned


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


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


_WORDS_OF = {"user": "question", "assistant": "answer", "system": "system message"}


def _check(sample: Sample, ports: Ports) -> None:
    """What no model, or this one, can read: words that would turn into a special token or a placeholder, sounds."""
    if sample.messages[0].role == "assistant":
        raise DataError("the first turn is an answer", str(sample.origin), "put a turn of the user before it")
    if sample.sounds:
        raise DataError("this model takes no sounds", str(sample.origin), "use a model that does")
    pattern = _control_tokens(ports)[1]
    for turn in sample.messages:
        found = pattern.search(turn.text) if pattern else None
        if found:
            words = _WORDS_OF[turn.role]
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


def _spans(whole: str, sample: Sample, ports: Ports) -> list[_Span]:
    """Where the answers stand in the whole text, once its placeholders are repeated.

    An answer begins where the model is asked for it (the turns before, rendered with a generation prompt) and ends
    where its rendered turn does: found by rendering prefixes, so that any chat template serves. A template may write
    more at the end of the last turn than of the others (Phi-3 does); what both have in common is the turn's.
    """
    spans = []
    for number, turn in enumerate(sample.messages):
        if turn.role != "assistant":
            continue
        before = _render(sample.messages[:number], True, sample, ports)
        last = number == len(sample.messages) - 1
        through = whole if last else _render(sample.messages[: number + 1], False, sample, ports)
        answer = turn.text.strip()
        if not through.startswith(before) or not whole.startswith(before):
            what = "the chat template does not write turns one after another, so answers cannot be told from questions"
            raise DataError(what, str(sample.origin), "use a model with another chat template")
        if not whole.startswith(through):
            both = enumerate(zip(through, whole, strict=False))
            through = whole[: next(at for at, (one, other) in both if one != other)]
        if not through[len(before) :].lstrip().startswith(answer):
            written, wanted = _short(whole[len(before) :]), _short(answer)
            what = f"the chat template changes the answer: it writes {written} for {wanted}"
            raise DataError(
                what, str(sample.origin), "change the text, or use a model with another chat template"
            )
        # repeated placeholders move what follows them
        begin, end = (len(text) + _growth(text, ports) for text in (before, through))
        spans.append(_Span(begin, end, answer, turn.learn))
    return spans


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


def sample_digest(sample: Sample) -> bytes:
    """A hash over all that an example is made from: words, pictures and references.

    Pictures and sounds that were looked for and not read count by their files' names and sizes.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(kind: bytes, content: bytes) -> None:
        digest.update(kind + len(content).to_bytes(8, "little") + content)

    for turn in sample.messages:
        add(b"R" if turn.learn else b"r", turn.role.encode())
        for part in turn.parts:
            if isinstance(part, Text):
                add(b"T", part.text.encode())
                continue
            add(b"I" if isinstance(part, Image) else b"S", part.data)
            if part.file is not None and not part.data:
                add(b"F", f"{part.file.size} {part.file.name}".encode())
    for reference in sample.references:
        add(b"A", reference.encode())
    return digest.digest()
