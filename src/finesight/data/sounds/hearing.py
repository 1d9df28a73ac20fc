"""The words of a source's sounds in the place of the sounds, from the first look at a row on.

While rows are looked at for the first time, `Listening` has the sounds of each transcribed, in the one process that
holds the speech model. What it heard is kept with what else was found in the rows; `Heard` gives it back by the row's
number, in any process, and no sound is read again. N samples, S sounds of all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import numpy as np

from finesight.core.errors import DataError
from finesight.core.sample import Audio, FileMark, Message, Part, Text
from finesight.data.sounds.ears import Ears


class Hearing(Protocol):
    """What knows the words of the sounds of rows."""

    @property
    def identity(self) -> str:
        """Changes with the speech model and its settings."""

    @property
    def reads(self) -> bool:
        """Whether it must have the sounds' bytes."""

    def words(self, row: int, sounds: Sequence[Audio], where: str) -> Sequence[str]:
        """The words of each sound of a row; raises DataError at `where` for a sound without any."""


class Listening:
    """Transcribes the sounds of each row that is asked for."""

    reads = True

    def __init__(self, ears: Ears) -> None:
        self.ears = ears
        self._heard: dict[int, tuple[tuple[str, ...], tuple[FileMark, ...]]] = {}

    @property
    def identity(self) -> str:
        """As a Hearing."""
        return self.ears.identity

    def words(self, row: int, sounds: Sequence[Audio], where: str) -> Sequence[str]:
        """As a Hearing."""
        texts = tuple(
            self.ears.words(sound.data, where if len(sounds) == 1 else f"{where}, sound {number}")
            for number, sound in enumerate(sounds, 1)
        )
        self._heard[row] = texts, tuple(sound.file for sound in sounds if sound.file is not None)
        return texts

    def of(self, row: int) -> tuple[tuple[str, ...], tuple[FileMark, ...]]:
        """What was heard in a row, and the marks of the files that its sounds are in."""
        return self._heard.get(row, ((), ()))

    def forget(self, row: int) -> None:
        """Let go of what was heard in a row."""
        self._heard.pop(row, None)


def columns_of(heard: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """The words of samples as columns: how many `sounds` each has (N,), the size in bytes of the text of each sound
    (S,), and all bytes.
    """
    texts = [text.encode("utf-8", "surrogatepass") for own in heard for text in own]
    return {
        "sounds": np.array([len(own) for own in heard], dtype=np.int32),
        "heard_sizes": np.array([len(text) for text in texts], dtype=np.int32),
        "heard": np.frombuffer(b"".join(texts), dtype=np.uint8),
    }


class Heard:
    """Words that were heard before: columns as those of `columns_of`, and the `rows` (N,) of the samples, ascending."""

    reads = False

    def __init__(self, identity: str, found: Mapping[str, np.ndarray]) -> None:
        self.identity, self._found = identity, found

    def __getstate__(self) -> tuple[str, Mapping[str, np.ndarray]]:
        return self.identity, self._found

    def __setstate__(self, state: tuple[str, Mapping[str, np.ndarray]]) -> None:
        self.identity, self._found = state

    @cached_property
    def _firsts(self) -> np.ndarray:
        """The number of the first sound of each sample, and of all sounds (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self._found["sounds"], dtype=np.int64)])

    @cached_property
    def _begins(self) -> np.ndarray:
        """Where the text of each sound begins, and the end of all (S + 1,)."""
        return np.concatenate([[0], np.cumsum(self._found["heard_sizes"], dtype=np.int64)])

    def words(self, row: int, sounds: Sequence[Audio], where: str) -> Sequence[str]:
        """As a Hearing; raises DataError where the row had other sounds when they were transcribed."""
        rows = self._found["rows"]
        at = int(np.searchsorted(rows, row))
        first, last = self._firsts[at : at + 2].tolist() if at < len(rows) and rows[at] == row else (0, 0)
        if last - first != len(sounds):
            what = "the sounds of the row are not those that were transcribed"
            raise DataError(what, where, "put the row back as it was; or begin again")
        begins = self._begins
        return [
            self._found["heard"][begins[number] : begins[number + 1]]
            .tobytes()
            .decode("utf-8", "surrogatepass")
            for number in range(first, last)
        ]


def with_words(
    messages: Sequence[Message], words: Sequence[str], clean: Callable[[str], str]
) -> tuple[Message, ...]:
    """The messages with each sound replaced by its words, which `clean` brings under the rules for a row's words."""
    left = iter(words)
    return tuple(
        replace(turn, parts=tuple(_spoken(turn.parts, left, clean))) if turn.sounds else turn
        for turn in messages
    )


def _spoken(parts: Sequence[Part], words: Iterator[str], clean: Callable[[str], str]) -> list[Part]:
    """The parts of a turn; words that were heard become one with the text beside them, parted by a line's end."""
    found: list[Part] = []
    heard = False
    for part in parts:
        last, heard_before, heard = found[-1] if found else None, heard, isinstance(part, Audio)
        here = Text(clean(next(words))) if isinstance(part, Audio) else part
        if isinstance(here, Text) and isinstance(last, Text) and (heard or heard_before):
            apart = not last.text or last.text[-1].isspace() or here.text[:1].isspace()
            found[-1] = Text(last.text + ("" if apart else "\n") + here.text)
        else:
            found.append(here)
    return found
