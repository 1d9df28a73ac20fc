"""Rows of a local file by number: byte offsets found in one pass and kept in the cache, and a guard against changes.

The pass also hashes the file (XXH3 of 128 bits: SHA-256 alone would take longer than all the rest). What a row is, a
`Scan` says, one for each format. The offsets lie in the cache folder as `.npy`, under a key made of path, size, time of
change and format, and are memory-mapped: a warm start reads nothing of the file. Small files are scanned each time,
which is faster than to look.
"""

import contextlib
import json
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from finesight.core.errors import DataError
from finesight.runtime.cachedir import NoCache, cached, forget_entry

Offsets = NDArray[np.int64]

_FORM = 1
"""Format number of an index in the cache, and of what the scans take for a row."""
_SMALL = 1 << 20
"""Bytes below which a file's index is not kept."""
_BLOCK = 1 << 19
"""Bytes that are scanned at once."""
_SELDOM = 1 << 10
"""Bytes from one mark to the next from which on it is quicker to seek each than to look at every byte."""
_MOMENT = 2_000_000_000
"""Nanoseconds within which a file may change and keep its time of change, on the coarsest file system."""
_MANY = 1 << 24
"""Rows from which on they must have eight bytes on average: the index is to be smaller than what it is about."""


class Broken(Exception):
    """Rows that cannot be told apart: what is wrong, in which row (from 0), and how to mend it."""

    def __init__(self, what: str, row: int, mend: str) -> None:
        super().__init__(what, row, mend)
        self.what, self.row, self.mend = what, row, mend


class Scan(Protocol):
    """Finds the offsets of rows in blocks of a file that come one after another; raises Broken."""

    facts: dict[str, int]
    """What else was found; complete after `end`."""

    def block(self, data: bytes) -> Offsets:
        """Offsets found in the next block, from the file's beginning."""

    def end(self) -> Offsets:
        """The last offsets, once all blocks were seen."""


def few(data: bytes, marks: bytes) -> list[int] | None:
    """Where any of some bytes stand in `data`, in order; None where they are not seldom."""
    found: list[int] = []
    left = len(data) // _SELDOM
    for mark in marks:
        sought, place = bytes((mark,)), data.find(mark)  # the C library looks at 32 bytes or more at once
        while place >= 0:
            if left <= 0:
                return None
            found.append(place)
            left -= 1
            place = data.find(sought, place + 1)
    return sorted(found)


def places(data: bytes, mark: int) -> Offsets:
    """Where a byte stands in `data`, in order."""
    found = few(data, bytes((mark,)))
    if found is None:
        return np.flatnonzero(np.frombuffer(data, np.uint8) == mark)
    return np.array(found, np.int64)


class FileIndex:
    """A local file and the offsets of its rows. May be sent to other processes, and used by several threads.

    `name` is what messages call the file; `kind` tells indexes of different scans apart. Raises DataError for a file
    that cannot be opened, and what the scan raises.
    """

    offsets: Offsets
    facts: Mapping[str, int]
    notes: tuple[tuple[str, str], ...] = ()
    """What a person should be told: kind and text of a notice."""

    def __init__(self, path: Path, name: str, kind: str, scan: Callable[[], Scan]) -> None:
        self.name, self._path, self._kind, self._scan = name, os.path.abspath(path), kind, scan
        self._folder: Path | None = None  # of the offsets in the cache
        self._digest, self._changed = "", (0, 0)
        self._open()
        found = os.fstat(self._descriptor)
        self.size, self._seen = found.st_size, (found.st_size, found.st_mtime_ns)
        self._identity = f"{found.st_size} {found.st_mtime_ns}"
        self._load()

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            what = f"the file cannot be opened: {error.strerror}"
            raise DataError(what, self.name, "make it readable") from error
        weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        left = {"_descriptor", "offsets"} if self._folder else {"_descriptor"}
        return {name: value for name, value in vars(self).items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()  # a descriptor is good in one process alone
        if self._folder is not None:
            try:
                self._map(self._folder)
            except (OSError, ValueError, TypeError, KeyError):
                self._load()

    @property
    def digest(self) -> str:
        """A hash of the content that was indexed."""
        return self._digest

    def identity(self) -> str:
        """Size and time of the file as it was indexed."""
        return self._identity

    def read(self, start: int, end: int, where: str) -> bytes:
        """Bytes `start` to `end` of the file as it was indexed; raises DataError where it has changed since."""
        found = os.fstat(self._descriptor)
        if (found.st_size, found.st_mtime_ns) != self._seen:
            self._look_again((found.st_size, found.st_mtime_ns), where)
        # pread moves no file position, so forked workers and threads can share the descriptor
        try:
            data = os.pread(self._descriptor, end - start, start)
        except OSError as error:
            raise self._unreadable(error, where) from error
        if len(data) < end - start:
            raise self._shorter(where)
        return data

    def verify(self) -> bool:
        """Whether the file begins with what was indexed, by its hash; what was added at its end does no harm."""
        digest, at = xxh3_128(), 0
        while at < self.size:
            data = self._block(at)[: self.size - at]
            if not data:
                return False
            digest.update(data)
            at += len(data)
        return digest.hexdigest() == self._digest

    def _look_again(self, found: tuple[int, int], where: str) -> None:
        """The file has another size or time: content that is still the same is no change."""
        if found[0] < self.size:
            raise self._shorter(where)
        if found == self._changed or not self.verify():
            self._changed = found  # so that it is not read anew for each row
            what = "the file changed while it was in use"
            raise DataError(what, where, "put it back as it was, or begin again")
        self._seen = found

    def _unreadable(self, error: OSError, where: str) -> DataError:
        what = f"the file cannot be read: {error.strerror}"
        return DataError(what, where, "check the disk, or copy the file to another")

    def _shorter(self, where: str) -> DataError:
        what = "the file became shorter while it was in use"
        return DataError(what, where, "put it back as it was, or begin again")

    def _load(self) -> None:
        """Map the offsets from the cache; make them first where there are none."""
        self._folder, self._made = None, False
        if self.size >= _SMALL:
            key = json.dumps([self._path, self._identity, self._kind])
            try:
                for _ in range(2):
                    folder = cached("index", key, _FORM, self._write, source=self._path)
                    made = self._map(folder)
                    if self._made or self._settled(folder, made):
                        return
                    forget_entry("index", key)
            except NoCache as error:
                text = f"{error}; {self.name} is indexed anew at each start"
                self.notes = (("cache", text),)
            except (OSError, ValueError, TypeError, KeyError):
                pass  # removed by another process, or not what we wrote
        self._folder = None
        self.offsets = np.concatenate(list(self._found()))

    def _map(self, folder: Path) -> int:
        """Take over an index in the cache; return when it was begun, in ns."""
        offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
        about = json.loads((folder / "index.json").read_bytes())
        if offsets.dtype != np.int64 or offsets.ndim != 1:
            raise ValueError("these are no offsets")
        self._digest, self.facts = str(about["digest"]), dict(about["facts"])
        self.offsets, self._folder = offsets.view(np.ndarray), folder  # whose items are had more quickly
        return int(about["made_ns"])

    def _settled(self, folder: Path, made_ns: int) -> bool:
        """Whether an index of an earlier time is of this content: equal sizes and times may not say so.

        Where the file was changed just before it was indexed, it may have been changed again within the same tick.
        """
        changed, now = self._seen[1], time.time_ns()
        if abs(made_ns - changed) > _MOMENT or (folder / "settled").exists():
            return True
        if not self.verify():
            return False
        if abs(now - changed) > _MOMENT:
            with contextlib.suppress(OSError):
                (folder / "settled").touch()
        return True

    def _write(self, folder: Path) -> None:
        made_ns, count = time.time_ns(), 0
        header = {"descr": "<i8", "fortran_order": False}
        with open(folder / "offsets.npy", "wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header | {"shape": (0,)})
            for found in self._found():
                stream.write(found.astype("<i8", copy=False).data)
                count += len(found)
            stream.seek(0)  # numpy leaves room for the final number
            np.lib.format.write_array_header_1_0(stream, header | {"shape": (count,)})
        about = {"digest": self._digest, "facts": self.facts, "made_ns": made_ns}
        (folder / "index.json").write_text(json.dumps(about), encoding="utf-8")
        self._made = True

    def _block(self, at: int) -> bytes:
        try:
            return os.pread(self._descriptor, _BLOCK, at)
        except OSError as error:
            raise self._unreadable(error, self.name) from error

    def _found(self) -> Iterator[Offsets]:
        """All offsets, part by part, in one pass over the file that also hashes it."""
        scan, digest, at, count = self._scan(), xxh3_128(), 0, 0
        while data := self._block(at):
            digest.update(data)
            found = scan.block(data)
            at, count = at + len(data), count + len(found)
            if count > _MANY and 8 * count > at:
                raise Broken(
                    "the rows have less than eight bytes on average", count, "check what this file is"
                )
            yield found
        yield scan.end()
        after = os.fstat(self._descriptor)
        if at != self.size or (after.st_size, after.st_mtime_ns) != self._seen:
            raise DataError("the file changed while it was read", self.name, "wait until it is finished")
        self._digest, self.facts = digest.hexdigest(), dict(scan.facts)
