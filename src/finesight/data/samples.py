"""From rows to samples: which column means what, the prompt, the picture's bytes."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finesight.config.sources import Columns, Source
from finesight.core.errors import DataError, Fault
from finesight.core.sample import Image, Message, Origin, Sample, Text
from finesight.data.media import DEFAULT_LIMITS, decode_base64
from finesight.data.sources import Reader, open_source

DEFAULT_PROMPT = "Describe the picture."
_GUESSES = {
    "image": (
        "b64string_images",
        "image",
        "images",
        "image_path",
        "image_file",
        "file_name",
        "filename",
        "path",
        "picture",
    ),
    "answer": ("caption", "answer", "text", "captions", "output", "response", "label"),
    "question": ("question", "prompt", "instruction", "query"),
}
"""Column names that are taken where the recipe names none, in the order of preference."""

_FILL = "fill it in, remove the row, or set `data.on_bad_row: skip`"
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_LONGEST_PATH = 4096
_NO_PICTURE = Image(b"")


@dataclass(frozen=True)
class RowSource:
    """Samples of one source. `columns` are the recipe's names with the guessed ones filled in."""

    reader: Reader
    source: Source
    columns: Columns
    name: str

    def sample(self, index: int, pictures: bool = True) -> Sample | None:
        """The sample of row `index` (from 0), or None where the source's `where` leaves it out.

        Without `pictures` they are not read, and stand empty in their places. Raises DataError for a row that
        cannot be learned from, with the column that is to blame.
        """
        values = self.reader.row(index)
        if not self._wanted(values):
            return None
        origin, columns, source = self.reader.origin(index), self.columns, self.source
        assert columns.image is not None  # open_rows has found it, and the answer
        image = Image(self._picture(values[columns.image], origin)) if pictures else _NO_PICTURE
        question = self._prompt(values, origin)
        answer = _filled(values, columns.answer, "answer", origin).strip()
        turn = Message("user", (image, Text(question)))
        return Sample(
            id=_filled(values, columns.id, "id", origin) if columns.id else f"{self.name}-{index + 1}",
            messages=(turn, Message("assistant", (Text(answer),))),
            references=(answer,),
            origin=origin,
            tags={tag: values[tag] for tag in source.tags},
            group=values[source.group] if source.group else "",
        )

    def _wanted(self, values: Mapping[str, str]) -> bool:
        for column, kept in self.source.where.items():
            if values[column] not in ((kept,) if isinstance(kept, str) else kept):
                return False
        return True

    def _prompt(self, values: Mapping[str, str], origin: Origin) -> str:
        template = self.source.prompt
        if template is not None:
            return _PLACEHOLDER.sub(lambda found: _put_in(found, values), template)
        if self.columns.question:
            return _filled(values, self.columns.question, "question", origin)
        return DEFAULT_PROMPT

    def _picture(self, cell: str, origin: Origin) -> bytes:
        """Bytes of a picture that the row holds as base64, or names by a path below the source's root."""
        column = self.columns.image or ""
        where, cell = f"{origin}, column `{column}`", cell.strip()
        try:
            if not cell:
                raise DataError("there is no picture", where, _FILL)
            if re.match(r"[a-z0-9]{1,20}://", cell, re.IGNORECASE):
                raise DataError(
                    "the picture is a web address", where, "download it, and give its path below `root`"
                )
            if (
                len(cell) > _LONGEST_PATH or "." not in cell[-8:]
            ):  # base64 has no dot, a file's name has a suffix
                return decode_base64(cell, where)
            return _picture_file(Path(self.reader.root), cell, where)
        except DataError as error:
            error.column = column
            raise


def _put_in(found: re.Match[str], values: Mapping[str, str]) -> str:
    name = found[1]
    return found[0][0] if name is None else values[name]


def _filled(values: Mapping[str, str], column: str | None, role: str, origin: Origin) -> str:
    assert column is not None
    if not values[column].strip():
        raise DataError(f"the {role} is empty", f"{origin}, column `{column}`", _FILL, column)
    return values[column]


def _picture_file(root: Path, name: str, where: str) -> bytes:
    """Bytes of the file `name` below `root`, which neither `..` nor a link may lead out of."""
    mend = "correct the path, or set `root` of the source"
    try:
        root = root.resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            what = f"the path `{name}` leads out of the folder {root}"
            raise DataError(what, where, "put the picture below it, or set `root` of the source")
        if not path.is_file():
            raise DataError(f"there is no file {path}", where, mend)
        if path.stat().st_size > DEFAULT_LIMITS.file_bytes:
            what = f"{path} is larger than {DEFAULT_LIMITS.file_bytes >> 20} MiB"
            raise DataError(what, where, "save the picture smaller")
        return path.read_bytes()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # unreadable, too long, a null character, links in a circle
        raise DataError(f"the file `{name[:200]}` cannot be read: {error}", where, mend) from error


def _guess(reader: Reader, named: Columns, asks: bool) -> Columns:
    """Fill in the columns that the recipe does not name; `asks` where a prompt makes a question needless."""
    guessed = named.model_dump()
    for role, candidates in _GUESSES.items():
        if guessed[role] is None and not (role == "question" and asks):
            free = (name for name in candidates if name in reader.columns and name not in guessed.values())
            guessed[role] = next(free, None)
    return Columns(**guessed)


def _needed(source: Source) -> dict[str, str]:
    """Columns that the recipe needs, each with the key that names it."""
    needed = {
        value: f"columns.{role}" for role, value in source.columns.model_dump().items() if value is not None
    }
    needed |= dict.fromkeys(source.where, "where") | dict.fromkeys(source.tags, "tags")
    if source.group is not None:
        needed[source.group] = "group"
    for found in _PLACEHOLDER.finditer(source.prompt or ""):
        if found[0] in ("{", "}"):
            what = f"character {found.start() + 1} of the prompt is a single `{found[0]}`"
            raise DataError(what, "`prompt` of the source", f"write `{found[0] * 2}` for a brace")
        if found[1] is not None:
            needed[found[1]] = "prompt"
    return needed


def _missing(column: str, key: str, reader: Reader) -> Fault:
    near = difflib.get_close_matches(column, reader.columns, n=1)
    have = ", ".join(f"`{name}`" for name in reader.columns)
    mend = f"{f'did you mean `{near[0]}`? ' if near else ''}it has {have or 'none'}"
    return Fault(f"there is no column `{column}`", f"{reader.file}, `{key}` of the source", mend)


def open_rows(source: Source, name: str = "row") -> RowSource:
    """Open a source, guess its columns, and check that all that the recipe names are there.

    `name` begins the ids of samples that have none of their own.
    """
    reader = open_source(source)
    if not reader.columns:
        reader.row(0)  # says why
    missing = [_missing(*item, reader) for item in _needed(source).items() if item[0] not in reader.columns]
    columns = _guess(reader, source.columns, asks=source.prompt is not None)
    for role in ("image", "answer"):
        if getattr(columns, role) is None:
            have = ", ".join(f"`{column}`" for column in reader.columns) or "none"
            mend = f"name it in `columns.{role}` of the source; the columns are {have}"
            missing.append(Fault(f"no column looks like the {role}", reader.file, mend))
    if missing:
        raise DataError.of(missing)
    return RowSource(reader, source, columns, name)
