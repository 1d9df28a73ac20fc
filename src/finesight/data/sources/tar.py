"""WebDataset shards: tar files whose members are grouped to rows by stem, any row at once.

`a/b.jpg`, `a/b.txt` and `a/b.json` are one row with the columns `jpg`, `txt` and the keys of the JSON object; its
`__key__` is `a/b`. The stem ends at the first dot of the file's name, as WebDataset has it. For convenience the first
picture is offered as `image` too (`0.jpg`, `1.jpg`, … as a list), the first sound as `audio`, `txt` as `text`, and
`left.jpg` as `left`. Members come before keys of the same name, as does `image`, for the key would be no more than a
file's name. Where `finesight convert` wrote the shards, `__media__` in the JSON says which column each picture is of.

Nothing is unpacked to the disk, no link is followed, no pickle is opened: members of these kinds are named faults of
their row, or left out and said.
"""

import bisect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from finesight.config.sources import TarSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.sources.manifest import Manifest, manifest_beside
from finesight.data.sources.shards import ByPlace, Shard, find_shards, folder_of, identity_of
from finesight.data.sources.tar_index import index_of
from finesight.data.sources.tar_rows import OneRow, columns_of, notes_of
from finesight.data.sources.tar_stream import TarStream

SUFFIXES = (".tar",)


class TarReader:
    """Rows of tar shards, in the order of the shards' names and of the members in them."""

    def __init__(self, path: str, shards: Sequence[Shard], manifest: Manifest | None = None) -> None:
        self.file = shards[0].name if len(shards) == 1 else path
        self.root = folder_of(shards[0].name)
        self._shards, self._files = list(shards), ByPlace()
        self._indexes = [index_of(shard, manifest) for shard in self._shards]
        self._starts: list[int] = np.cumsum([0, *(len(index) for index in self._indexes)]).tolist()
        if not self._starts[-1]:
            raise DataError(
                "there is no row", self.file, "give shards with members such as 0001.jpg, 0001.txt"
            )
        self.columns = columns_of(self._indexes)
        self.notes = tuple(notes_of(self.file, self._indexes))

    def __len__(self) -> int:
        return self._starts[-1]

    def origin(self, index: int) -> Origin:
        """Shard and row in it of row `index`."""
        shard, row = self._place(index)
        return Origin(self._shards[shard].name, row + 1)

    def identity(self) -> str:
        """Names, sizes and times of the shards."""
        return identity_of(self._shards)

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, Any]:
        """Values of row `index`; of members that no column of `columns` needs nothing is read."""
        number, row = self._place(index)
        where = f"{self._shards[number].name}, row {row + 1}"
        one = OneRow(self._indexes[number], row, where, self._reading(number))
        return one.values(columns)

    def _reading(self, number: int) -> Callable[[int, int], bytes]:
        shard, digest = self._shards[number], self._indexes[number].digest
        return lambda start, size: self._files.read(shard, start, size, digest)

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]


def open_tar(source: TarSource) -> TarReader | TarStream:
    """The reader of a `tar` source; one that reads from front to back where it has `stream: true`."""
    if source.stream:
        return TarStream(source.path, find_shards(source.path, SUFFIXES))
    return open_tars(source.path)


def open_tars(path: str) -> TarReader:
    """The reader of the tar shards that `path` names."""
    shards = find_shards(path, SUFFIXES)
    names = [shard.name for shard in shards]
    manifest = manifest_beside(names)
    if manifest is not None and path not in names:
        manifest.check_all(path, names)
    return TarReader(path, shards, manifest)
