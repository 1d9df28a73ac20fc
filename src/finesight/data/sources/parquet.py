"""Parquet and Arrow files (IPC, Feather): one file, or several as one table.

Arrow files are mapped into memory, so any row costs the same. Parquet keeps rows in groups that can only be unpacked
whole: a row costs as much as its group, unless the group is one of the few that are still held. So parquet is good for
reading in order and for rows drawn from small groups (some hundred rows); `finesight convert` makes it so.
"""

import bisect
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from finesight.config.place import is_address, resolve_path
from finesight.config.sources import ParquetSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.sources.arrow import (
    JSON_TEXT,
    MEND,
    TableFile,
    check_same,
    check_types,
    open_file,
    widened,
)
from finesight.data.sources.json import parse_json
from finesight.data.sources.manifest import Hashes, Manifest, manifest_beside
from finesight.data.sources.shards import Shard, find_shards, folder_of, identity_of
from finesight.data.sources.values import filled

SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".ipc", ".arrows")

_HELD = 256 << 20
"""Bytes of unpacked row groups that a process holds; of a larger group, that one alone."""
_MOST_OPEN = 64
"""Files that a process keeps open at once."""
_SLOW = 64 << 20
"""Bytes of a block from which on it is said that single rows are slow."""
_KEPT = (
    "file",
    "root",
    "columns",
    "notes",
    "_shards",
    "_block_shard",
    "_block_number",
    "_starts",
    "_first_row",
)


class ParquetReader:
    """Rows of parquet or Arrow files, in the order of the files' names."""

    def __init__(
        self, path: str, shards: Sequence[Shard], root: str, manifest: Manifest | None = None
    ) -> None:
        self.file = shards[0].name if len(shards) == 1 else path
        self.root = root
        self._shards = list(shards)
        self._begin()
        rows: list[int] = []
        of_shard: list[int] = []
        numbers: list[int] = []
        schema: Any = None
        largest = 0
        self._hashes: list[dict[str, Hashes]] = []
        for number, shard in enumerate(self._shards):
            if manifest is not None:
                manifest.check_shard(shard.name, shard.size)
                self._hashes.append(manifest.pictures_by_row(shard.name))
            opened = open_file(shard)
            largest = max(largest, opened.largest)
            if schema is None:
                schema = opened.schema
                check_types(schema, shard)
            else:
                check_same(schema, opened.schema, self._shards[0], shard)
                schema = widened(schema, opened.schema)
            rows += opened.rows
            of_shard += [number] * len(opened.rows)
            numbers += range(len(opened.rows))
        self._block_shard, self._block_number = (
            np.array(of_shard, dtype=np.int64),
            np.array(numbers, dtype=np.int64),
        )
        self.columns: tuple[str, ...] = tuple(schema.names)
        self._json = frozenset(
            field.name for field in schema if JSON_TEXT.items() <= (field.metadata or {}).items()
        )
        self.notes: tuple[tuple[str, str], ...] = ()
        if largest > _SLOW:
            size = f"{largest >> 20:,} MiB"
            text = f"{self.file}: a row costs as much as its group of {size}; `finesight convert` mends it"
            self.notes = (("slow", text),)
        self._starts = np.cumsum([0, *rows])
        if not self._starts[-1]:
            raise DataError("there is no row", self.file, "give files with rows")
        firsts = np.searchsorted(self._block_shard, np.arange(len(self._shards)))
        self._first_row = self._starts[np.minimum(firsts, len(rows))]

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._opened: OrderedDict[int, TableFile] = OrderedDict()
        self._held: OrderedDict[tuple[int, tuple[str, ...]], tuple[_Block, int]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*_KEPT, "_json", "_hashes")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def blocks(self) -> np.ndarray:
        """First row of each block, and the number of rows: rows of one block are read together at the cost of one."""
        return self._starts

    def origin(self, index: int) -> Origin:
        """File and row in it of row `index`."""
        number = int(self._block_shard[self._block_of(index)])
        return Origin(self._shards[number].name, index - int(self._first_row[number]) + 1)

    def identity(self) -> str:
        """Names, sizes and times of the files."""
        return identity_of(self._shards)

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, Any]:
        """Values of row `index`, of `columns` alone where they are given; what is null is left out."""
        wanted = self.columns if columns is None else tuple(n for n in self.columns if n in columns)
        number = self._block_of(index)
        if not wanted:
            return {}
        try:
            block = self._block(number, wanted)
            found = block.row(index - int(self._starts[number]), wanted)
            for name in self._json & found.keys():
                found[name] = parse_json(found[name].encode())
                if found[name] is None:
                    del found[name]
        except DataError:
            raise
        except Exception as error:  # pyarrow raises many kinds, of OSError, ValueError and its own
            what = f"the row cannot be read ({type(error).__name__}: {error})"
            raise DataError(what, str(self.origin(index)), MEND) from error
        if self._hashes:
            self._check_pictures(found, index)
        return found

    def _check_pictures(self, found: Mapping[str, Any], index: int) -> None:
        """Raise where pictures are not those that the manifest lists."""
        number = int(self._block_shard[self._block_of(index)])
        for name, hashes in self._hashes[number].items():
            if name in found:
                told = hashes.of(index - int(self._first_row[number]))
                held = found[name] if isinstance(found[name], list) else [found[name]]
                if [hashlib.sha256(_bytes_of(item)).digest() for item in held] != told:
                    what = f"a picture of `{name}` is not the one that manifest.json lists"
                    mend = "the shard was damaged or changed: put it back, or convert the data again"
                    raise DataError(what, str(self.origin(index)), mend, name)

    def _block_of(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _block(self, number: int, columns: tuple[str, ...]) -> "_Block":
        if self._process != os.getpid():  # what a parent has open is not for its child
            self._begin()
        key = (number, columns)
        with self._lock:
            found = self._held.get(key) or self._held.get((number, self.columns))
            if found is not None:
                self._held.move_to_end(key if key in self._held else (number, self.columns))
                return found[0]
            batches, size = self._load(number, columns)
            block = _Block(batches)
            self._held[key] = block, size
            while len(self._held) > 1 and sum(size for _, size in self._held.values()) > _HELD:
                self._held.popitem(last=False)
            return block

    def _load(self, number: int, columns: Sequence[str]) -> tuple[list[Any], int]:
        return self._file(int(self._block_shard[number])).load(int(self._block_number[number]), columns)

    def _file(self, number: int) -> TableFile:
        found = self._opened.get(number)
        if found is None:
            self._opened[number] = found = open_file(self._shards[number])
            if len(self._opened) > _MOST_OPEN:
                self._opened.popitem(last=False)
        return found


def _bytes_of(item: Any) -> bytes:
    """A picture's bytes, as bytes or under the key `bytes`."""
    data = item.get("bytes") if isinstance(item, dict) else item
    return data if isinstance(data, bytes) else b""


class _Block:
    """Record batches of consecutive rows."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist()

    def row(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        number = bisect.bisect_right(self._starts, index) - 1
        one = self._batches[number].slice(index - self._starts[number], 1)
        found = {}
        for name in columns:
            column = one.column(name)
            _check(column)
            found[name] = column[0].as_py(maps_as_pydicts="strict")
        return filled(found)


def _check(column: Any) -> None:
    """Raise where the places that a mapped file names lie outside of it; Arrow itself believes what files say."""
    import pyarrow as pa

    if pa.types.is_string(column.type):  # whether it is UTF-8 is seen when it is decoded
        column = column.view(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.view(pa.large_binary())
    column.validate(full=True)


def open_parquet(source: ParquetSource) -> ParquetReader:
    """The reader of a `parquet` source."""
    root = source.root
    if root is not None and not is_address(root):
        place = resolve_path(root, "root")
        if not place.is_dir():
            mend = "give the folder of the pictures in `root` of this source"
            raise DataError("this is not a folder", str(place), mend)
        root = str(place)
    return open_tables(source.path, root)


def open_tables(path: str, root: str | None = None) -> ParquetReader:
    """The reader of the parquet or Arrow files that `path` names; paths in rows are relative to `root`."""
    shards = find_shards(path, SUFFIXES)
    names = [shard.name for shard in shards]
    manifest = manifest_beside(names)
    if manifest is not None and path not in names:
        manifest.check_all(path, names)
    return ParquetReader(path, shards, root if root is not None else folder_of(names[0]), manifest)
