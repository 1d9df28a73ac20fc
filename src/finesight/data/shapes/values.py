"""What a cell of a row says: as text, in a comparison, under the rules for words."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.shapes.words import WordRules

Counts = Counter[tuple[str, str]]
"""How often something was done to rows, by the kind and the text of its notice."""

FILL = "fill it in, remove the row, or set `data.on_bad_row: skip`"
_TRUTH = ("true", "false")


def cell(values: Mapping[str, Any], column: str) -> Any:
    """What a row holds in a column, None for nothing; `a.b` is key `b` of what column `a` holds."""
    if column in values:
        return values[column]
    first, _, rest = column.partition(".")
    inner = values.get(first) if rest else None
    return cell(inner, rest) if isinstance(inner, Mapping) else None


def has_column(columns: Collection[str], column: str) -> bool:
    """Whether rows with these columns may hold `column`, which may be a key within one."""
    return column in columns or ("." in column and column.partition(".")[0] in columns)


def as_text(value: Any, where: str, column: str = "") -> str:
    """A cell as text: numbers and truth values as JSON writes them, nothing (and no number) as the empty text.

    Raises DataError for lists and mappings, and for text that UTF-8 cannot write.
    """
    match value:
        case None:
            return ""
        case str():
            text = value
        case float() if value != value:  # what a typed table holds where a number is missing
            return ""
        case bool() | int() | float():
            return json.dumps(value)
        case bytes() | bytearray() | memoryview():
            text = _decoded(bytes(value), where, column)
        case list() | tuple() | Mapping():
            found = "a mapping" if isinstance(value, Mapping) else "a list"
            mend = "name the column that holds text in `columns` of the source"
            raise DataError(f"this is {found}, not text", where, mend, column)
        case _:
            text = str(value)  # dates and decimals of typed tables
    if not text.isascii():
        _check_characters(text, where, column)
    return text


def _decoded(data: bytes, where: str, column: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"byte {error.start + 1} of the text is not UTF-8"
        raise DataError(what, where, "save the text as UTF-8, or name another column", column) from error


def _check_characters(text: str, where: str, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"character {error.start + 1} is half of a surrogate pair"
        raise DataError(what, where, r"write both halves, such as \ud83d\ude00", column) from error


def matches(values: Mapping[str, Any], wanted: Mapping[str, str | tuple[str, ...]], origin: Origin) -> bool:
    """Whether every column has its wanted value, or one of them.

    Compared as text, exactly; but truth values without regard to case, for JSON writes `true` and pandas `True`.
    """
    for column, kept in wanted.items():
        found = as_text(cell(values, column), f"{origin}, column `{column}`", column)
        if not any(_same(found, value) for value in ((kept,) if isinstance(kept, str) else kept)):
            return False
    return True


def _same(one: str, other: str) -> bool:
    return one == other or (one.lower() == other.lower() and one.lower() in _TRUTH)


def json_list(value: Any) -> Any:
    """The list that a text cell writes in JSON (as CSV files must), or the value as it is."""
    if isinstance(value, str) and value[:64].lstrip()[:1] == "[" and value[-64:].rstrip()[-1:] == "]":
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value


@dataclass(frozen=True)
class Cells:
    """One row: its values, where it stands, and the rules for its words, whose changes are counted."""

    values: Mapping[str, Any]
    origin: Origin
    rules: WordRules
    counts: Counts

    def where(self, column: str) -> str:
        """What a message says of a cell's place."""
        return f"{self.origin}, column `{column}`"

    def plain(self, column: str) -> str:
        """The text of a column, as it stands."""
        return as_text(cell(self.values, column), self.where(column), column)

    def words(self, column: str) -> str:
        """The text of a column under the rules."""
        return self.rules.clean(self.plain(column), self.counts)

    def filled(self, column: str, role: str) -> str:
        """The text of a column under the rules; raises DataError where it is blank."""
        text = self.words(column)
        if not text.strip():
            raise DataError(f"the {role} is empty", self.where(column), FILL, column)
        return text

    def count(self, kind: str, text: str, number: int = 1) -> None:
        """Count something that was done, to be said."""
        self.counts[kind, text] += number
