"""From rows to samples: a reader's rows, and what their shape makes of them."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from finesight.config.sources import Columns, Source
from finesight.core.errors import DataError
from finesight.core.sample import Message, Sample
from finesight.data.files.store import Store
from finesight.data.shapes.columns import Layout, lay_out
from finesight.data.shapes.conversations import Conversations
from finesight.data.shapes.knowledge import Facts, open_facts
from finesight.data.shapes.media import Access, Media
from finesight.data.shapes.prompts import names_in
from finesight.data.shapes.questions import DEFAULT_PROMPT, Questions
from finesight.data.shapes.values import FILL, Cells, Counts, as_text, cell, matches
from finesight.data.shapes.words import WordRules
from finesight.data.sounds.hearing import Hearing, with_words
from finesight.data.sources import Indexed, Reader, open_source

__all__ = ["DEFAULT_PROMPT", "Access", "Counts", "RowSource", "open_rows", "rows_of"]

_FORMAT = "shapes 1"
"""Part of a source's identity: to be changed with what the same rows make."""
_NOTHING_BEYOND = Access()


@dataclass(frozen=True)
class RowSource:
    """Samples of one source, any at once. `name` begins the ids of samples that have none of their own."""

    reader: Reader
    source: Source
    layout: Layout
    name: str
    access: Access
    facts: Facts | None = None
    hearing: Hearing | None = None
    """What knows the words of sounds, which then stand in their places."""

    @property
    def columns(self) -> Columns:
        """The recipe's names of columns with the guessed ones filled in."""
        return self.layout.columns

    @property
    def said(self) -> tuple[tuple[str, str], ...]:
        """What a person should know of the source: kind and text of a notice each."""
        return self.reader.notes + self.layout.said + (self.facts.said if self.facts else ())

    @property
    def picture_column(self) -> str:
        """The column that a picture which cannot be decoded is to be blamed on."""
        columns = self.columns
        return columns.image or (columns.messages if self.layout.talks else None) or ""

    @property
    def sound_column(self) -> str:
        """The column that a sound which cannot be used is to be blamed on; empty where rows have no sounds."""
        columns = self.columns
        return columns.audio or (columns.messages if self.layout.talks else None) or ""

    def identity(self) -> str:
        """Changes whenever samples may have: with its recipe, its rows, its facts, its speech model, or finesight."""
        parts = [_FORMAT, self.source.model_dump_json(), repr(self.access), self.reader.identity()]
        if self.facts is not None:
            parts.append(self.facts.table.identity())
        if self.hearing is not None:
            parts.append(self.hearing.identity)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def verify(self) -> None:
        """Read indexed files once more; raise DataError where one is not what was indexed.

        Size and time of a file that was changed may be as they were: a program can put them back, and some disks count
        in whole seconds.
        """
        for reader in (self.reader, *((self.facts.table,) if self.facts else ())):
            if isinstance(reader, Indexed) and not reader.verify():
                what = "the file has other content than when it was indexed, and the same size and time"
                mend = f"`touch {reader.file}`: what is kept of it is then made anew"
                raise DataError(what, reader.file, mend)

    def sample(
        self, index: int, pictures: bool = True, counts: Counts | None = None, look: bool = False
    ) -> Sample | None:
        """The sample of row `index` (from 0), or None where the source's `where` leaves it out.

        Without `pictures` they (and sounds) are not read, and stand empty in their places; with `look` those in files
        of their own are looked for, and stand empty with the marks of their files. Where the source has a `hearing`,
        the words of sounds stand in their places in any case. `counts` is added to: what was done
        to the row, by kind and text of a notice. A sample whose last turn is the user's has no answer: it can
        be answered, and not be learned from. Raises DataError for a row that cannot be used, with the column that is
        to blame.
        """
        values = self.reader.row(index, self.layout.needed)
        origin, source, columns = self.reader.origin(index), self.source, self.columns
        if not matches(values, source.where, origin):
            return None
        cells = Cells(values, origin, WordRules(source.text), Counter() if counts is None else counts)
        facts = self.facts.of(cells) if self.facts else {}
        questions = self._looking if look else self._reading
        references = questions.references(cells)
        if self.layout.talks:
            assert columns.messages is not None  # lay_out has found it
            messages = questions.conversations.messages(cells, (columns.messages,), pictures)
        else:
            messages = questions.messages(cells, facts, references, pictures)
        if self.hearing is not None:
            messages = self._heard(messages, self.hearing, index, cells)
        last = messages[-1]
        if not references and last.role == "assistant":
            references = (last.text,)
        return Sample(
            id=self._id(cells, index),
            messages=messages,
            references=references,
            origin=origin,
            tags={tag: facts[tag] if tag in facts else cells.plain(tag) for tag in source.tags},
            group=self._group(cells, facts),
        )

    def _heard(
        self, messages: tuple[Message, ...], hearing: Hearing, index: int, cells: Cells
    ) -> tuple[Message, ...]:
        """The messages with the words of sounds in their places."""
        sounds = [sound for turn in messages for sound in turn.sounds]
        if not sounds:
            return messages
        try:
            words = hearing.words(index, sounds, cells.where(self.sound_column))
        except DataError as error:
            error.column = error.column or self.sound_column
            raise
        return with_words(messages, words, lambda text: cells.rules.clean(text, cells.counts))

    @cached_property
    def _reading(self) -> Questions:
        return self._questions(look=False)

    @cached_property
    def _looking(self) -> Questions:
        return self._questions(look=True)

    def _questions(self, look: bool) -> Questions:
        hear = None if self.hearing is None else self.hearing.reads
        media = Media(Store(self.reader.root), self.access, look, hear)
        conversations = Conversations(self.source, self.layout, media)
        return Questions(self.source, self.layout, media, conversations)

    def _id(self, cells: Cells, index: int) -> str:
        column = self.columns.id
        if column is None:
            return f"{self.name}-{index + 1}"
        name = cells.plain(column)
        if not name.strip():
            raise DataError("the id is empty", cells.where(column), FILL, column)
        return name

    def _group(self, cells: Cells, facts: Mapping[str, str]) -> str:
        group = self.source.group
        return "" if group is None else facts[group] if group in facts else cells.plain(group)

    def text(self, index: int, column: str) -> str:
        """The text of one column of a row, as it stands."""
        where = f"{self.reader.origin(index)}, column `{column}`"
        return as_text(cell(self.reader.row(index, (column,)), column), where, column)


def open_rows(source: Source, name: str = "row", access: Access = _NOTHING_BEYOND) -> RowSource:
    """Open a source, decide what its columns mean, and check that all that the recipe names are there.

    `name` begins the ids of samples that have none of their own; `access` is what rows may name.
    """
    return rows_of(open_source(source), source, name, access)


def rows_of(reader: Reader, source: Source, name: str = "row", access: Access = _NOTHING_BEYOND) -> RowSource:
    """The same for a reader that is open."""
    if not reader.columns:
        reader.row(0)  # says why
    if source.source == "coco" and source.group is None:
        # the captions of one picture stay on one side of a split
        source = source.model_copy(update={"group": "image_id"})
    facts = open_facts(source.knowledge, reader.columns, _put_in(source)) if source.knowledge else None
    layout = lay_out(reader, source, facts.columns if facts else ())
    return RowSource(reader, source, layout, name, access, facts)


def _put_in(source: Source) -> set[str]:
    """Columns that may come from a second table."""
    return {*names_in(source.prompt or ""), *source.tags, *([source.group] if source.group else [])}
