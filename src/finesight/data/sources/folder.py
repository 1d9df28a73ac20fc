"""A folder of pictures: rows in a JSON or JSON Lines file, or a text file with the caption beside each picture."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from finesight.config.place import resolve_path
from finesight.config.sources import FolderSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin

_ROW_FILES = ("rows.json", "rows.jsonl", "metadata.jsonl", "captions.json")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class FolderReader:
    """Rows about the pictures of a folder. A row that could not be read is kept as its error."""

    notes: tuple[tuple[str, str], ...] = ()

    def __init__(self, file: Path, root: Path, rows: Sequence[Any], columns: Sequence[str] = ()) -> None:
        self.file, self.root, self._rows = str(file), str(root), rows
        named = (row for row in rows if isinstance(row, dict))
        self.columns = tuple(dict.fromkeys([*columns, *(key for row in named for key in row)]))

    def __len__(self) -> int:
        return len(self._rows)

    def origin(self, index: int) -> Origin:
        """Where row `index` stands."""
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        """Size and time of the file."""
        found = os.stat(self.file)
        return f"{found.st_size} {found.st_mtime_ns}"

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, str]:
        """Text by key of row `index`; numbers and truth values as JSON writes them, missing and null as empty."""
        row, where = self._rows[index], f"{self.file}, row {index + 1}"
        if isinstance(row, _Unreadable):
            raise DataError(row.what, where, row.mend, row.column)
        if not isinstance(row, dict):
            found = type(row).__name__
            raise DataError(f"the row is a {found}, not an object", where, 'write {"image": …, "caption": …}')
        return {name: _as_text(row.get(name), name, where) for name in self.columns}


class _Unreadable:
    """A row that cannot be read, and why."""

    def __init__(self, what: str, mend: str, column: str = "") -> None:
        self.what, self.mend, self.column = what, mend, column


def _as_text(value: Any, name: str, where: str) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"character {error.start + 1} of `{name}` is half of a surrogate pair"
        raise DataError(
            what, f"{where}, column `{name}`", r"write both halves, such as \ud83d\ude00", name
        ) from error
    return text


def _parse(text: str | bytes) -> Any:
    """JSON as RFC 8259 has it; raises ValueError for what is not, and for a key that comes twice."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")  # json would guess at UTF-16 and let lone surrogates pass
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        place = (
            f"line {error.lineno}, character {error.colno}"
            if "\n" in error.doc
            else f"character {error.colno}"
        )
        raise ValueError(f"{error.msg} at {place}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice in one object")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _json_rows(path: Path) -> list[Any]:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if path.suffix == ".jsonl":
        # not str.splitlines, which also breaks at characters that JSON texts may hold
        lines = enumerate(data.split(b"\n"), 1)
        return [_json_line(line, number) for number, line in lines if line.strip()]
    try:
        rows = _parse(data)
    except ValueError as error:
        raise DataError(
            f"the file is not JSON: {error}", str(path), "mend the file at the place named"
        ) from error
    if not isinstance(rows, list):
        what = "the file does not hold a list of rows"
        raise DataError(what, str(path), 'write [{"image": …, "caption": …}, …]')
    return rows


def _json_line(line: bytes, number: int) -> Any:
    try:
        return _parse(line)
    except ValueError as error:
        return _Unreadable(f"line {number} is not JSON: {error}", "write one JSON object a line")


def _captions_beside(folder: Path) -> list[Any]:
    """One row a picture, in the order of their names; what is hidden (`.name`) is left alone."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    pictures = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return [_with_caption(folder, picture) for picture in pictures]


def _with_caption(folder: Path, picture: Path) -> Any:
    caption = picture.with_suffix(".txt")
    try:
        text = (folder / caption).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        mend = f"write {caption.as_posix()}, or name a file of rows by `rows` of this source"
        return _Unreadable(f"there is no caption beside {picture.as_posix()}", mend, "caption")
    except (OSError, UnicodeDecodeError) as error:
        return _Unreadable(
            f"{caption.as_posix()} cannot be read: {error}", "save it as UTF-8 text", "caption"
        )
    return {"image": picture.as_posix(), "caption": text.strip()}


def open_folder(source: FolderSource) -> FolderReader:
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
        rows = _json_rows(found) if found else _captions_beside(folder)
    except OSError as error:
        raise DataError(
            f"it cannot be read: {error}", str(folder), "make the folder and its files readable"
        ) from error
    if not rows:
        raise DataError(
            "there is no row",
            str(found or folder),
            f"add one of {', '.join(_ROW_FILES)}, or a .txt caption beside each picture",
        )
    return FolderReader(found or folder, folder, rows, () if found else ("image", "caption"))
