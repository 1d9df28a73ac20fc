"""Which column means what: the recipe's names, and the names that TRL, LLaMA-Factory and others are known to use.

Names are compared without regard to case. Whatever is guessed is said, with what was chosen.
"""

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from finesight.config.sources import Columns, Source
from finesight.core.errors import DataError, Fault
from finesight.data.shapes.prompts import names_in
from finesight.data.shapes.values import has_column
from finesight.data.sources import Reader

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "image": (
        *(
            "b64string_images",
            "image",
            "images",
            "image_path",
            "image_paths",
            "image_file",
            "img",
            "img_path",
        ),
        *("file_name", "filename", "path", "picture", "pictures", "jpg", "jpeg", "png", "webp", "image_url"),
    ),
    "audio": ("audio", "audios", "sound", "audio_path", "speech", "wav", "flac", "mp3"),
    "question": ("question", "prompt", "instruction", "query"),
    "answer": (
        *("caption", "answer", "multiple_choice_answer", "text", "output", "response", "completion", "label"),
        *("txt", "transcription", "transcript"),
    ),
    "references": ("references", "answers", "captions"),
    "messages": ("messages", "conversations", "conversation"),
    "system": ("system", "system_prompt"),
}
"""Column names that are taken for a role where the recipe names none, in the order of preference."""

_TOGETHER: Final = (
    (
        "instruction",
        "output",
    ),  # Alpaca; its `text` repeats question and answer, so this comes before single names
    ("prompt", "completion"),  # TRL
    ("question", "answer"),
)
"""Names of question and answer that mean these where both are there."""

_PAIRS: Final = (
    *(("input", "output"), ("source", "target"), ("src", "tgt"), ("source", "summary"), ("text", "summary")),
    *(("article", "highlights"), ("document", "summary"), ("dialogue", "summary"), ("text", "target")),
    *(("inputs", "targets"), ("input_text", "target_text"), ("text", "label"), ("sentence1", "sentence2")),
    *_TOGETHER,
)
"""Names of the two texts of a pair, the one that is read first."""

_LANGUAGES: Final = frozenset(
    "ar bg bn ca cs da de el en es et fa fi fr ga gu he hi hr hu is it ja ka kk ko lt lv mk ml mr ms mt nl no pl pt "
    "ro ru sk sl sq sr sv sw ta te th tr uk ur vi zh".split()
)
"""Codes of languages; not Indonesian's `id`, which means something else in most tables."""

_NOT_READ: Final = ("video", "videos", "tools")
"""Columns that people expect to be read, and that are not."""

_PICTURES: Final = frozenset({"csv", "json", "vqa", "coco", "folder", "parquet", "tar"})
"""Kinds of which every row has a picture or a sound: a row without one is a mistake."""
_WORDS_ALONE: Final = frozenset({"pairs", "text"})
_TALKS: Final = frozenset({"llava", "messages"})
"""Kinds whose rows are conversations. Those of `llava` are nothing else."""
_NEVER_TALK: Final = frozenset({"pairs", "coco"})


@dataclass(frozen=True)
class Layout:
    """What the columns of one source mean.

    `input` (Alpaca) is put on a line below the question, `history` (LLaMA-Factory) are rounds before it. `said` are
    the choices that a person should know of, as kind and text of notices.
    """

    columns: Columns
    talks: bool
    pictures_needed: bool
    input: str | None = None
    history: str | None = None
    said: tuple[tuple[str, str], ...] = ()
    needed: frozenset[str] = field(default=frozenset())
    """Columns that a sample is made from, so that a reader may leave the others."""


def lay_out(reader: Reader, source: Source, facts: Collection[str] = ()) -> Layout:
    """Decide what the columns mean; raises DataError with all that is missing. `facts` are columns joined to rows."""
    guess = _Guess(reader, source)
    talks = guess.messages()
    if talks:
        guess.take("image", "audio", "system")
    elif source.source == "pairs":
        guess.pair()
    else:
        guess.question_and_answer()
    asked = _asked_for(source)
    faults = [
        _missing(column, key, reader)
        for column, key in asked.items()
        if not has_column(reader.columns, column) and not (column in facts and key in _MAY_BE_FACTS)
    ]
    faults += _not_found(guess.roles, reader, source, talks) + _contradictions(source, talks)
    if faults:
        raise DataError.of(faults)
    used = {*guess.roles.values(), *guess.extra.values(), *asked}
    if source.knowledge is not None:
        used |= {source.knowledge.row_key or source.knowledge.key, *source.knowledge.when}
    return Layout(
        Columns(**guess.roles),
        talks,
        source.source in _PICTURES,
        guess.extra["input"],
        guess.extra["history"],
        tuple(guess.said()),
        frozenset(name for column in used if column for name in (column, column.partition(".")[0])),
    )


class _Guess:
    """The roles of columns, filled in one after another; a column has one role."""

    def __init__(self, reader: Reader, source: Source) -> None:
        self.reader, self.source, self.named = reader, source, source.columns
        self.roles: dict[str, str | None] = source.columns.model_dump()
        self.extra: dict[str, str | None] = {"input": None, "history": None}

    def first(self, *names: str) -> str | None:
        """The first of these columns that the rows have and that has no role yet."""
        free = [column for column in self.reader.columns if column not in self.roles.values()]
        folded = {column.strip().casefold(): column for column in reversed(free)}
        return next((name if name in free else folded[name] for name in names if name in folded), None)

    def take(self, *roles: str) -> None:
        for role in roles:
            if self.roles[role] is None:
                self.roles[role] = self.first(*_NAMES[role])

    def messages(self) -> bool:
        """Whether rows are conversations: the recipe says so, or a column looks like it and nothing else is said."""
        kind, named = self.source.source, self.named
        if kind in _NEVER_TALK or named.messages is not None:
            return kind not in _NEVER_TALK
        if kind != "llava" and (self.source.prompt, named.question, named.answer) != (None, None, None):
            return False
        self.take("messages")
        return self.roles["messages"] is not None or kind == "llava"

    def question_and_answer(self) -> None:
        asks, kind = self.source.prompt is not None, self.source.source
        if kind not in _WORDS_ALONE:
            self.take("image", "audio")
        if self.named.question is None and self.named.answer is None:
            both = ((self.first(question), self.first(answer)) for question, answer in _TOGETHER)
            question, answer = next((pair for pair in both if all(pair)), (None, None))
            self.roles |= {"question": None if asks else question, "answer": answer}
        if not asks:
            self.take("question")
        self.take("answer", "references")
        instruction = self.roles["question"] if self.named.question is None else None
        if instruction is not None and instruction.casefold() == "instruction":
            self.extra = {name: self.first(name) for name in self.extra}
            self.take("system")

    def pair(self) -> None:
        """Two texts: by known names, two languages, the two of `translation`, or as the only two columns."""
        question, answer = self.named.question, self.named.answer
        free = [column for column in self.reader.columns if column not in self._meant()]
        if question is None and answer is None:
            found = ((self.first(one), self.first(two)) for one, two in _PAIRS)
            languages = [column for column in free if column.casefold() in _LANGUAGES]
            rest = (languages, self._translation(free), free)
            both = next((pair for pair in found if all(pair)), None)
            both = both or next(((pair[0], pair[1]) for pair in rest if len(pair) == 2), (None, None))
            question, answer = both
        elif question is None or answer is None:
            given, place = (question, 0) if answer is None else (answer, 1)
            known = (self.first(pair[1 - place]) for pair in _PAIRS if pair[place] == given)
            others = [column for column in free if column != given]
            other = next((name for name in known if name), others[0] if len(others) == 1 else None)
            question, answer = (given, other) if answer is None else (other, given)
        if self.source.prompt is not None and self.named.question is None:
            put_in = names_in(self.source.prompt)
            others = [column for column in free if column not in put_in]
            if self.named.answer is None and answer in put_in:
                answer = others[0] if len(others) == 1 else None
            question = None
        self.roles |= {"question": question, "answer": answer}

    def _meant(self) -> set[str]:
        """Columns that the recipe gives another meaning than that of a text of the pair."""
        named = {self.named.id, self.named.references, self.named.system, self.source.group}
        return {*(name for name in named if name), *self.source.tags, *self.source.where}

    def _translation(self, free: Collection[str]) -> list[str]:
        """The two texts of Hugging Face's `{"translation": {"en": …, "de": …}}`."""
        if "translation" not in free:
            return []
        value = self.reader.row(0, ("translation",)).get("translation")
        return [f"translation.{name}" for name in value] if isinstance(value, Mapping) else []

    def said(self) -> Iterator[tuple[str, str]]:
        file, columns = self.reader.file, self.roles
        for role, column in columns.items():
            if column is not None and getattr(self.named, role) is None:
                yield "guess", f"{file}: column `{column}` is taken as the {role}"
        if columns["answer"] is None and columns["references"] is not None:
            yield "guess", f"{file}: of the `{columns['references']}` of a row the most frequent is learned"
        for name, where in (("input", "below the question"), ("history", "as rounds before the question")):
            if self.extra[name] is not None:
                yield "guess", f"{file}: column `{self.extra[name]}` is put {where}"
        question, prompt = self.named.question, self.source.prompt
        if question and prompt is not None and question not in names_in(prompt):
            yield "unused", f"{file}: `prompt` is asked, not the column `{question}`"
        skipped = _NOT_READ + (("image", "images") if self.source.source in _WORDS_ALONE else ())
        for column in skipped:
            if self.first(column):
                yield "unused", f"{file}: column `{self.first(column)}` is not read"


_MAY_BE_FACTS: Final = ("prompt", "tags", "group")


def _asked_for(source: Source) -> dict[str, str]:
    """Columns that the recipe names, each with the key that names it."""
    asked = {
        value: f"columns.{role}" for role, value in source.columns.model_dump().items() if value is not None
    }
    asked |= dict.fromkeys(source.where, "where") | dict.fromkeys(source.tags, "tags")
    if source.group is not None:
        asked[source.group] = "group"
    if source.knowledge is not None:
        asked |= dict.fromkeys(source.knowledge.when, "knowledge.when")
        asked[source.knowledge.row_key or source.knowledge.key] = "knowledge.row_key"
    return asked | dict.fromkeys(names_in(source.prompt or ""), "prompt")


def _missing(column: str, key: str, reader: Reader) -> Fault:
    near = difflib.get_close_matches(column, reader.columns, n=1)
    mend = f"{f'did you mean `{near[0]}`? ' if near else ''}it has {names_of(reader.columns)}"
    return Fault(f"there is no column `{column}`", f"{reader.file}, `{key}` of the source", mend)


def names_of(columns: Sequence[str]) -> str:
    """Columns for a message; one that seems to be several says how to part them."""
    alone = columns[0] if len(columns) == 1 else ""
    mark = next((mark for mark in ("\t", ";", "|", ",") if mark in alone), None)
    hint = f"; if {mark!r} stands between columns, set `delimiter: {json.dumps(mark)}`" if mark else ""
    return (", ".join(f"`{name}`" for name in columns) or "none") + hint


def _not_found(roles: Mapping[str, str | None], reader: Reader, source: Source, talks: bool) -> list[Fault]:
    """A fault for each role that a row needs and no column has."""
    image, audio = roles["image"], roles["audio"]
    needed: dict[str, str] = {}
    if talks:
        if roles["messages"] is None:
            needed["messages"] = ""
    else:
        if source.source in _PICTURES and image is None and audio is None:
            needed["image"] = "; rows without pictures are read by `source: pairs`, `text` or `messages`"
        elif image is None and audio is None and roles["question"] is None and source.prompt is None:
            needed["question"] = ", or give a `prompt`"
        if roles["answer"] is None and roles["references"] is None and source.source != "coco":
            needed["answer"] = ""
    return [
        Fault(
            f"no column looks like the {role}",
            reader.file,
            f"name it in `columns.{role}` of the source{more}; the columns are {names_of(reader.columns)}",
        )
        for role, more in needed.items()
    ]


def _contradictions(source: Source, talks: bool) -> list[Fault]:
    """Keys of the recipe that would have no meaning with rows of this shape."""
    kind, named, where = source.source, source.columns, f"the source `{source.path}`"
    found = []
    if kind in _WORDS_ALONE and (named.image or named.audio):
        mend = (
            "take `columns.image` and `columns.audio` out, or read the file by `source: messages` or `json`"
        )
        found.append(Fault(f"rows of `source: {kind}` are words alone", where, mend))
    if kind in _NEVER_TALK and named.messages:
        what = f"rows of `source: {kind}` are no conversations"
        found.append(
            Fault(what, where, "take `columns.messages` out, or read the file by `source: messages`")
        )
    if talks and source.prompt is not None:
        what = "`prompt` would not be asked: the rows are whole conversations"
        found.append(Fault(what, where, "take `prompt` out, or name `columns.question` and `columns.answer`"))
    return found
