"""The manifest beside shards that `finesight convert` wrote: what they hold, and hashes to check it by.

`manifest.json` has `format` 1 and `kind` "shards"; of the whole `to` (`tar` or `parquet`), `rows`, `pictures`,
`bytes`, `faults`, `left_out`, `source` and `source_identity`; and under `shards`, for each file, `file`, `rows`,
`bytes`, `sha256` and `pictures`. These are, with `sha256` and `bytes` each: in tar shards a mapping from
member to picture; in parquet a mapping from column to the pictures of each row, a list of lists.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finesight.core.errors import DataError
from finesight.core.formats import check_format
from finesight.data.sources.shards import Shard, folder_of, open_bytes, stat_shard

NAME = "manifest.json"
KIND = "shards"
_LARGEST = 1 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read. `identity` changes when the file does."""

    where: str
    identity: str
    shards: Mapping[str, Mapping[str, Any]]

    def check_shard(self, name: str, size: int, digest: str | None = None) -> None:
        """Raise DataError where a shard is not the one that is listed; `digest` is its sha256."""
        listed = self._listed(name)
        if listed["bytes"] != size:
            what = f"the shard has {size:,} bytes, and {listed['bytes']:,} in its manifest"
        elif digest is not None and listed["sha256"] != digest:
            what = "the bytes of the shard are not those that its manifest lists"
        else:
            return
        mend = f"put the shard back or convert the data again; if you changed it, delete {self.where}"
        raise DataError(what, name, mend)

    def check_all(self, path: str, names: Sequence[str]) -> None:
        """Raise DataError where `path` is the whole folder, and a listed shard is missing."""
        if path.rstrip("/") != folder_of(self.where).rstrip("/"):
            return
        missing = sorted(self.shards.keys() - {_last(name) for name in names})
        if missing:
            what = f"{len(missing)} of {len(self.shards)} shards are missing: {', '.join(missing[:5])}"
            raise DataError(what, self.where, "put them back, or name those to be read by a pattern")

    def pictures(self, name: str) -> dict[str, str]:
        """Sha256 of each picture of a tar shard, by its member."""
        found = {}
        for member, told in self._part(name, dict).items():
            found[str(member)] = self._hash(told)
        return found

    def pictures_by_row(self, name: str) -> dict[str, "Hashes"]:
        """Sha256 of the pictures of a parquet shard, by column."""
        found = {}
        for column, rows in self._part(name, dict).items():
            try:
                counts = [len(row) for row in rows]
                hashes = b"".join(bytes.fromhex(self._hash(told)) for row in rows for told in row)
            except TypeError as error:
                raise self._damaged(str(error)) from error
            found[str(column)] = Hashes(hashes, np.cumsum([0, *counts]))
        return found

    def _listed(self, name: str) -> Mapping[str, Any]:
        listed = self.shards.get(_last(name))
        if listed is None:
            mend = f"move the file elsewhere, or delete {self.where}"
            raise DataError(f"the manifest beside {_last(name)} does not list it", self.where, mend)
        return listed

    def _part(self, name: str, kind: type) -> Any:
        part = self._listed(name).get("pictures", kind())
        if not isinstance(part, kind):
            raise self._damaged("`pictures` of a shard are of another form")
        return part

    def _hash(self, told: Any) -> str:
        text = told.get("sha256") if isinstance(told, dict) else None
        if not isinstance(text, str) or not _SHA256.fullmatch(text):
            raise self._damaged("a picture has no sha256")
        return text

    def _damaged(self, why: str) -> DataError:
        return _damaged(self.where, why)


@dataclass(frozen=True)
class Hashes:
    """Sha256 of the pictures of each row, one after another; `ends` (N + 1,) says where each row's begin."""

    hashes: bytes
    ends: np.ndarray

    def of(self, row: int) -> list[bytes]:
        """Those of a row, from 0; none for a row that is not listed."""
        if row + 1 >= len(self.ends):
            return []
        places = range(int(self.ends[row]), int(self.ends[row + 1]))
        return [self.hashes[32 * place : 32 * place + 32] for place in places]


def manifest_beside(names: Sequence[str]) -> Manifest | None:
    """The manifest in the folder of these shards; None where there is none, or it is of another program.

    Raises DataError for one that is damaged.
    """
    folders = {folder_of(name) for name in names}
    if len(folders) != 1:
        return None
    where = f"{folders.pop()}/{NAME}"
    shard = stat_shard(where)
    return None if shard is None else _read(shard)


def _read(shard: Shard) -> Manifest | None:
    if shard.size > _LARGEST:
        raise _damaged(shard.name, f"it has {shard.size:,} bytes")
    try:
        with open_bytes(shard) as stream:
            found = json.loads(stream.read(_LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(shard.name, str(error)) from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        return None
    check_format("shards", found.get("format"), shard.name, DataError)
    listed = found.get("shards")
    entries = listed if isinstance(listed, list) else []
    shards = {entry["file"]: entry for entry in entries if _whole(entry)}
    if not shards or len(shards) < len(entries):
        raise _damaged(shard.name, "its list of shards is not whole")
    return Manifest(shard.name, f"{shard.size} {shard.stamp}", shards)


def _whole(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("file"), str)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
    )


def _damaged(where: str, why: str) -> DataError:
    mend = "put it back or convert the data again; without the file the shards are read unchecked"
    return DataError(f"the manifest is damaged: {why}", where, mend)


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
