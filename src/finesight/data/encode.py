"""From a sample to an example: the turns rendered, tokens, and targets set once.

T tokens of the example. `targets[t]` holds what the logits at position t must predict: the token at t + 1 where that
token belongs to an assistant turn (its end token included), else IGNORE.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Sample, Text


@dataclass(frozen=True)
class EncodedText:
    """Tokens and targets of one sample, int32 of shape (T,), and the number of its pictures."""

    tokens: np.ndarray
    targets: np.ndarray


def _check_words(sample: Sample, ports: Ports) -> None:
    """Words that a person wrote must never turn into a special token or a picture's placeholder."""
    for turn in sample.messages:
        for part in turn.parts:
            if isinstance(part, Text):
                special = next((token for token in ports.tokenizer.all_special_tokens if token in part.text), None)
                if special is not None:
                    raise DataError(
                        f"the text contains `{special}`, which this model reads as a control token",
                        str(sample.origin),
                        "change the text of this row",
                    )


def _expand(rendered: str, ports: Ports, sample: Sample) -> str:
    """Each placeholder repeated for its visual tokens; their number must be that of the pictures."""
    if ports.image is None:
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


def _answer_spans(sample: Sample, ports: Ports) -> tuple[str, list[tuple[int, int]]]:
    """The whole rendered text (expanded), and character spans of the assistant's turns with their ends.

    A span begins where the model is asked to answer (the rendered prefix with a generation prompt) and ends where the
    rendered turn ends: found by rendering prefixes, so that any chat template serves.
    """
    whole = ports.render(sample.messages, False)
    spans = []
    for number, turn in enumerate(sample.messages):
        if turn.role != "assistant":
            continue
        prefix, turned = ports.render(sample.messages[:number], True), ports.render(sample.messages[: number + 1], False)
        if not turned.startswith(prefix) or not whole.startswith(turned):
            raise DataError(
                "the chat template does not write turns one after another, so answers cannot be told from questions",
                str(sample.origin),
                "use a model with another chat template",
            )
        spans.append((prefix, turned))
    expanded = _expand(whole, ports, sample)
    # expansion moves characters: each bound moves by what was added before it
    widths = (lambda text: len(text) + _added(text, ports)) if ports.image else len
    return expanded, [(widths(prefix), widths(turned)) for prefix, turned in spans]


def _added(text: str, ports: Ports) -> int:
    assert ports.image is not None
    return text.count(ports.image.placeholder) * len(ports.image.placeholder) * (ports.image.tokens_per_image - 1)


def encode(sample: Sample, ports: Ports) -> EncodedText:
    """Tokens and targets of a sample; raises DataError naming its origin where it cannot be learned from.

    Every answer is verified: its supervised tokens must decode to the answer and its end, character for character.
    """
    _check_words(sample, ports)
    text, spans = _answer_spans(sample, ports)
    encoding = ports.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = np.asarray(encoding["input_ids"], dtype=np.int32)
    starts, ends = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    targets = np.full(len(tokens), IGNORE, dtype=np.int32)
    for first, last in spans:
        learned = np.flatnonzero((starts >= first) & (ends <= last) & (ends > starts))
        decoded = ports.tokenizer.decode(tokens[learned].tolist(), skip_special_tokens=False)
        if decoded != text[first:last] or not len(learned) or learned[0] == 0:
            raise DataError(
                f"the supervised tokens read {decoded!r}, the answer {text[first:last]!r}",
                str(sample.origin),
                "the tokenizer joins the answer with what stands before it: use another chat template",
            )
        targets[learned - 1] = tokens[learned]
    if len(tokens) > ports.context:
        raise DataError(
            f"the sample has {len(tokens)} tokens, the model takes {ports.context}",
            str(sample.origin),
            "shorten it, or raise the model's context",
        )
    return EncodedText(tokens, targets)


def encode_prompt(sample: Sample, ports: Ports) -> np.ndarray:
    """Tokens (int32, shape (T,)) of all turns before the last answer, ending where the model is to answer."""
    _check_words(sample, ports)
    turns = sample.messages[:-1] if sample.messages[-1].role == "assistant" else sample.messages
    text = _expand(ports.render(turns, True), ports, sample)
    return np.asarray(ports.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)


def sample_digest(sample: Sample) -> bytes:
    """A hash over all that an example is made from: words, pictures and references."""
    digest = hashlib.blake2b(digest_size=16)
    for turn in sample.messages:
        digest.update(turn.role.encode())
        for part in turn.parts:
            content = part.text.encode() if isinstance(part, Text) else part.data
            digest.update(len(content).to_bytes(8, "little") + content)
    for reference in sample.references:
        digest.update(len(reference.encode()).to_bytes(8, "little") + reference.encode())
    return digest.digest()
