"""Rows with a question and an answer in columns of their own: beside a picture, a sound, or nothing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finesight.config.sources import Source
from finesight.core.errors import DataError
from finesight.core.sample import Audio, Message, Part, Text
from finesight.data.shapes.columns import Layout
from finesight.data.shapes.conversations import Conversations
from finesight.data.shapes.media import Media, listed
from finesight.data.shapes.prompts import put_in
from finesight.data.shapes.values import FILL, Cells, as_text, cell, json_list

DEFAULT_PROMPT: Final = "Describe the picture."

_WITHIN: Final = ("answer", "caption", "text", "raw", "value")
"""Keys of a reference that is a mapping: VQA v2's and VizWiz' `{"answer": …}`, COCO's `{"caption": …}`."""


@dataclass(frozen=True)
class Questions:
    """Reads the questions and answers of one source."""

    source: Source
    layout: Layout
    media: Media
    conversations: Conversations

    def messages(
        self, cells: Cells, facts: Mapping[str, str], references: Sequence[str], read: bool
    ) -> tuple[Message, ...]:
        """The question with what stands beside it, and the answer where there is one."""
        question, answer = self.layout.columns.question, self.layout.columns.answer
        if question and answer and self.source.prompt is None and _turns(cells, question):
            return self._prompt_and_completion(cells, question, answer, read)
        beside = self._beside(cells, read)
        asked = () if self._spoken(beside) else (Text(self._question(cells, facts)),)
        turn = Message("user", (*beside, *asked))
        made = (*self.conversations.system(cells), *self._history(cells), turn)
        text = self._answer(cells, references)
        return made if text is None else (*made, Message("assistant", (Text(text),)))

    def references(self, cells: Cells) -> tuple[str, ...]:
        """All right answers that the row lists, in order; empty ones are left out, and counted."""
        columns = self.layout.columns
        if columns.references:
            return _texts(cells, columns.references)
        if columns.answer and not _turns(cells, columns.answer):
            found = cell(cells.values, columns.answer)
            return _texts(cells, columns.answer) if isinstance(found, list | tuple) else ()
        return ()

    def _prompt_and_completion(
        self, cells: Cells, question: str, answer: str, read: bool
    ) -> tuple[Message, ...]:
        return self.conversations.messages(cells, (question, answer), read)

    def _beside(self, cells: Cells, read: bool) -> tuple[Part, ...]:
        """Pictures, then sounds. One of them must be there where the source's kind or the question needs it."""
        columns, found = self.layout.columns, list[Part]()
        if columns.image:
            where = cells.where(columns.image)
            items = listed(cell(cells.values, columns.image), "picture", where, columns.image)
            found += self.media.images(items, where, columns.image, read)
        if columns.audio:
            where = cells.where(columns.audio)
            items = listed(cell(cells.values, columns.audio), "sound", where, columns.audio)
            found += self.media.sounds(items, where, columns.audio, read)
        column = columns.image or columns.audio
        asks = self.source.prompt is not None or columns.question is not None
        if column and not found and (self.layout.pictures_needed or not asks):
            kind = "picture" if columns.image else "sound"
            raise DataError(f"there is no {kind}", cells.where(column), FILL, column)
        return tuple(found)

    def _spoken(self, beside: Sequence[Part]) -> bool:
        """Whether a sound asks the question: nothing else does, and its words are known or nothing stands beside it."""
        if self.source.prompt is not None or self.layout.columns.question is not None:
            return False
        sounds = [part for part in beside if isinstance(part, Audio)]
        return bool(sounds) and (self.media.hear is not None or len(sounds) == len(beside))

    def _question(self, cells: Cells, facts: Mapping[str, str]) -> str:
        if self.source.prompt is not None:
            return put_in(
                self.source.prompt, lambda name: facts[name] if name in facts else cells.words(name)
            )
        if self.layout.columns.question is None:
            return DEFAULT_PROMPT
        question = cells.filled(self.layout.columns.question, "question")
        more = cells.words(self.layout.input) if self.layout.input else ""
        return f"{question}\n{more}" if more.strip() else question

    def _history(self, cells: Cells) -> Iterator[Message]:
        """LLaMA-Factory's rounds before the question, `[[question, answer], …]`; their answers are learned, too."""
        column = self.layout.history
        rounds = json_list(cell(cells.values, column)) if column else None
        for number, texts in enumerate(rounds or (), 1):
            where = f"{cells.where(column or '')}, round {number}"
            if not isinstance(texts, list | tuple) or len(texts) != 2:
                raise DataError("the round is not a question and an answer", where, FILL, column or "")
            question, answer = (cells.rules.clean(as_text(text, where), cells.counts) for text in texts)
            yield Message("user", (Text(question),))
            yield Message("assistant", (Text(answer),))

    def _answer(self, cells: Cells, references: Sequence[str]) -> str | None:
        """What is learned: the answer, else the most frequent reference; None for a picture of COCO's without one."""
        column = self.layout.columns.answer
        listing = column is None or isinstance(cell(cells.values, column), list | tuple)
        challenge = self.source.source == "coco"
        if not listing and not (challenge and not cells.plain(column or "").strip()):
            return cells.filled(column or "", "answer")
        if references:
            return Counter(references).most_common(1)[0][0]
        if challenge:
            return None
        column = column or self.layout.columns.references or ""
        raise DataError("the answer is empty", cells.where(column), FILL, column)


def _turns(cells: Cells, column: str) -> bool:
    """Whether a cell holds turns of a conversation."""
    value: Any = cell(cells.values, column)
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and isinstance(value[0], Mapping)
        and "role" in value[0]
    )


def _texts(cells: Cells, column: str) -> tuple[str, ...]:
    """The texts of a list, or the one text that stands in its place."""
    value = json_list(cell(cells.values, column))
    items = value if isinstance(value, list | tuple) else [value]
    texts = []
    for number, item in enumerate(items, 1):
        if isinstance(item, Mapping):
            item = next((item[key] for key in _WITHIN if item.get(key) is not None), item)
        text = as_text(item, f"{cells.where(column)}, item {number}", column)
        texts.append(cells.rules.clean(text, cells.counts))
    kept = tuple(text for text in texts if text.strip())
    if len(kept) < len(texts) and kept:
        cells.count("dropped", f"{cells.origin.file}: empty references", len(texts) - len(kept))
    return kept
