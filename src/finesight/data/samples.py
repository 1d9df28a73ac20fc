"""From rows to samples: which column means what, the prompt, the picture's bytes."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finesight.config.data import Columns, CsvSource, FolderSource
from finesight.core.errors import DataError
from finesight.core.sample import Image, Message, Origin, Sample, Text
from finesight.data.media import decode_base64
from finesight.data.sources import Reader, open_source

DEFAULT_PROMPT = "Describe the picture."
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_GUESSES = {
    "image": ("b64string_images", "image", "images", "image_path", "image_file", "file_name", "filename", "path", "picture"),
    "answer": ("caption", "answer", "text", "captions", "output", "response", "label"),
    "question": ("question", "prompt", "instruction", "query"),
}
"""Column names that are taken where the recipe names none, in the order of preference."""

_LARGEST_FILE = 64 * 2**20
"""Bytes of the largest picture file that is read."""


@dataclass(frozen=True)
class RowSource:
    """Samples of one source. `columns` are the recipe's names with the guessed ones filled in."""

    reader: Reader
    source: CsvSource | FolderSource
    columns: Columns
    name: str

    def values(self, index: int) -> Mapping[str, str]:
        """Text by column of row `index` (from 0)."""
        return self.reader.row(index)

    def wanted(self, values: Mapping[str, str]) -> bool:
        """Whether the source's `where` keeps this row."""
        for column, kept in self.source.where.items():
            if values[column] not in ((kept,) if isinstance(kept, str) else kept):
                return False
        return True

    def sample(self, index: int) -> Sample:
        """The sample of row `index`; raises DataError for a row that cannot be learned from."""
        values = self.values(index)
        origin = Origin(self.reader.file, index + 1)
        assert self.columns.image and self.columns.answer
        answer = values[self.columns.answer].strip()
        if not answer:
            raise DataError(
                "the answer is empty",
                f"{origin}, column `{self.columns.answer}`",
                "fill it in, remove the row, or set `data.on_bad_row: skip`",
            )
        image = self._picture(values[self.columns.image], f"{origin}, column `{self.columns.image}`")
        identity = values[self.columns.id] if self.columns.id else f"{self.name}-{index + 1}"
        question = Message("user", (Image(image), Text(self._prompt(values))))
        return Sample(
            id=identity,
            messages=(question, Message("assistant", (Text(answer),))),
            references=(answer,),
            origin=origin,
            tags={tag: values[tag] for tag in self.source.tags},
            group=values[self.source.group] if self.source.group else "",
        )

    def _prompt(self, values: Mapping[str, str]) -> str:
        if self.source.prompt is not None:
            return self.source.prompt.format_map(values)
        return values[self.columns.question] if self.columns.question else DEFAULT_PROMPT

    def _picture(self, value: str, where: str) -> bytes:
        if not value:
            raise DataError("there is no picture", where, "fill it in, remove the row, or set `data.on_bad_row: skip`")
        if not value.lower().endswith(_PICTURE_SUFFIXES):  # base64 has no dot
            return decode_base64(value, where)
        root = self.reader.root.resolve()
        path = (root / value).resolve()
        if not path.is_relative_to(root):
            raise DataError(f"the path `{value}` leaves the folder {root}", where, "put the picture below it, or set `root`")
        if not path.is_file():
            raise DataError(f"there is no file {path}", where, "correct the path, or set `root` of the source")
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"{path} is larger than {_LARGEST_FILE // 2**20} MiB", where, "save the picture smaller")
        return path.read_bytes()


def _guess(reader: Reader, named: Columns, asks: bool) -> Columns:
    """Fill in the columns that the recipe does not name; `asks` where a prompt makes a question needless."""
    guessed = named.model_dump()
    for role, candidates in _GUESSES.items():
        if guessed[role] is None and not (role == "question" and asks):
            guessed[role] = next((name for name in candidates if name in reader.columns), None)
    return Columns(**guessed)


def _needed(source: CsvSource | FolderSource, columns: Columns) -> dict[str, str]:
    """Columns that the recipe needs, each with the key that names it."""
    needed = {value: f"columns.{role}" for role, value in columns.model_dump().items() if value}
    needed |= {column: "where" for column in source.where}
    needed |= {column: "tags" for column in source.tags}
    if source.group:
        needed[source.group] = "group"
    if source.prompt is not None:
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(source.prompt) if field is not None]
        except ValueError as error:
            raise DataError(f"the prompt cannot be read: {error}", source.prompt, "write `{{` for a brace") from error
        needed |= {field: "prompt" for field in fields}
    return needed


def open_rows(source: CsvSource | FolderSource, name: str = "") -> RowSource:
    """Open a source, guess its columns, and check that all that the recipe names are there."""
    reader = open_source(source)
    have = ", ".join(f"`{column}`" for column in reader.columns)
    columns = _guess(reader, source.columns, asks=source.prompt is not None)
    for column, key in _needed(source, columns).items():
        if column not in reader.columns:
            raise DataError(f"there is no column `{column}`", f"{reader.file}, `{key}` of the source", f"it has {have}")
    for role in ("image", "answer"):
        if getattr(columns, role) is None:
            raise DataError(f"no column looks like the {role}", reader.file, f"name it in `columns.{role}`; it has {have}")
    return RowSource(reader, source, columns, name or Path(source.path).stem)
