"""Types of columns that hold JSON values: the narrowest that keeps every value exactly, else JSON text.

A kind is what values have in common: a word, or a tuple of `list` and the items' kind, or of `struct` and the kinds of
all keys. Kinds of different values are merged; where nothing narrower holds both, the kind is `json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

Kind = str | tuple[Any, ...]

JSON: Final = "json"
_NULL: Final = "null"
_LARGEST: Final = 2**63
_MOST_KEYS: Final = 64
"""Keys of an object from which on it is taken for a mapping of many things, each row with others."""


def kind_of(value: Any) -> Kind:
    """The kind of a JSON value."""
    match value:
        case None:
            return _NULL
        case bool():
            return "bool"
        case int():
            return "int" if -_LARGEST <= value < _LARGEST else JSON
        case float():
            return "float"
        case str():
            return "text"
        case list() | tuple():
            inner: Kind = _NULL
            for item in value:
                inner = merged(inner, kind_of(item))
            # an item that is null is not told from a list of another kind: JSON keeps it
            return JSON if inner == JSON or None in value else ("list", inner)
        case Mapping():
            if not value or len(value) > _MOST_KEYS:
                return JSON
            kinds = {str(name): kind_of(item) for name, item in value.items()}
            return JSON if {JSON, _NULL} & set(kinds.values()) else ("struct", *sorted(kinds.items()))
    raise TypeError(f"{type(value).__name__} is no JSON")


def merged(one: Kind, two: Kind) -> Kind:
    """The narrowest kind that keeps the values of both exactly."""
    if one == two or two == _NULL:
        return one
    if one == _NULL:
        return two
    if isinstance(one, tuple) and isinstance(two, tuple) and one[0] == two[0]:
        if one[0] == "list":
            inner = merged(one[1], two[1])
            return JSON if inner == JSON else ("list", inner)
        if [name for name, _ in one[1:]] == [name for name, _ in two[1:]]:
            pairs = [(name, merged(a, b)) for (name, a), (_, b) in zip(one[1:], two[1:], strict=True)]
            return JSON if any(kind == JSON for _, kind in pairs) else ("struct", *pairs)
    return JSON


def add_row(kinds: dict[str, Kind], row: Mapping[str, Any]) -> None:
    """Widen the kinds of columns by the values of a row."""
    for name, value in row.items():
        if kinds.get(name) != JSON:
            kinds[name] = merged(kinds.get(name, _NULL), kind_of(value))


def add_kinds(kinds: dict[str, Kind], others: Mapping[str, Kind]) -> None:
    """Widen the kinds of columns by those of other rows."""
    for name, kind in others.items():
        kinds[name] = merged(kinds.get(name, _NULL), kind)


def kind_from_json(value: Any) -> Kind:
    """A kind as JSON wrote it: its tuples became lists."""
    return tuple(kind_from_json(part) for part in value) if isinstance(value, list) else str(value)


def arrow_type(kind: Kind) -> Any:
    """The Arrow type of a kind; JSON is kept as text."""
    import pyarrow as pa

    simple = {
        "null": pa.string(),
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "text": pa.string(),
        JSON: pa.string(),
    }
    if isinstance(kind, str):
        return simple[kind]
    parts: Sequence[Any] = kind[1:]
    if kind[0] == "list":
        return pa.list_(arrow_type(parts[0]))
    return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in parts])
