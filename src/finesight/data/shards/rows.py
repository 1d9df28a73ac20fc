"""From a row of any source to a row of a shard: its pictures and sounds as bytes, the rest as JSON values.

What is written is checked: the pictures are decoded, and the row, as it will be read back, makes the same sample.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from finesight.config.sources import MessagesSource, ParquetSource, Source, TarSource, TextSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin, Sample
from finesight.data.digest import sample_digest
from finesight.data.pictures.load import load_picture
from finesight.data.samples import RowSource, rows_of
from finesight.data.shapes.values import cell, json_list
from finesight.data.sources import Reader, Row

Media = dict[str, bytes | list[bytes]]
"""Encoded pictures or sounds by column: one, or a list."""

_PARTS: Final = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("audio", "input_audio", "audio_url"), "audio"),
}
"""Types of parts of a turn that are pictures or sounds, and the type of one that stands beside the turns."""
_PLURAL: Final = {"image": "images", "audio": "audios"}
_TABLES: Final = ("vqa", "llava", "messages", "pairs", "text")
"""Kinds of sources that read any table, shards among them."""
_OF_FILES: Final = (
    *(
        "source",
        "path",
        "root",
        "delimiter",
        "encoding",
        "rows",
        "name",
        "split",
        "revision",
        "stream",
        "buffer",
    ),
    *("where", "max_samples", "per", "rejected", "precanned"),
)
"""Keys of a source that say where rows are and which of them: the shards hold these rows and no others."""


def read_back(opened: RowSource, to: str, place: str) -> Source:
    """The source that reads the shards at `place`; what the recipe says of columns and words goes on to hold."""
    source = opened.source
    told = source.model_dump(exclude_defaults=True)
    kept = {key: value for key, value in told.items() if key not in _OF_FILES}
    pattern = f"{place}/*.{to}"
    if source.source in _TABLES:
        return type(source)(source=source.source, path=pattern, **kept)  # type: ignore[arg-type]
    columns = opened.columns
    if source.source == "hub" and columns.image is None and columns.audio is None:
        if opened.layout.talks:
            return MessagesSource(source="messages", path=pattern, **kept)
        return TextSource(source="text", path=pattern, **kept)
    if to == "tar":
        return TarSource(source="tar", path=place, **kept)
    return ParquetSource(source="parquet", path=place, **kept)


@dataclass(frozen=True)
class ShardRow:
    """One row of a shard: JSON values by column, and pictures and sounds by column."""

    values: Mapping[str, Any]
    media: Media
    dropped: tuple[str, ...] = ()
    """Columns with bytes that no sample is made from."""


class Converter:
    """Makes rows of shards from those of a source. Can be sent to another process.

    `back` is the source that will read the shards: each row is read back by it before it is handed out.
    """

    def __init__(self, opened: RowSource, back: Source) -> None:
        self.opened, self.back = opened, back
        columns = opened.columns
        self._talks = [name for name in (columns.messages, columns.question, columns.answer) if name]
        self._backs: dict[tuple[str, ...], RowSource] = {}

    def words(self, index: int) -> ShardRow | None:
        """The row without what its pictures and sounds hold; None where the source's `where` leaves it out."""
        sample = self.opened.sample(index, pictures=False)
        return None if sample is None else self._made(index, sample)

    def row(self, index: int) -> ShardRow | None:
        """The row, checked; None where the source's `where` leaves it out. Raises DataError for a bad row."""
        sample = self.opened.sample(index)
        if sample is None:
            return None
        column = self.opened.picture_column
        for image in sample.images:
            try:
                load_picture(image.data, where=f"{sample.origin}, column `{column}`")
            except DataError as error:
                error.column = error.column or column
                raise
        made = self._made(index, sample)
        self._check(made, sample)
        return made

    def _made(self, index: int, sample: Sample) -> ShardRow:
        values = dict(self.opened.reader.row(index))
        columns = self.opened.columns
        moved = self._without_media(values)
        media: Media = {}
        for kind, column, held in (
            ("image", columns.image, [image.data for image in sample.images]),
            ("audio", columns.audio, [sound.data for sound in sample.sounds]),
        ):
            name = column or (_PLURAL[kind] if kind in moved else None)
            if name is None:
                continue
            several = (
                kind in moved or len(held) != 1 or isinstance(json_list(cell(values, name)), list | tuple)
            )
            _remove(values, name)
            if held:
                media[name] = held if several else held[0]
        dropped = tuple(name for name, value in values.items() if _has_bytes(value))
        return ShardRow(
            {name: value for name, value in values.items() if name not in dropped}, media, dropped
        )

    def _without_media(self, values: dict[str, Any]) -> set[str]:
        """Turn pictures and sounds that stand in turns into places, for they will stand beside them; their kinds."""
        moved: set[str] = set()
        for name in self._talks:
            turns = json_list(values.get(name))
            if isinstance(turns, list):
                moved |= {kind for turn in turns for kind in _held_in(turn)}
        for name in self._talks if moved else ():
            turns = json_list(values.get(name))
            if isinstance(turns, list):
                values[name] = [_emptied(turn, moved) for turn in turns]
        return moved

    def _check(self, made: ShardRow, sample: Sample) -> None:
        """Raise unless the row, read back, makes the same sample."""
        reader = self.opened.reader
        new = tuple(name for name in made.media if name not in reader.columns)
        if new not in self._backs:
            columns = (*reader.columns, *new)
            self._backs[new] = rows_of(_Held(reader, columns), self.back, self.opened.name)
        held = _Held(reader, (*reader.columns, *new), {**made.values, **made.media}, sample.origin)
        again = replace(self._backs[new], reader=held).sample(0)
        same = again is not None and (sample_digest(again), again.tags, again.group) == (
            sample_digest(sample),
            sample.tags,
            sample.group,
        )
        if not same:
            what = "read back from a shard, the row would make another sample"
            raise DataError(what, str(sample.origin), "name its columns by `columns` of the source")


class _Held:
    """A reader of one row that is at hand."""

    notes: tuple[tuple[str, str], ...] = ()

    def __init__(
        self, reader: Reader, columns: Sequence[str], row: Row | None = None, origin: Origin | None = None
    ) -> None:
        self.file, self.root, self.columns = reader.file, reader.root, tuple(dict.fromkeys(columns))
        self._row, self._origin = row or {}, origin or Origin(reader.file, 1)

    def __len__(self) -> int:
        return 1

    def row(self, index: int, columns: Collection[str] | None = None) -> Row:
        return self._row

    def origin(self, index: int) -> Origin:
        return self._origin

    def identity(self) -> str:
        return ""


def _part_kind(part: Any) -> str | None:
    """`image` or `audio` for a part of a turn that is one."""
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    if kind is None:
        kind = next((key for key in ("text", *_PARTS) if part.get(key) is not None), None)
    return _PARTS.get(kind) if isinstance(kind, str) else None


def _parts_of(turn: Any) -> list[Any]:
    content = (turn.get("content") or turn.get("value")) if isinstance(turn, Mapping) else None
    return list(content) if isinstance(content, list | tuple) else []


def _held_in(turn: Any) -> set[str]:
    """Kinds of media that the turn itself holds, or names by number."""
    found = set()
    for part in _parts_of(turn):
        kind = _part_kind(part)
        if kind is not None and any(value is not None for key, value in part.items() if key != "type"):
            found.add(kind)
    return found


def _emptied(turn: Any, moved: set[str]) -> Any:
    parts = _parts_of(turn)
    if not any(_part_kind(part) in moved for part in parts):
        return turn
    key = "content" if turn.get("content") else "value"
    emptied = [{"type": _part_kind(part)} if _part_kind(part) in moved else part for part in parts]
    return {**turn, key: emptied}


def _remove(values: dict[str, Any], name: str) -> None:
    """Take a column out; of `a.b`, the key `b` of what column `a` holds."""
    if name in values:
        del values[name]
        return
    first, _, rest = name.partition(".")
    inner = values.get(first)
    if rest and isinstance(inner, Mapping):
        values[first] = dict(inner)
        _remove(values[first], rest)


def _has_bytes(value: Any) -> bool:
    match value:
        case bytes() | bytearray() | memoryview():
            return True
        case Mapping():
            return any(_has_bytes(item) for item in value.values())
        case list() | tuple():
            return any(_has_bytes(item) for item in value)
    return False
