"""What words must not hold, because a model would read them as more than words, and how its tokens read.

T tokens of a text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import TemplateError

from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Message, Sample


def decode(tokens: np.ndarray, ports: Ports) -> str:
    """What tokens (T,) read."""
    text: str = ports.tokenizer.decode(
        tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


@lru_cache(maxsize=8)
def end_ids(ports: Ports) -> frozenset[int]:
    """Ids of the tokens that may close an answer: the model's end tokens, or any control token."""
    return control_tokens(ports)[0] | frozenset(ports.end_ids)


@lru_cache(maxsize=8)
def control_tokens(ports: Ports) -> tuple[frozenset[int], re.Pattern[str] | None]:
    """Ids of the tokens that no person's text may be read as, and a pattern that finds them in text."""
    added: dict[int, Any] = ports.tokenizer.added_tokens_decoder
    named = {number: token.content for number, token in added.items() if token.special}
    if ports.image is not None and ports.image.placeholder:
        named[ports.image.placeholder_id] = ports.image.placeholder
    if ports.sound is not None and ports.sound.placeholder:
        named[ports.sound.placeholder_id] = ports.sound.placeholder
    ids = frozenset(named) | frozenset(ports.tokenizer.all_special_ids)
    words = {word for word in [*named.values(), *ports.tokenizer.all_special_tokens] if word}
    longest_first = sorted(words, key=len, reverse=True)
    return ids, re.compile("|".join(map(re.escape, longest_first))) if words else None


_WORDS_OF = {"user": "question", "assistant": "answer", "system": "system message"}


def check_words(sample: Sample, ports: Ports) -> None:
    """What no model, or this one, can read: words that would turn into a special token or a placeholder, sounds."""
    if sample.messages[0].role == "assistant":
        raise DataError("the first turn is an answer", str(sample.origin), "put a turn of the user before it")
    most = None if ports.sound is None else ports.sound.most
    if most is not None and len(sample.sounds) > most:
        what = f"this model takes {most} sound, the sample has {len(sample.sounds)}"
        raise DataError(what, str(sample.origin), "leave sounds out, or make rows of their own of them")
    if sample.sounds and ports.sound is None:
        mend = (
            "name a speech model by `data.speech.model`: sounds are then transcribed, and their words are read; or "
            "give the model ears by `model.compose.audio`"
        )
        raise DataError("this model takes no sounds", str(sample.origin), mend)
    pattern = control_tokens(ports)[1]
    for turn in sample.messages:
        found = pattern.search(turn.text) if pattern else None
        if found:
            words = _WORDS_OF[turn.role]
            raise DataError(
                f"the {words} contains `{found[0]}`, which this model reads as a control token",
                str(sample.origin),
                "change the text of this row",
            )


def render(turns: Sequence[Message], ask: bool, sample: Sample, ports: Ports) -> str:
    """Turns as the model's template writes them; raises DataError where it refuses them."""
    try:
        return ports.render(turns, ask)
    except TemplateError as error:
        what = f"the chat template refuses these turns: {error}"
        raise DataError(
            what, str(sample.origin), "change the turns, or use a model with another template"
        ) from error


def short(text: str) -> str:
    """A text as a message quotes it."""
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


def same_words(decoded: str, answer: str, closed: str, ports: Ports) -> bool:
    """Whether tokens that read `decoded`, with the end `closed`, are those of the answer for a tokenizer that changes
    text: one that knows no capital letters, or writes a blank before each comma. Blanks do not count here.
    """
    return not keeps_text(ports) and _plain(decoded, ports) == _plain(answer + closed, ports)


@lru_cache(maxsize=8)
def keeps_text(ports: Ports) -> bool:
    """Whether this tokenizer can write words as they stand: with capital letters, and no blanks but those there are."""
    probe = "A dog's toy, red."
    return (
        decode(np.array(ports.tokenizer(probe, add_special_tokens=False)["input_ids"]), ports).strip()
        == probe
    )


def _plain(text: str, ports: Ports) -> str:
    normalizer = ports.tokenizer.backend_tokenizer.normalizer
    return "".join(
        (normalizer.normalize_str(text) if normalizer is not None else text).replace("▁", " ").split()
    )
