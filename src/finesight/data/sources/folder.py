"""A folder of pictures: rows in a JSON or JSON Lines file, or a text file with the caption beside each picture."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from finesight.config.place import resolve_path
from finesight.config.sources import FolderSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.files.store import Store
from finesight.data.sources.json import JsonReader

_ROW_FILES = ("rows.json", "rows.jsonl", "metadata.jsonl", "captions.json")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_LONGEST_CAPTION = 1 << 20
"""Bytes of the longest caption file."""


class CaptionsReader:
    """Pictures of a folder and of those in it, each with its caption beside it, in the order of their names.

    Only the names are listed; a picture is read when it is learned from, a caption when its row is read. What is hidden
    (`.name`) is left alone, and no link to a folder is followed.
    """

    columns = ("image", "caption")
    notes: tuple[tuple[str, str], ...] = ()

    def __init__(self, folder: Path) -> None:
        self.file = self.root = str(folder)
        # one text and not as many strings: worker processes share it
        names = sorted(_pictures(folder, ""), key=lambda name: name.split("/"))
        self._names = "\0".join(names).encode("utf-8", "surrogateescape")
        self._ends = np.array(_ends(names), dtype=np.int64)
        if not names:
            raise DataError(
                "there is no row",
                self.file,
                f"add one of {', '.join(_ROW_FILES)}, or a .txt caption beside each picture",
            )

    def __len__(self) -> int:
        return len(self._ends)

    def origin(self, index: int) -> Origin:
        """The folder and the number of the picture."""
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        """Names, sizes and times of all pictures and captions."""
        digest = hashlib.blake2b(digest_size=16)
        for index in range(len(self)):
            name = self._name(index)
            for path in (name, _caption_of(name)):
                try:
                    found = os.stat(os.path.join(self.root, path))
                    stamp = f"{found.st_size} {found.st_mtime_ns}"
                except OSError:
                    stamp = "missing"
                digest.update(os.fsencode(f"{path}\0{stamp}\0"))
        return digest.hexdigest()

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, str]:
        """The name of a picture and its caption."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._name(index)
        if columns is not None and "caption" not in columns:
            return {"image": name}
        return {"image": name, "caption": self._caption(name, str(self.origin(index)))}

    def _name(self, index: int) -> str:
        start = self._ends[index - 1] + 1 if index else 0
        return self._names[start : self._ends[index]].decode("utf-8", "surrogateescape")

    def _caption(self, picture: str, where: str) -> str:
        name = _caption_of(picture)
        if not os.path.lexists(os.path.join(self.root, name)):
            mend = f"write {name}, or name a file of rows by `rows` of this source"
            raise DataError(f"there is no caption beside {picture}", where, mend, "caption")
        try:
            text = Store(self.root).read(name, where, limit=_LONGEST_CAPTION).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            what = f"{name} cannot be read: byte {error.start + 1} is not UTF-8"
            raise DataError(what, where, "save it as UTF-8 text", "caption") from error
        except DataError as error:
            error.column = "caption"
            raise
        return text.strip()


def _caption_of(picture: str) -> str:
    return f"{picture.rpartition('.')[0]}.txt"


def _ends(names: list[str]) -> list[int]:
    """Where each name ends among all of them, one byte apart."""
    ends, at = [], -1
    for name in names:
        at += 1 + len(os.fsencode(name))
        ends.append(at)
    return ends


def _pictures(folder: Path, below: str) -> Iterator[str]:
    """Names of the pictures in a folder and in the folders in it, with `/` between them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _pictures(Path(entry.path), f"{below}{entry.name}/")
            elif entry.name.lower().endswith(_SUFFIXES):
                yield below + entry.name


def open_folder(source: FolderSource) -> JsonReader | CaptionsReader:
    """The reader of a `folder` source."""
    folder = resolve_path(source.path)
    if not folder.is_dir():
        raise DataError(
            "this is not a folder", str(folder), "give the folder of the pictures in `path` of this source"
        )
    names = (source.rows,) if source.rows else _ROW_FILES
    try:
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if source.rows and found is None:
            raise DataError(f"there is no file `{source.rows}`", str(folder), "correct `rows` of this source")
        return JsonReader(found, folder) if found else CaptionsReader(folder)
    except OSError as error:
        raise DataError(
            f"it cannot be read: {error}", str(folder), "make the folder and its files readable"
        ) from error
