"""Samples of an encoder–decoder: what its encoder reads, and the answer that its decoder writes.

S tokens of the encoder's text, T of the decoder's. `targets[t]` is the token that follows the decoder's token t where
that belongs to the answer or is its end.
"""

import numpy as np

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Encoder, Ports
from finesight.core.sample import Message, Sample
from finesight.data.control import control_tokens, decode, same_words, short
from finesight.data.lengths import EncodedText, Limit, droppable, fewest, told, too_long, without_turns

_NONE = np.empty(0, dtype=np.int32)


def encode_apart(
    sample: Sample, ports: Ports, encoder: Encoder, limit: Limit, answering: bool = False
) -> EncodedText:
    """What the encoder reads of all turns before the last answer, and that answer as the decoder's tokens and targets.

    With `answering`, the answer may be missing: there is nothing to learn then. Raises DataError where the sample
    cannot be learned from, TooLong where it is too long and `limit` allows nothing to be left out.
    """
    last = sample.messages[-1]
    if (last.role != "assistant" or not last.learn) and not answering:
        raise DataError(
            "there is no answer to learn from at the end",
            str(sample.origin),
            "end it with a turn of the assistant",
        )
    _check_pictures(sample, ports, encoder)
    source, dropped, notes = _fitted_source(sample, ports, encoder, limit)
    if last.role != "assistant":
        start = np.array(encoder.start, dtype=np.int32)
        return EncodedText(start, np.full(len(start), IGNORE, dtype=np.int32), dropped, notes, source)
    answer = _answer(last.text.strip(), sample, ports)
    most = limit.most(ports.context) - len(encoder.start)
    begin, whole = len(encoder.start), len(answer)
    if whole > most:
        if limit.on_long != "cut_answer" or most < 1:
            raise too_long("answer", whole + begin, most + begin, sample)
        answer = answer[:most]
        note = f"the answer is cut after {most} of {whole - 1} tokens: {told('answer', whole + begin, most + begin)}"
        notes = "; ".join(filter(None, (notes, note)))
    tokens = np.concatenate([np.array(encoder.start, dtype=np.int32), answer])
    targets = np.full(len(tokens), IGNORE, dtype=np.int32)
    targets[begin - 1 : -1] = answer
    return EncodedText(tokens, targets, dropped, notes, source)


def encode_question(sample: Sample, ports: Ports, encoder: Encoder) -> np.ndarray:
    """What the encoder reads (int32, (S,)) of all turns before the last answer."""
    _check_pictures(sample, ports, encoder)
    return _fitted_source(sample, ports, encoder, Limit())[0]


def _turns(sample: Sample) -> tuple[Message, ...]:
    return sample.messages[:-1] if sample.messages[-1].role == "assistant" else sample.messages


def _check_pictures(sample: Sample, ports: Ports, encoder: Encoder) -> None:
    if ports.sound is not None and not sample.sounds:
        what = "this model answers about a sound, and the sample has none"
        raise DataError(what, str(sample.origin), "give it one")
    most, count = (0 if ports.image is None else ports.image.most), len(sample.images)
    least = 1 if ports.image is not None and encoder.read is None else 0
    if (most is not None and count > most) or count < least:
        takes = "no pictures" if most == 0 else f"{most or 'any number of'} picture{'' if most == 1 else 's'}"
        what = f"this model takes {takes}, the sample has {count}"
        raise DataError(what, str(sample.origin), "use another model, or change the row")


def _fitted_source(
    sample: Sample, ports: Ports, encoder: Encoder, limit: Limit
) -> tuple[np.ndarray, int, str]:
    """The encoder's tokens, how many turns were left out for them to fit, and the note of that."""
    if encoder.read is None:
        return _NONE, 0, ""
    most = limit.most(encoder.context)
    source = _source(sample, ports, encoder)
    if len(source) <= most:
        return source, 0, ""
    if limit.on_long == "drop_turns":
        ask = sample.messages[-1].role != "assistant"
        few = fewest(sample, droppable(sample, ask), lambda item: len(_source(item, ports, encoder)) <= most)
        if few is not None:
            note = f"{few} turns left out from the start: {told('question', len(source), most)}"
            return _source(without_turns(sample, few), ports, encoder), few, note
    raise too_long("question", len(source), most, sample)


def _source(sample: Sample, ports: Ports, encoder: Encoder) -> np.ndarray:
    assert encoder.read is not None
    text = encoder.read(_turns(sample))
    return np.asarray(ports.tokenizer(text, verbose=False)["input_ids"], dtype=np.int32)


def _answer(text: str, sample: Sample, ports: Ports) -> np.ndarray:
    """Tokens of an answer and its end: what the tokenizer writes for a target, without what it begins with."""
    written = np.asarray(ports.tokenizer(text_target=text, verbose=False)["input_ids"], dtype=np.int32)
    special = control_tokens(ports)[0]
    first = next((at for at, token in enumerate(written.tolist()) if token not in special), len(written))
    learned = written[first:]
    if first == len(written) or int(learned[-1]) not in ports.end_ids:
        learned = np.append(learned, np.int32(ports.end_ids[0]))
    said, closed = decode(learned[:-1], ports), decode(learned[-1:], ports)
    if said.strip() != text and not same_words(said + closed, text, closed, ports):
        raise DataError(
            f"the tokens to learn read {short(said)}, the answer is {short(text)}",
            str(sample.origin),
            "this tokenizer cannot write it as it stands: change the text, or use another model",
        )
    return learned
