"""Columns of many rows, kept from run to run: files that are checked, then mapped into memory."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import finesight
from finesight.runtime.cachedir import find_entry, publish_entry

_FORM = 1
"""Number of the form in which columns are kept."""
_FACTS = "facts.json"
_MATTER = ("numpy", "pillow", "tokenizers", "transformers")
"""Libraries that decide which pictures can be decoded and how words become tokens."""
_CODE = ("core", "config", "data", "models")
"""Rooms that decide what is found in a row, and what a model sees of it."""


class Arrays(Mapping[str, np.ndarray]):
    """Columns by name with facts beside them. Those of a folder are mapped, and go to other processes by its name."""

    def __init__(
        self, columns: Mapping[str, np.ndarray], facts: Mapping[str, Any], folder: Path | None = None
    ) -> None:
        self._columns, self.facts, self.folder = dict(columns), facts, folder

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __reduce__(self) -> Any:
        if self.folder is not None:
            return mapped, (self.folder, {name: _form(column) for name, column in self._columns.items()})
        return Arrays, (self._columns, {})  # facts may be long, and are for the process alone that found them


def _form(column: np.ndarray) -> tuple[str, int]:
    return column.dtype.str, len(column)


def key_of(*parts: object) -> str:
    """The key of what is found in `parts` (as JSON writes them) by this version of the code and its libraries."""
    told = json.dumps([*parts, _code()], sort_keys=True, default=str)
    return hashlib.blake2b(told.encode("ascii"), digest_size=16).hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """Changes with any line that may change what is found: nobody has to remember to count a version up."""
    digest = hashlib.blake2b(digest_size=16)
    for name in _MATTER:
        digest.update(f"{name} {metadata.version(name)}\n".encode())
    home = Path(finesight.__path__[0])
    for room in _CODE:
        for file in sorted((home / room).rglob("*.py")):
            digest.update(file.relative_to(home).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def kept(kind: str, key: str) -> Arrays | None:
    """The entry of a key, or None where there is none that is as it was written."""
    folder = find_entry(kind, key, _FORM)
    try:
        return None if folder is None else _read(folder)
    except (OSError, ValueError, KeyError, TypeError):  # another process has removed it since
        return None


def keep(
    kind: str,
    key: str,
    fill: Callable[[Path], object],
    forms: Mapping[str, tuple[str, int]],
    facts: Mapping[str, Any],
    source: str,
) -> Arrays:
    """Make columns the entry of a key. Raises NoCache where the cache cannot be written.

    `fill` puts a file `<name>.bin` of each column into a folder, of the types and lengths that `forms` names.
    Entries of the same `source` that are older make room.
    """

    def write(folder: Path) -> None:
        fill(folder)
        # ASCII: an escaped half of a surrogate pair can be written, and read again
        (folder / _FACTS).write_bytes(json.dumps({"facts": facts, "forms": forms}).encode("ascii"))

    return _read(publish_entry(kind, key, _FORM, write, source))


def forget(arrays: Arrays) -> None:
    """Take away the entry that columns were read from, so that the next run makes it anew; mapped ones stay."""
    if arrays.folder is not None:
        (arrays.folder / _FACTS).unlink(missing_ok=True)


def _read(folder: Path) -> Arrays:
    told = json.loads((folder / _FACTS).read_bytes())
    return mapped(folder, told["forms"], told["facts"])


def mapped(
    folder: Path, forms: Mapping[str, tuple[str, int]], facts: Mapping[str, Any] | None = None
) -> Arrays:
    """The columns in the files of a folder; raises OSError or ValueError where one is not there or too short."""
    columns = {name: _map(folder / f"{name}.bin", *form) for name, form in forms.items()}
    return Arrays(columns, facts or {}, folder)


def _map(file: Path, dtype: str, length: int) -> np.ndarray:
    if not length:  # nothing cannot be mapped
        return np.empty(0, np.dtype(dtype))
    return np.memmap(file, np.dtype(dtype), "r", shape=(length,))
