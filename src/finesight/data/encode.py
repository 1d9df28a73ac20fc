"""From a sample to an example: the turns rendered, tokens, and targets set once.

T tokens of the example. `targets[t]` holds what the logits at position t must predict: the token at t + 1 where that
token belongs to an answer (its end token included), else IGNORE.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Sample
from finesight.data.control import check_words, decode, end_ids, render, same_words, short
from finesight.data.encode_apart import encode_apart, encode_question
from finesight.data.lengths import EncodedText, Limit, droppable, fewest, told, too_long, without_turns
from finesight.data.pictures.load import size_of
from finesight.data.sounds.direct import decoded_sounds


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
    (`text`), its tokens, and the characters of `text` that each stands for. `growth[k]` characters were added by
    the first k placeholders.
    """

    plain: str
    text: str
    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    growth: tuple[int, ...]


_AS_IT_IS = Limit()


def encode(sample: Sample, ports: Ports, limit: Limit = _AS_IT_IS, answering: bool = False) -> EncodedText:
    """Tokens and targets of a sample; raises DataError naming its origin where it cannot be learned from.

    Every answer is verified: its supervised tokens must decode to the answer and its end, character for character.
    With `answering`, a sample that ends in a question is encoded as its prompt, with nothing to learn.

    A sample longer than `limit` raises TooLong, unless the limit lets it lose whole turns from the start, or the end of
    its last answer. A picture is never cut, and of an answer that was cut the end is not learned: the model would learn
    to stop in the midst of what it has to say.
    """
    check_words(sample, ports)
    if ports.encoder is not None:
        return encode_apart(sample, ports, ports.encoder, limit, answering)
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
        return EncodedText(written.tokens, _targets(written, _spans(written, sample, ports), sample, ports))
    if limit.on_long == "drop_turns":
        dropped = fewest(sample, droppable(sample), lambda item: _fits(_write(item, ports, most), most))
        if dropped is not None:
            shorter = without_turns(sample, dropped)
            found = encode(shorter, ports, limit)
            note = f"{dropped} turns left out from the start: {told('sample', length, most)}"
            return replace(found, dropped=dropped, note=note)
    if limit.on_long == "cut_answer" and written is not None:
        cut = _cut(written, most, sample, ports)
        if cut is not None:
            return cut
    raise too_long("sample", length, most, sample)


def encode_prompt(sample: Sample, ports: Ports) -> np.ndarray:
    """Tokens (int32, shape (T,)) of all turns before the last answer, ending where the model is to answer.

    Of an encoder–decoder they are what its encoder reads.
    """
    check_words(sample, ports)
    if ports.encoder is not None:
        return encode_question(sample, ports, ports.encoder)
    most = ports.context - 1  # an answer has one token at least
    written = _write_prompt(sample, ports, most)
    if written is None or len(written.tokens) > most:
        raise too_long("question", None if written is None else len(written.tokens), most, sample)
    return np.append(written.tokens, np.array(ports.asked_ids, dtype=np.int32))


def _fitted_prompt(sample: Sample, ports: Ports, limit: Limit) -> EncodedText:
    """The prompt of a question without an answer; nothing of it is learned, and room is left for an answer's token."""
    most = limit.most(ports.context - 1)
    written, dropped, note = _write_prompt(sample, ports, most), 0, ""
    length = None if written is None else len(written.tokens)
    if (length is None or length > most) and limit.on_long == "drop_turns":
        few = fewest(
            sample, droppable(sample, ask=True), lambda item: _fits(_write_prompt(item, ports, most), most)
        )
        if few is not None:
            dropped, written = few, _write_prompt(without_turns(sample, few), ports, most)
            note = f"{dropped} turns left out from the start: {told('question', length, most)}"
    if written is None or len(written.tokens) > most:
        raise too_long("question", length, most, sample)
    tokens = written.tokens
    return EncodedText(tokens, np.full(len(tokens), IGNORE, dtype=np.int32), dropped, note)


def _fits(written: "_Written | None", most: int) -> bool:
    return written is not None and len(written.tokens) <= most


def _write(sample: Sample, ports: Ports, most: int) -> _Written | None:
    """The whole sample; None where its characters are more than `most` tokens can stand for."""
    plain = render(sample.messages, False, sample, ports)
    return _tokenised(plain, sample, ports, most)


def _write_prompt(sample: Sample, ports: Ports, most: int) -> _Written | None:
    """The turns before the last answer, ending where the model is to answer."""
    turns = sample.messages[:-1] if sample.messages[-1].role == "assistant" else sample.messages
    plain = render(turns, True, sample, ports)
    return _tokenised(plain, replace(sample, messages=turns), ports, most)


def _tokenised(plain: str, sample: Sample, ports: Ports, most: int) -> _Written | None:
    text, growth = _expand(plain, ports, sample)
    if len(text) > most * _longest_token(ports):
        return None  # not to spend a minute on a row of a hundred megabytes
    encoding = ports.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = np.asarray(encoding["input_ids"], dtype=np.int32)
    starts, ends = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    if ports.first_id is not None:
        tokens[0] = ports.first_id
    return _Written(plain, text, tokens, starts, ends, growth)


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
    spans = _spans(written, sample, ports)
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
    why = told("sample", len(written.tokens), most)
    note = f"the answer is cut after {kept} of {len(answer)} tokens: {why}"
    return EncodedText(written.tokens[:end].copy(), targets, 0, note)


def _to_its_end(
    inside: np.ndarray, tokens: np.ndarray, text: str, span: _Span, sample: Sample, ports: Ports
) -> np.ndarray:
    """Positions of the tokens of an answer up to its end token, after which the model's output is not read."""
    ends = end_ids(ports)
    closing = next((at for at, token in enumerate(tokens[inside].tolist()) if token in ends), None)
    if closing is None:
        raise DataError(
            "the chat template ends the answer with no end token, so the model would not learn to stop",
            str(sample.origin),
            "use a model whose chat template closes the assistant's turn",
        )
    learned = inside[: closing + 1]
    decoded = decode(tokens[learned], ports)
    if not text.startswith(decoded, span.begin):  # a decoder may drop a blank that comes first
        before, through = decode(tokens[: learned[0]], ports), decode(tokens[: learned[-1] + 1], ports)
        decoded = through.removeprefix(before)
    exact = text.startswith(decoded, span.begin) and span.answer in decoded
    closed = decode(tokens[learned[-1:]], ports)
    if learned[0] == 0 or not (exact or same_words(decoded, span.answer, closed, ports)):
        raise DataError(
            f"the tokens to learn read {short(decoded)}, the answer is {short(span.answer)}",
            str(sample.origin),
            "this tokenizer or chat template cannot write it as it stands: change the text, or use another model",
        )
    return learned


def _spans(written: _Written, sample: Sample, ports: Ports) -> list[_Span]:
    """Where the answers stand in the whole text, once its placeholders are repeated.

    An answer begins where the model is asked for it (the turns before, rendered with a generation prompt) and ends
    where its rendered turn does: found by rendering prefixes, so that any chat template serves. A template may write
    more at the end of the last turn than of the others (Phi-3 does); what both have in common is the turn's.
    """
    whole, spans = written.plain, []
    for number, turn in enumerate(sample.messages):
        if turn.role != "assistant":
            continue
        before = render(sample.messages[:number], True, sample, ports)
        last = number == len(sample.messages) - 1
        through = whole if last else render(sample.messages[: number + 1], False, sample, ports)
        answer = turn.text.strip()
        if not through.startswith(before) or not whole.startswith(before):
            what = "the chat template does not write turns one after another, so answers cannot be told from questions"
            raise DataError(what, str(sample.origin), "use a model with another chat template")
        if not whole.startswith(through):
            both = enumerate(zip(through, whole, strict=False))
            through = whole[: next(at for at, (one, other) in both if one != other)]
        if not through[len(before) :].lstrip().startswith(answer):
            wrote, wanted = short(whole[len(before) :]), short(answer)
            what = f"the chat template changes the answer: it writes {wrote} for {wanted}"
            raise DataError(
                what, str(sample.origin), "change the text, or use a model with another chat template"
            )
        # repeated placeholders move what follows them
        begin, end = (len(text) + _growth(text, written, ports) for text in (before, through))
        spans.append(_Span(begin, end, answer, turn.learn))
    return spans


def _growth(text: str, written: _Written, ports: Ports) -> int:
    """Characters that repeating the placeholders of `text` adds."""
    return written.growth[len(_places(text, ports))]


def _places(rendered: str, ports: Ports) -> list[re.Match[str]]:
    """The placeholders of pictures and sounds in a text, in their order."""
    marks = [port.placeholder for port in (ports.image, ports.sound) if port is not None and port.placeholder]
    return list(re.finditer("|".join(map(re.escape, marks)), rendered)) if marks else []


def _expand(rendered: str, ports: Ports, sample: Sample) -> tuple[str, tuple[int, ...]]:
    """Each placeholder in the words of its picture or sound, and the characters that the first of them have added.

    There must be as many placeholders as pictures, and as sounds; or none, where the model has them beside its text.
    """
    words = {**_of_pictures(rendered, ports, sample), **_of_sounds(rendered, ports, sample)}
    text, growth, at = "", [0], 0
    for place in _places(rendered, ports):
        word = next(words[place[0]])
        text += rendered[at : place.start()] + word
        growth.append(growth[-1] + len(word) - len(place[0]))
        at = place.end()
    return text + rendered[at:], tuple(growth)


def _of_pictures(rendered: str, ports: Ports, sample: Sample) -> dict[str, Iterator[str]]:
    """What stands for each picture, by their placeholder."""
    port, count = ports.image, len(sample.images)
    if port is None:
        if count:
            raise DataError("this model takes no pictures", str(sample.origin), "use a model that does")
        return {}
    if port.most is not None and count > port.most:
        what = f"the sample has {count} pictures, this model takes {port.most}"
        raise DataError(what, str(sample.origin), "use a model that takes several, or leave pictures out")
    if not port.placeholder:
        if count == 0:
            raise DataError(
                "this model answers about a picture, and the sample has none",
                str(sample.origin),
                "give it one",
            )
        return {}
    _same_number(rendered, port.placeholder, "picture", count, sample)
    where = str(sample.origin)
    sizes = [size_of(image.data, where) if port.sized else (1, 1) for image in sample.images]
    return {port.placeholder: iter(port.words(sizes))}


def _of_sounds(rendered: str, ports: Ports, sample: Sample) -> dict[str, Iterator[str]]:
    """What stands for each sound, by their placeholder."""
    port = ports.sound
    if port is None or not port.placeholder:
        return {}
    _same_number(rendered, port.placeholder, "sound", len(sample.sounds), sample)
    return {port.placeholder: iter(port.words([len(sound) for sound in decoded_sounds(sample, port)]))}


def _same_number(rendered: str, placeholder: str, kind: str, count: int, sample: Sample) -> None:
    found = rendered.count(placeholder)
    if found != count:
        raise DataError(
            f"the rendered turns have {found} {kind} placeholders, the sample {count} {kind}s",
            str(sample.origin),
            "check the chat template of the model",
        )
