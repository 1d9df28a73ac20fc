"""Files of shards, written front to back: the same rows give the same bytes, whoever writes them and when."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from finesight.data.shards.kinds import JSON, Kind, arrow_type
from finesight.data.shards.rows import Media, ShardRow
from finesight.data.sources.arrow import JSON_TEXT
from finesight.runtime.files import TEMPORARY, sync_directory

_GROUP_ROWS: Final = 100
_GROUP_BYTES: Final = 32 << 20
"""Rows and bytes of a row group of parquet: what is unpacked to read one row."""

_MAGIC: Final[tuple[tuple[bytes, int, str], ...]] = (
    (b"\xff\xd8\xff", 0, "jpg"),
    (b"\x89PNG", 0, "png"),
    (b"WEBP", 8, "webp"),
    (b"GIF8", 0, "gif"),
    (b"BM", 0, "bmp"),
    (b"II*\0", 0, "tif"),
    (b"MM\0*", 0, "tif"),
    (b"WAVE", 8, "wav"),
    (b"fLaC", 0, "flac"),
    (b"OggS", 0, "ogg"),
    (b"ID3", 0, "mp3"),
    (b"ftyp", 4, "m4a"),
)
"""Bytes, their place, and the extension of files that have them there."""


def extension_of(data: bytes) -> str:
    """The extension of a picture or sound, by its first bytes."""
    known = (ending for magic, at, ending in _MAGIC if data[at : at + len(magic)] == magic)
    return next(known, "mp3" if data[:1] == b"\xff" else "bin")


@dataclass(frozen=True)
class Plan:
    """What all shards of a conversion have in common.

    `width` is the number of digits of a row's number; `kinds` are the types of columns and `lists` says of each column
    of pictures or sounds whether rows hold lists of them: both for parquet alone.
    """

    to: str
    width: int
    kinds: Mapping[str, Kind]
    lists: Mapping[str, bool]


class Writer(Protocol):
    """Writes the rows of one shard."""

    def add(self, number: int, row: ShardRow) -> None:
        """The next row; `number` is its own in its source, from 0."""

    def finish(self) -> Any:
        """Write the end, and tell of the pictures what the manifest lists."""


def told(data: bytes) -> dict[str, Any]:
    """What the manifest says of a picture or sound."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


class TarWriter:
    """WebDataset shards: `<number>.<extension>` for a picture, `<number>.json` for all else."""

    def __init__(self, stream: io.RawIOBase, plan: Plan) -> None:
        self._stream, self._width = stream, plan.width
        self._pictures: dict[str, dict[str, Any]] = {}

    def add(self, number: int, row: ShardRow) -> None:
        """The next row."""
        key = f"{number + 1:0{self._width}d}"
        places: dict[str, str | list[str]] = {}
        for column, held in row.media.items():
            extensions = _extensions(held, row.values)
            places[column] = extensions if isinstance(held, list) else extensions[0]
            for extension, data in zip(extensions, held if isinstance(held, list) else [held], strict=True):
                name = f"{key}.{extension}"
                self._member(name, data)
                self._pictures[name] = told(data)
        content = {**row.values, **({"__media__": places} if places else {})}
        self._member(f"{key}.json", json.dumps(content, ensure_ascii=False).encode("utf-8"))

    def _member(self, name: str, data: bytes) -> None:
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._stream.write(header.tobuf(tarfile.USTAR_FORMAT))
        self._stream.write(data)
        self._stream.write(bytes(-len(data) % tarfile.BLOCKSIZE))

    def finish(self) -> dict[str, dict[str, Any]]:
        """Sha256 and size of each picture and sound, by member."""
        self._stream.write(bytes(2 * tarfile.BLOCKSIZE))
        return self._pictures


def _extensions(held: bytes | list[bytes], values: Mapping[str, Any]) -> list[str]:
    """An extension for each picture, none of them the name of another column."""
    listed = held if isinstance(held, list) else [held]
    found = [extension_of(data) for data in listed]
    if isinstance(held, list):
        found = [f"{number}.{ending}" for number, ending in enumerate(found)]
    while any(extension in values for extension in found):
        found = [f"x.{extension}" for extension in found]
    return found


class ParquetWriter:
    """Parquet: pictures as `{bytes, path}`, as Hugging Face writes them; columns of several types as JSON texts."""

    def __init__(self, stream: io.RawIOBase, plan: Plan) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._plan, self._rows, self._size = plan, list[dict[str, Any]](), 0
        self._pictures: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in plan.lists}
        self._schema = _schema(plan)
        plain = [path for path in _leaves(self._schema) if path.split(".")[0] not in plan.lists]
        leaves = _leaves(self._schema)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(stream, mode="w"),
            self._schema,
            compression={path: "zstd" if path in plain else "none" for path in leaves},
            use_dictionary=plain,
            write_statistics=plain,  # those of pictures would be whole pictures
            write_page_checksum=True,
        )

    def add(self, number: int, row: ShardRow) -> None:
        """The next row."""
        made: dict[str, Any] = {}
        for name, value in row.values.items():
            as_text = self._plan.kinds.get(name) == JSON and value is not None
            made[name] = json.dumps(value, ensure_ascii=False) if as_text else value
        for name, several in self._plan.lists.items():
            held = row.media.get(name)
            listed = held if isinstance(held, list) else [] if held is None else [held]
            self._pictures[name].append([told(data) for data in listed])
            stem = f"{number + 1:0{self._plan.width}d}"
            cells = [
                {"bytes": data, "path": f"{stem}{f'-{at + 1}' if several else ''}.{extension_of(data)}"}
                for at, data in enumerate(listed)
            ]
            made[name] = cells if several else cells[0] if cells else None
            self._size += sum(len(data) for data in listed)
        self._rows.append(made)
        if len(self._rows) >= _GROUP_ROWS or self._size >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._size = [], 0

    def finish(self) -> dict[str, list[list[dict[str, Any]]]]:
        """Sha256 and size of the pictures and sounds of each row, by column."""
        self._flush()
        self._writer.close()
        return self._pictures


def _schema(plan: Plan) -> Any:
    import pyarrow as pa

    picture = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    fields = [
        pa.field(name, arrow_type(kind), metadata=JSON_TEXT if kind == JSON else None)
        for name, kind in plan.kinds.items()
        if name not in plan.lists
    ]
    fields += [
        pa.field(name, pa.list_(picture) if several else picture) for name, several in plan.lists.items()
    ]
    return pa.schema(fields)


def _leaves(schema: Any) -> list[str]:
    """Paths of the columns that parquet keeps, those within lists and structs."""
    import pyarrow as pa

    def below(path: str, kind: Any) -> list[str]:
        if pa.types.is_list(kind):
            return below(f"{path}.list.element", kind.value_type)
        if pa.types.is_struct(kind):
            inner = [kind.field(number) for number in range(kind.num_fields)]
            return [leaf for field in inner for leaf in below(f"{path}.{field.name}", field.type)]
        return [path]

    return [leaf for field in schema for leaf in below(field.name, field.type)]


class HashedFile(io.RawIOBase):
    """A file that is written front to back under a temporary name, and its sha256."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # a name of this process alone: one whose parent was killed may still be at work on the same shard
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed by one of the two methods at the end
        self._hash, self.size = hashlib.sha256(), 0

    @property
    def digest(self) -> str:
        """Sha256 of what was written."""
        return self._hash.hexdigest()

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The number of bytes that were written."""
        return self.size

    def write(self, data: Any) -> int:
        """Write and hash; nothing once the file is removed, for libraries write an end to what has failed."""
        if self._file.closed:
            return memoryview(data).nbytes
        self._hash.update(data)
        self._file.write(data)
        length = memoryview(data).nbytes
        self.size += length
        return length

    def close(self) -> None:
        """Nothing: `put_in_place` or `remove` ends the file, not the library that writes it."""

    def put_in_place(self) -> None:
        """Flush the file to the disk, and give it its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)
        sync_directory(self._path.parent)

    def remove(self) -> None:
        """Take away what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


WRITERS: Final[Mapping[str, Callable[[io.RawIOBase, Plan], Writer]]] = {
    "tar": TarWriter,
    "parquet": ParquetWriter,
}


def media_bytes(media: Media) -> int:
    """Bytes of all pictures and sounds of a row."""
    held: Sequence[bytes] = [
        data for item in media.values() for data in (item if isinstance(item, list) else [item])
    ]
    return sum(len(data) for data in held)
