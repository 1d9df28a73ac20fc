"""Rows from memory, as a reader gives them; pictures are those that ship with finesight."""

import base64
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from finesight.config.sources import Source
from finesight.core.sample import Audio, Image, Message, Origin, Sample, Text
from finesight.data.samples import Access, Counts, RowSource, rows_of

PICTURES = Path(str(files("finesight") / "assets" / "pictures" / "things" / "images"))
CAT, DOG, FISH = "noto/cat.png", "noto/dog.png", "noto/fish.png"
WAV = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\0\0\0\0"


def picture(name: str) -> bytes:
    return (PICTURES / name).read_bytes()


def base64_of(name: str) -> str:
    return base64.b64encode(picture(name)).decode()


class ListReader:
    """Rows of a list, kept as they are."""

    default_group = ""
    notes = ()

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], file: str = "rows.json", root: Path | str = PICTURES
    ) -> None:
        self.rows, self.file, self.root = rows, file, str(root)
        self.columns = tuple(dict.fromkeys(key for row in rows for key in row))

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, Any]:
        row = self.rows[index]
        return {key: row[key] for key in row if columns is None or key in columns}

    def origin(self, index: int) -> Origin:
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        return "in memory"


def opened(kind: str, *rows: Mapping[str, Any], access: Access | None = None, **recipe: Any) -> RowSource:
    """A source of this kind with these rows; `recipe` are keys of the source."""
    source = TypeAdapter(Source).validate_python({"source": kind, "path": "rows", **recipe})
    return rows_of(ListReader(rows), source, "row", access or Access())


def sample_of(kind: str, row: Mapping[str, Any], **recipe: Any) -> Sample:
    sample = opened(kind, row, **recipe).sample(0)
    assert sample is not None
    return sample


def counted(kind: str, *rows: Mapping[str, Any], **recipe: Any) -> Counts:
    """What is counted while all rows are read."""
    source, counts = opened(kind, *rows, **recipe), Counter[tuple[str, str]]()
    for index in range(len(rows)):
        source.sample(index, True, counts)
    return counts


def shown(sample: Sample) -> list[str]:
    """The turns in one line each; a picture as its name among those that are shipped."""
    return [line(turn) for turn in sample.messages]


def line(turn: Message) -> str:
    return f"{turn.role}{'' if turn.learn else ' (read)'}: {''.join(piece(part) for part in turn.parts)}"


def piece(part: Text | Image | Audio) -> str:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Audio):
        return "[sound]"
    names = {picture(name): Path(name).stem for name in (CAT, DOG, FISH)}
    return f"[{names[part.data]}]" if part.data else "[]"
