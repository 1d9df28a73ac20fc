"""Columns in files that grow, with a journal of what is whole."""

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finesight.data.passes.cache import Arrays, mapped
from finesight.runtime.files import TEMPORARY

_JOURNAL = "journal"
_BLOCK = 1 << 20


class GrowingFiles:
    """A folder with a file for each column; each block that was added has a line in the journal.

    What a process that was killed left is taken up, as far as its lines and their blocks are whole. `stop` is the row
    before which the last block ended, `events` are those of all blocks, `forms` the types and lengths of the columns.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stop = 0
        self.events: list[Sequence[Any]] = []
        self._types: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_up()

    @classmethod
    def of_its_own(cls, place: Path) -> "GrowingFiles":
        """Files that no other process takes up; those of a killed one go with the cache's other left-overs."""
        return cls(place.with_name(f"{place.name}-{secrets.token_hex(4)}{TEMPORARY}"))

    @property
    def forms(self) -> dict[str, tuple[str, int]]:
        """Type and length of each column."""
        return {
            name: (kind, self._sizes[name] // np.dtype(kind).itemsize) for name, kind in self._types.items()
        }

    def columns(self) -> Arrays:
        """What is in the files now, mapped."""
        return mapped(self._folder, self.forms)

    def add(self, stop: int, columns: Mapping[str, np.ndarray], events: Sequence[Sequence[Any]]) -> None:
        """Add a block. What fails half-way is cut off when the files are taken up, or added to, again."""
        blocks = {}
        for name, column in columns.items():
            kind = column.dtype.str
            assert self._types.setdefault(name, kind) == kind
            size = self._sizes.setdefault(name, 0)
            content = np.ascontiguousarray(column).view(np.uint8).data
            with open(self._file(name), "r+b" if size else "wb") as stream:
                stream.seek(size)
                stream.write(content)
            blocks[name] = [kind, len(content), zlib.crc32(content)]
        body = json.dumps({"stop": stop, "blocks": blocks, "events": list(events)}).encode("ascii")
        with open(self._folder / _JOURNAL, "ab") as stream:
            stream.write(b"%d %s\n" % (zlib.crc32(body), body))
        self._count(stop, blocks, events)
        os.utime(self._folder)  # it is in use

    def _count(self, stop: int, blocks: Mapping[str, Any], events: Sequence[Sequence[Any]]) -> None:
        self.stop = stop
        self.events += events
        for name, (kind, size, _) in blocks.items():
            self._types[name], self._sizes[name] = kind, self._sizes.get(name, 0) + size

    def _take_up(self) -> None:
        journal = self._folder / _JOURNAL
        if not journal.exists():
            return
        whole = 0
        with open(journal, "rb") as lines:
            for line in lines:
                try:
                    check, body = line.split(b" ", 1)
                    told = json.loads(body)
                    if zlib.crc32(body.rstrip(b"\n")) != int(check) or not self._are_there(told["blocks"]):
                        break
                    self._count(told["stop"], told["blocks"], told["events"])
                except (ValueError, KeyError, TypeError, OSError):
                    break
                whole += len(line)
        os.truncate(journal, whole)

    def _are_there(self, blocks: Mapping[str, Any]) -> bool:
        for name, (kind, size, check) in blocks.items():
            found = 0
            with open(self._file(name), "rb") as stream:
                stream.seek(self._sizes.get(name, 0))
                for at in range(0, size, _BLOCK):
                    found = zlib.crc32(stream.read(min(_BLOCK, size - at)), found)
            if found != check or self._types.get(name, kind) != kind:
                return False
        return True

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    def link_to(self, place: Path) -> None:
        """Put the columns into another folder, too."""
        for name, size in self._sizes.items():
            os.truncate(self._file(name), size)  # a block that failed half-way
            try:
                os.link(self._file(name), place / f"{name}.bin")
            except OSError:  # a file system without links
                shutil.copyfile(self._file(name), place / f"{name}.bin")

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self._folder, ignore_errors=True)
