"""Samples that are longer than the model takes: what may be left out of them, and what is never cut."""

from dataclasses import dataclass, replace
from typing import Literal

from finesight.core.errors import DataError
from finesight.core.sample import Sample

OnLong = Literal["stop", "skip", "drop_turns", "cut_answer"]


@dataclass(frozen=True)
class Limit:
    """The recipe's `on_long` and `max_tokens`."""

    on_long: OnLong = "stop"
    max_tokens: int | None = None

    def most(self, context: int) -> int:
        """Tokens of the longest example, of a model that takes `context`."""
        return context if self.max_tokens is None else min(context, self.max_tokens)


class TooLong(DataError):
    """A sample is longer than is taken, and could not be made to fit in the way that `on_long` allows."""


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


def without_turns(sample: Sample, dropped: int) -> Sample:
    """The sample without its first `dropped` turns after the system's; their pictures go with them."""
    if not dropped:
        return sample
    first = _first(sample)
    return replace(sample, messages=sample.messages[:first] + sample.messages[first + dropped :])


def _first(sample: Sample) -> int:
    return 1 if sample.messages[0].role == "system" else 0
