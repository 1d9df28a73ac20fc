"""Samples that are longer than the model takes: what may be left out of them, and what is never cut."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from finesight.core.errors import DataError
from finesight.core.sample import Sample

_SHORTEN = (
    "shorten it, choose another `data.on_long`, raise `data.max_tokens` or use a model with a longer context"
)

OnLong = Literal["stop", "skip", "drop_turns", "cut_answer"]


@dataclass(frozen=True)
class Limit:
    """The recipe's `on_long` and `max_tokens`."""

    on_long: OnLong = "stop"
    max_tokens: int | None = None

    def most(self, context: int) -> int:
        """Tokens of the longest example, of a model that takes `context`."""
        return context if self.max_tokens is None else min(context, self.max_tokens)


@dataclass(frozen=True)
class EncodedText:
    """Tokens and targets of one sample, int32 of shape (T,).

    `dropped` turns (and their pictures) were left out from the start: `without_turns` gives the sample that the
    tokens are of. `note` says what was done to a sample that was too long, for the list of them; empty where nothing.
    Of an encoder–decoder, tokens and targets are the decoder's, and `source` (S,) is what its encoder reads.
    """

    tokens: np.ndarray
    targets: np.ndarray
    dropped: int = 0
    note: str = ""
    source: np.ndarray | None = None


class TooLong(DataError):
    """A sample is longer than is taken, and could not be made to fit in the way that `on_long` allows."""


def told(what: str, length: int | None, most: int) -> str:
    """How long a `sample` or `question` is, and how long it may be, in tokens; None: longer than was counted."""
    return (
        f"the {what} has {f'more than {most}' if length is None else length} tokens, the model takes {most}"
    )


def too_long(what: str, length: int | None, most: int, sample: Sample) -> TooLong:
    """The error of a sample that does not fit."""
    return TooLong(told(what, length, most), str(sample.origin), _SHORTEN)


def droppable(sample: Sample, ask: bool = False) -> list[int]:
    """How many turns may be left out from the start: whole rounds, fewest first.

    The system's turn stays, and so does at least one question with an answer to learn from; where the model is only to
    be asked (`ask`), the last question.
    """
    messages, first = sample.messages, _first(sample)
    return [
        number - first
        for number in range(first + 1, len(messages))
        if messages[number].role == "user"
        and messages[number - 1].role == "assistant"
        and (ask or any(turn.role == "assistant" and turn.learn for turn in messages[number:]))
    ]


def fewest(sample: Sample, choices: Sequence[int], fits: Callable[[Sample], bool]) -> int | None:
    """The fewest turns to leave out so that the sample fits; the more are left out, the shorter it is."""
    at = bisect.bisect_left(choices, True, key=lambda dropped: fits(without_turns(sample, dropped)))
    return choices[at] if at < len(choices) else None


def without_turns(sample: Sample, dropped: int) -> Sample:
    """The sample without its first `dropped` turns after the system's; their pictures go with them."""
    if not dropped:
        return sample
    first = _first(sample)
    return replace(sample, messages=sample.messages[:first] + sample.messages[first + dropped :])


def _first(sample: Sample) -> int:
    return 1 if sample.messages[0].role == "system" else 0
