"""JSON Lines, and JSON files with a list of rows, of any size: an index of byte offsets, then any row at once."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finesight.config.sources import JsonSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.files.index import Broken, FileIndex
from finesight.data.files.store import Table, find_table
from finesight.data.sources.csv_scan import BOM
from finesight.data.sources.json_scan import LIST, OBJECT, ItemScan, LineScan, More

LINES = (".jsonl", ".ndjson")
"""Endings of files with one row a line."""

LARGEST_ROW = 128 << 20
"""Bytes of the longest row: a picture in base64, and some more."""
_PARSED_AT_ONCE = 4 << 20
"""Bytes above which the values of a row are counted before it is parsed."""
_MOST_VALUES = 1_000_000
_DEEPEST = 64
"""Lists and objects within each other."""
_NAMED = 16 << 20
"""Bytes up to which a broken file is parsed whole, to name the place."""
_MOST_KEYS = 1000
_HEAD = 1 << 16
"""Bytes at the beginning of a value that tell its key and kind."""
_FIRST, _SPREAD, _LOOKED_AT = 1000, 200, 32 << 20
"""Rows at the beginning and over the rest whose keys are the columns, and the bytes that are read for each."""

_LIST_OF_OBJECTS = re.compile(rb'\s*("(?:[^"\\]|\\.)*+")\s*:\s*(?=\[\s*\{)', re.DOTALL)
_OBJECTS = 'write [{"image": …, "caption": …}, …]'


class NotJson(ValueError):
    """Text that breaks the rules of JSON, or that no parser follows so deep."""


def parse_json(data: bytes) -> Any:
    """A value as RFC 8259 has it.

    Raises ValueError for what is not JSON, and for what JSON leaves open: a key that comes twice, numbers beyond those
    of a computer, very deep nesting, and more values than a row can have.
    """
    if len(data) > _PARSED_AT_ONCE:
        found = np.frombuffer(data, np.uint8)
        if sum(np.count_nonzero(found == mark) for mark in b",[{") > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
    try:
        text = data.decode("utf-8")  # json would guess at UTF-16 and let lone surrogates pass
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_number)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc else ""
        raise NotJson(f"{error.msg} at {line}character {error.colno}") from error
    except UnicodeDecodeError as error:
        raise NotJson(f"byte {error.start + 1} is not UTF-8") from error
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _children(value: Any) -> Iterator[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (child for child in values if isinstance(child, dict | list))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} comes twice in one object")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _number(word: str) -> float:
    found = float(word)
    if abs(found) == float("inf"):
        raise ValueError(f"{word[:40]} is too large a number")
    return found


def checked_row(value: Any, data: bytes, where: str) -> dict[str, Any]:
    """`value`, which was parsed from `data`, as a row; raises DataError where it is no object, or its text no text."""
    if not isinstance(value, dict):
        found = type(value).__name__
        raise DataError(f"the row is a {found}, not an object", where, 'write {"image": …, "caption": …}')
    if b"\\u" in data:  # only an escape can be half of a surrogate pair: UTF-8 has none
        for name, item in value.items():
            _check_text(name, name, where)
            _check_text(item, name, where)
    return value


def _check_text(value: Any, name: str, where: str) -> None:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        name = name[:80].encode(errors="backslashreplace").decode()
        what = f"character {error.start + 1} of `{name}` is half of a surrogate pair"
        mend = r"write both halves, such as \ud83d\ude00"
        raise DataError(what, f"{where}, column `{name}`", mend, name) from error


class JsonReader:
    """Rows of a file of JSON, read by byte offset, with the values that JSON has.

    `columns` are the keys of the first 1,000 rows and of 200 spread over the others (fewer where rows are large); a
    row may have more. A file whose outermost value is an object is read where just one of its values is a list of
    objects.
    """

    def __init__(self, path: Path, root: str | Path, name: str = "", lines: bool | None = None) -> None:
        self.file, self.root = name or str(path), str(root)
        self._path = path
        self.notes: tuple[tuple[str, str], ...] = ()
        self._lines = lines if lines is not None else path.suffix.lower() in LINES
        self._index = self._by_line() if self._lines else self._by_item()
        self.notes = (*self._index.notes, *self.notes)
        self._line = (0, 0)  # a byte, and the line breaks before it
        count = len(self._index.offsets) - 1
        if count == 1 and not self._lines:
            start, end = self._span(0)
            if not self._index.read(start, min(end, start + _HEAD), self.file).strip():
                count = 0  # [ ]
        if count == 0:
            raise DataError("there is no row", self.file, _OBJECTS)
        self._count = count
        self.columns = self._keys()

    def _by_line(self) -> FileIndex:
        return FileIndex(self._path, self.file, "json lines", LineScan)

    def _by_item(self) -> FileIndex:
        try:
            index = FileIndex(self._path, self.file, "json items", ItemScan)
        except More as error:
            if self._begins_with(OBJECT):
                self._lines = True
                self.notes = (("guess", f"{self.file} holds one object after another: one row a line"),)
                return self._by_line()
            raise self._refused(error) from error
        except Broken as error:
            raise self._refused(error) from error
        if index.facts["bracket"] == LIST:
            return index
        key, start = self._only_list(index)
        self.notes = (("guess", f"{self.file}: its list `{key}` is taken as the rows"),)
        return FileIndex(self._path, self.file, f"json items {start}", partial(ItemScan, start))

    def _begins_with(self, bracket: int) -> bool:
        with open(self._path, "rb") as stream:
            return stream.read(_HEAD).removeprefix(BOM).lstrip()[:1] == bytes([bracket])

    def _refused(self, error: Broken) -> DataError:
        """The error of a file whose rows cannot be told apart; a small one is parsed, to name the place."""
        what = f"the file is not JSON: {error.what}" + (
            f", in or after row {error.row + 1}" if error.row >= 0 else ""
        )
        if self._path.stat().st_size <= _NAMED:
            try:
                if not isinstance(parse_json(self._path.read_bytes().removeprefix(BOM)), list | dict):
                    what = "the file does not hold a list of rows"
            except NotJson as found:
                what = f"the file is not JSON: {found}"
            except ValueError:  # something else is wrong, too
                pass
        return DataError(what, self.file, "mend the file at the place named" if "JSON" in what else _OBJECTS)

    def _only_list(self, index: FileIndex) -> tuple[str, int]:
        """Key and place of the one list of objects in a file whose outermost value is an object."""
        found: list[tuple[str, int]] = []
        offsets = index.offsets
        for number in range(min(len(offsets) - 1, _MOST_KEYS)):
            start = int(offsets[number])
            head = index.read(start, min(start + _HEAD, int(offsets[number + 1]) - 1), self.file)
            key, place = _key_of_list(head)
            if key is not None:
                found.append((key, start + place))
        if len(offsets) - 1 <= _MOST_KEYS and len(found) == 1:
            return found[0]
        if len(found) > 1:
            names = ", ".join(f"`{key}`" for key, _ in found[:5])
            mend = "keep one of them, or read COCO annotations by `source: coco`"
            raise DataError(f"the file holds several lists of rows: {names}", self.file, mend)
        raise DataError("the file does not hold a list of rows", self.file, _OBJECTS)

    def _span(self, index: int) -> tuple[int, int]:
        start, end = int(self._index.offsets[index]), int(self._index.offsets[index + 1])
        return start, end if self._lines else end - 1

    def _keys(self) -> tuple[str, ...]:
        """The keys of some rows, in the order in which they come; rows that cannot be read have none."""
        found: dict[str, None] = {}
        spread = np.linspace(min(_FIRST, self._count), self._count, _SPREAD, endpoint=False).astype(int)
        for rows in (range(min(_FIRST, self._count)), np.unique(spread[spread >= _FIRST]).tolist()):
            left = _LOOKED_AT
            for index in rows:
                start, end = self._span(index)
                left -= end - start
                if left < 0 and index:
                    break
                try:
                    found |= dict.fromkeys(self.row(index))
                except DataError:
                    continue
        return tuple(found)

    def __len__(self) -> int:
        return self._count

    def origin(self, index: int) -> Origin:
        """Where row `index` stands."""
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        """Size and time of the file."""
        return self._index.identity()

    def verify(self) -> bool:
        """Whether the file still holds what was indexed; reads it whole."""
        return self._index.verify()

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, Any]:
        """Values by key of row `index`, all of them: a row is parsed whole or not at all."""
        if not 0 <= index < self._count:
            raise IndexError(f"{self.file} has no row {index + 1}")
        where, (start, end) = f"{self.file}, row {index + 1}", self._span(index)
        if end - start > LARGEST_ROW:
            what = f"the row has {(end - start) >> 20:,} MiB; at most {LARGEST_ROW >> 20} are let in"
            raise DataError(what, where, "check whether a bracket, quote or line break is missing")
        data = self._index.read(start, end, where)
        try:
            value = parse_json(data)
        except ValueError:
            raise self._not_json(index, data.strip(b" \t\r\n"), where) from None
        return checked_row(value, data, where)

    def _not_json(self, index: int, data: bytes, where: str) -> DataError:
        """The error of a row, whose places are counted without the blanks around it."""
        place, why = f"line {self._line_of(index)}" if self._lines else "the row", ""
        try:
            parse_json(data)
        except ValueError as error:
            why = f": {error}"
        return DataError(f"{place} is not JSON{why}", where, "write one JSON object for each row")

    def _line_of(self, index: int) -> int:
        """Number of the line that row `index` stands in: blank lines are counted, and are no rows."""
        if not self._index.facts["blank"]:
            return index + 1
        end = int(self._index.offsets[index])
        at, count = self._line if self._line[0] <= end else (0, 0)
        while at < end:
            step = min(end, at + (1 << 20))
            count += self._index.read(at, step, self.file).count(b"\n")
            at = step
        self._line = (at, count)
        return count + 1


def _key_of_list(member: bytes) -> tuple[str | None, int]:
    """Key and place of the list in `"key": [{…`; None for other members. `member` may be cut at its end."""
    found = _LIST_OF_OBJECTS.match(member)
    try:
        return (str(parse_json(found[1])), found.end()) if found else (None, 0)
    except ValueError:
        return None, 0


def read_json(table: Table) -> JsonReader:
    """The reader of a JSON or JSON Lines file that was found."""
    reader = JsonReader(table.path, table.root, table.name, table.suffix in LINES)
    reader.notes = (*table.notes, *reader.notes)
    return reader


def open_json(source: JsonSource) -> JsonReader:
    """The reader of a `json` source."""
    return read_json(find_table(source.path, source.root))
