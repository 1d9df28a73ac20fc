"""The index of one tar shard: rows, members and where their bytes stand; made in one pass and kept in the cache.

M members, N rows. Members of a row stand together, rows in the order of their first members.
"""

import hashlib
import json
import os
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from finesight.config.place import is_address
from finesight.core.errors import DataError
from finesight.data.sources.json import parse_json
from finesight.data.sources.manifest import Manifest
from finesight.data.sources.shards import Shard, open_bytes
from finesight.data.sources.tarfiles import Damage, Member, NoArchive, Scan
from finesight.runtime.cachedir import NoCache, cached, forget_entry

JSON: Final = "json"
PICTURES: Final = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
SOUNDS: Final = frozenset({"wav", "flac", "mp3", "ogg", "opus", "m4a"})
_PICKLES: Final = frozenset({"pyd", "pkl", "pickle", "pth", "pt", "ckpt", "joblib", "dill"})
"""Members that only run code can read."""

_FORM: Final = 1
"""Format number of an index in the cache."""
LARGEST_MEMBER: Final = 96 << 20
_LARGEST_JSON: Final = 16 << 20
_MOST_EXTENSIONS: Final = 1000
_MOST_KEYS: Final = 1000
_SMALL: Final = 1 << 20
_MOMENT: Final = 2_000_000_000
"""Nanoseconds within which a file may change and keep its time of change, on the coarsest file system."""


@dataclass
class TarIndex:
    """What is known of one shard.

    `firsts` (N + 1,): first member of each row. By member (M,): `starts` and `sizes` of its bytes, `kinds` into
    `extensions`, and with a manifest its `hashes` (M, 32), all zero where it lists none.
    """

    keys: bytes
    key_ends: np.ndarray
    firsts: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray
    hashes: np.ndarray
    extensions: tuple[str, ...]
    json_keys: tuple[str, ...]
    faults: dict[int, str]
    left_out: dict[str, int]
    digest: str
    made_ns: int = 0
    notes: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def key(self, row: int) -> str:
        """The stem of a row's members."""
        start = int(self.key_ends[row - 1]) if row else 0
        return self.keys[start : int(self.key_ends[row])].decode("utf-8")

    def members(self, row: int) -> range:
        """The members of a row."""
        return range(int(self.firsts[row]), int(self.firsts[row + 1]))

    def extension(self, member: int) -> str:
        """What follows the stem in a member's name."""
        return self.extensions[int(self.kinds[member])]

    def place(self, member: int) -> tuple[int, int]:
        """Start and number of a member's bytes."""
        return int(self.starts[member]), int(self.sizes[member])

    def matches(self, member: int, data: bytes) -> bool:
        """Whether the bytes are those that the manifest lists; so where it lists none."""
        if not len(self.hashes):
            return True
        told = self.hashes[member].tobytes()
        return not any(told) or hashlib.sha256(data).digest() == told


def tail(extension: str) -> str:
    """The last part of an extension: `png` of `left.png`."""
    return extension.rpartition(".")[2]


def split_name(name: str) -> tuple[str, str] | None:
    """Stem and extension of a member's name, parted at the first dot of its last part; None where it has none."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    dot = name.find(".", name.rfind("/") + 1)
    if dot <= name.rfind("/") + 1 or dot == len(name) - 1:  # no dot, a hidden file, or nothing behind the dot
        return None
    return name[:dot], name[dot + 1 :].lower()


def part_of_row(found: Member) -> tuple[str, str] | str:
    """Stem and extension of a member; or why it belongs to no row, empty where that need not be said."""
    if found.fault == "folder" or found.name.startswith(
        "__"
    ):  # WebDataset's words about the shard as a whole
        return ""
    parts = split_name(found.name)
    if parts is None:
        return "members without an extension, or hidden"
    if tail(parts[1]) in _PICKLES:
        return f"members .{tail(parts[1])}, which are pickles: opening one can run any program"
    return parts


def _leads_out(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:3] == ":\\"


@dataclass
class TarIndexBuilder:
    """Takes members one after another, and groups them to rows."""

    keys: bytearray = field(default_factory=bytearray)
    key_ends: "array[int]" = field(default_factory=lambda: array("q"))
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    kinds: "array[int]" = field(default_factory=lambda: array("q"))
    faults: dict[int, str] = field(default_factory=dict)
    extensions: dict[str, int] = field(default_factory=dict)
    json_keys: dict[str, None] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    last: str | None = None

    def damage(self, found: Damage) -> None:
        """A stretch of the archive that cannot be read is a row of its own, with that as its fault."""
        self._row(f"byte {found.start + 1}")
        self.faults[len(self.key_ends) - 1] = found.what
        self.last = None

    def member(self, found: Member, content: bytes | None, shard: Shard) -> None:
        """A member of the archive."""
        parts = part_of_row(found)
        if isinstance(parts, str):
            if parts:
                self.left_out[parts] += 1
            return
        key, extension = parts
        if key != self.last:
            self._row(key)
            self.last = key
        row = len(self.key_ends) - 1
        fault = _fault_of(found, extension)
        if fault:
            self.faults.setdefault(row, f"member `{found.name[:200]}` {fault}")
            return
        number = self.extensions.setdefault(extension, len(self.extensions))
        if number >= _MOST_EXTENSIONS:
            raise DataError(
                f"its members have more than {_MOST_EXTENSIONS:,} extensions, `.{extension[:100]}` among them",
                shard.name,
                "a stem ends at the first dot: name members without further dots, such as 0001.jpg and 0001.txt",
            )
        for column, value in zip(
            (self.rows, self.starts, self.sizes, self.kinds),
            (row, found.start, found.size, number),
            strict=True,
        ):
            column.append(value)
        if extension == JSON and content is not None:
            self._note_keys(content)

    def _row(self, key: str) -> None:
        self.keys += key.encode("utf-8")
        self.key_ends.append(len(self.keys))

    def _note_keys(self, content: bytes) -> None:
        try:
            found = parse_json(content.removeprefix(b"\xef\xbb\xbf"))
        except ValueError:
            return  # told when the row is read
        told = found.get("__media__") if isinstance(found, dict) else None
        names = [*(found if isinstance(found, dict) else [JSON]), *(told if isinstance(told, dict) else ())]
        for name in names:
            if len(self.json_keys) < _MOST_KEYS and name not in ("__media__", "__key__"):
                self.json_keys[name] = None

    def finish(self, digest: str) -> TarIndex:
        """The index, once all members were seen."""
        rows = np.array(self.rows, dtype=np.int64)
        first = self._first_rows()
        kept, number = np.unique(first, return_inverse=True)  # rows of the same stem become the first of them
        faults: dict[int, str] = {}
        for row, fault in self.faults.items():
            faults.setdefault(int(number[row]), fault)
        belongs = number[rows] if len(rows) else rows
        order = np.argsort(belongs, kind="stable")
        belongs = belongs[order]
        starts, sizes, kinds = (
            np.array(column, dtype=np.int64)[order] for column in (self.starts, self.sizes, self.kinds)
        )
        extensions = tuple(self.extensions)
        twice = np.flatnonzero(_repeated(belongs * _MOST_EXTENSIONS + kinds))
        keys, ends = self._keys_of(kept)
        for member in twice.tolist():
            faults.setdefault(
                int(belongs[member]), f"two members have the extension `.{extensions[kinds[member]]}`"
            )
        return TarIndex(
            keys,
            ends,
            np.searchsorted(belongs, np.arange(len(kept) + 1)),
            *(starts, sizes, kinds.astype(np.int16)),
            np.zeros((0, 32), np.uint8),
            extensions,
            tuple(self.json_keys),
            faults,
            dict(self.left_out),
            digest,
            time.time_ns(),
        )

    def _key(self, row: int) -> bytes:
        return bytes(self.keys[self.key_ends[row - 1] if row else 0 : self.key_ends[row]])

    def _first_rows(self) -> np.ndarray:
        """For each row the first one with its stem: members of a row need not stand side by side."""
        count = len(self.key_ends)
        hashes = np.fromiter((hash(self._key(row)) for row in range(count)), dtype=np.int64, count=count)
        first = np.arange(count)
        _, where, back = np.unique(hashes, return_index=True, return_inverse=True)
        for row in np.flatnonzero(where[back] != first).tolist():
            if self._key(row) == self._key(int(where[back[row]])):
                first[row] = where[back[row]]
        return first

    def _keys_of(self, rows: np.ndarray) -> tuple[bytes, np.ndarray]:
        if len(rows) == len(self.key_ends):
            return bytes(self.keys), np.array(self.key_ends, dtype=np.int64)
        parts = [self._key(row) for row in rows.tolist()]
        return b"".join(parts), np.cumsum([len(part) for part in parts])


def _repeated(values: np.ndarray) -> np.ndarray:
    """Mask of the values that stand at an earlier place, too."""
    _, first = np.unique(values, return_index=True)
    mask = np.ones(len(values), dtype=bool)
    mask[first] = False
    return mask


def _fault_of(found: Member, extension: str) -> str:
    if _leads_out(found.name):
        return "has a name that leads out of the archive's folder"
    if found.fault:
        return f"is {found.fault}"
    limit = _LARGEST_JSON if extension == JSON else LARGEST_MEMBER
    return f"has {found.size:,} bytes; at most {limit:,} are read" if found.size > limit else ""


def _scanned(shard: Shard, manifest: Manifest | None) -> TarIndex:
    builder = TarIndexBuilder()

    def keep(name: str, size: int) -> bool:
        return size <= _LARGEST_JSON and name.lower().endswith(".json")

    with open_bytes(shard) as stream:
        scan = Scan(stream, shard.size, keep, sha256=manifest is not None)
        try:
            for found in scan:
                if isinstance(found, Damage):
                    builder.damage(found)
                else:
                    builder.member(found, scan.content, shard)
        except NoArchive as error:
            raise DataError(error.what, shard.name, error.mend) from error
        except OSError as error:
            raise DataError(
                f"the file cannot be read: {error.strerror}", shard.name, "check the disk"
            ) from error
    if scan.behind:
        builder.left_out["archives with bytes behind their end, which are not read"] += 1
    index = builder.finish(scan.digest)
    if manifest is not None:
        index.hashes = _hashes(index, shard, manifest)
    return index


def _hashes(index: TarIndex, shard: Shard, manifest: Manifest) -> np.ndarray:
    """What the manifest lists of each member; raises DataError where the shard as a whole is another."""
    manifest.check_shard(shard.name, shard.size, index.digest)
    told = manifest.pictures(shard.name)
    hashes = np.zeros((len(index.starts), 32), np.uint8)
    for row in range(len(index)):
        key = index.key(row)
        for member in index.members(row):
            listed = told.get(f"{key}.{index.extension(member)}")
            if listed is not None:
                hashes[member] = np.frombuffer(bytes.fromhex(listed), np.uint8)
    return hashes


_ARRAYS: Final = ("key_ends", "firsts", "starts", "sizes", "kinds", "hashes")
_PLAIN: Final = ("extensions", "json_keys", "left_out", "digest", "made_ns")


def _write(index: TarIndex, folder: Path) -> None:
    """One file for all: there may be thousands of shards, and each file costs time to open."""
    arrays = {name: np.ascontiguousarray(getattr(index, name)) for name in _ARRAYS}
    about = {name: getattr(index, name) for name in _PLAIN} | {"faults": sorted(index.faults.items())}
    about["arrays"] = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    head = json.dumps(about).encode()
    head += b" " * (-len(head) % 8)
    with open(folder / "index", "wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for part in (*arrays.values(), np.frombuffer(index.keys, np.uint8)):
            stream.write(part.tobytes() + bytes(-part.nbytes % 8))


def _read(folder: Path) -> TarIndex:
    data = (folder / "index").read_bytes()
    at = 8 + int.from_bytes(data[:8], "little")
    about: dict[str, Any] = json.loads(data[8:at])
    for name, (kind, shape) in about.pop("arrays").items():
        array = np.frombuffer(data, np.dtype(kind), int(np.prod(shape)), at).reshape(shape)
        about[name] = array
        at += array.nbytes + -array.nbytes % 8
    about |= {name: tuple(about[name]) for name in ("extensions", "json_keys")}
    about["faults"] = {int(row): str(fault) for row, fault in about["faults"]}
    end = int(about["key_ends"][-1]) if len(about["key_ends"]) else 0
    return TarIndex(keys=data[at : at + end], **about)


def index_of(shard: Shard, manifest: Manifest | None) -> TarIndex:
    """The index of a shard, from the cache where it is there; a small shard is gone through each time."""
    if shard.size < _SMALL:
        return _scanned(shard, manifest)
    where = shard.name if is_address(shard.name) else os.path.abspath(shard.name)
    key = json.dumps([where, shard.size, shard.stamp, manifest.identity if manifest else ""])
    made: list[TarIndex] = []

    def write(folder: Path) -> None:
        made.append(_scanned(shard, manifest))
        _write(made[0], folder)

    try:
        for _ in range(2):
            folder = cached("tar", key, _FORM, write)
            if made:
                return made[0]
            index = _read(folder)
            if _settled(index, shard):
                return index
            forget_entry("tar", key)
    except NoCache as error:
        index = made[0] if made else _scanned(shard, manifest)
        index.notes = (("cache", f"{error}; {shard.name} is indexed anew at each start"),)
        return index
    except (OSError, ValueError, TypeError, KeyError):  # removed by another process, or not what we wrote
        pass
    return made[0] if made else _scanned(shard, manifest)


def _settled(index: TarIndex, shard: Shard) -> bool:
    """Whether an index was made long enough after its file: one that changes twice at once keeps its time."""
    if not shard.stamp:
        return False
    return not shard.stamp.isdecimal() or abs(index.made_ns - int(shard.stamp)) > _MOMENT
