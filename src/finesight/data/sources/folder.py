"""A folder of pictures: rows in a JSON or JSON Lines file, or a text file with the caption beside each picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finesight.config.data import FolderSource
from finesight.config.place import resolve_path
from finesight.core.errors import DataError

_ROW_FILES = ("rows.json", "rows.jsonl", "metadata.jsonl", "captions.json")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class FolderReader:
    """Rows about the pictures of a folder."""

    def __init__(self, file: str, root: Path, rows: list[Any]) -> None:
        self.file, self.root, self._rows = file, root, rows
        named = (row for row in rows if isinstance(row, dict))
        self.columns = tuple(dict.fromkeys(str(key) for row in named for key in row))

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Mapping[str, str]:
        """Text by key of row `index`; numbers and truth values as JSON writes them, missing and null as empty."""
        row, where = self._rows[index], f"{self.file}, row {index + 1}"
        if isinstance(row, json.JSONDecodeError):
            raise DataError(f"the line is not JSON: {row}", where, "write one JSON object a line")
        if not isinstance(row, dict):
            raise DataError(f"the row is a {type(row).__name__}, not an object", where, 'write {"image": …, "caption": …}')
        return {name: _as_text(row.get(name)) for name in self.columns}


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json_rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            return [_json_line(line) for line in text.splitlines() if line.strip()]
        rows = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"the file is not JSON: {error}", str(path), "mend the file at the place named") from error
    if not isinstance(rows, list):
        raise DataError("the file does not hold a list of rows", str(path), 'write [{"image": …, "caption": …}, …]')
    return rows


def _json_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return error if isinstance(error, json.JSONDecodeError) else json.JSONDecodeError("nested too deeply", line, 0)


def _captions_beside(folder: Path) -> list[Any]:
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    rows = []
    for picture in pictures:
        caption = picture.with_suffix(".txt")
        text = caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""
        rows.append({"image": picture.relative_to(folder).as_posix(), "caption": text})
    return rows


def open_folder(source: FolderSource) -> FolderReader:
    """The reader of a `folder` source."""
    folder = resolve_path(source.path)
    if not folder.is_dir():
        raise DataError("there is no such folder", str(folder), "correct `path` of this source, relative to where you are")
    names = (source.rows,) if source.rows else _ROW_FILES
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if source.rows and found is None:
        raise DataError(f"there is no file `{source.rows}`", str(folder), "correct `rows` of this source")
    rows = _json_rows(found) if found else _captions_beside(folder)
    if not rows:
        raise DataError(
            "there is no row",
            str(found or folder),
            f"add one of {', '.join(_ROW_FILES)}, or a .txt caption beside each picture",
        )
    return FolderReader(str(found or folder), folder, rows)
