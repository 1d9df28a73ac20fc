"""YAML as a person means it: YAML 1.2's scalars, no surprises, no bombs, and errors with a line and a column.

What PyYAML's own loader makes of a recipe is often not what was meant: `no` becomes false, `1e-5` text, `12:30:45`
the number 45045, `0123` the number 83, and of two equal keys the last wins in silence. Here scalars follow the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), numbers with leading zeros stay text, keys are
always text, and what cannot be meant is refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from finesight.core.errors import RecipeError

MAX_BYTES = 2**20
MAX_DEPTH = 50
MAX_VALUES = 20_000
"""Values of one document with its aliases written out; an alias bomb has billions."""

KeyPath = tuple[str | int, ...]
"""Keys and list positions that lead to a value."""

_TAG = "tag:yaml.org,2002:"
_WHOLE = r"[-+]?(?:0|[1-9][0-9]*)"
_SCALARS: dict[str, tuple[str, list[str]]] = {
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (rf"{_WHOLE}|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        rf"(?:{_WHOLE}(?:\.[0-9]*)?|[-+]?\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
"""Type, pattern and first characters of the scalars that are not text; an earlier row wins."""


_Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def _resolvers() -> _Resolvers:
    """The table in PyYAML's form: first character to tags and patterns."""
    table: _Resolvers = {}
    for name, (pattern, firsts) in _SCALARS.items():
        for first in firsts:
            table.setdefault(first, []).append((_TAG + name, re.compile(rf"(?:{pattern})\Z")))
    return table


def _tag_of(text: str) -> str:
    """The type of a scalar without quotes."""
    names = (name for name, (pattern, _) in _SCALARS.items() if re.fullmatch(pattern, text))
    return _TAG + next(names, "str")


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalars above; counts the depth, since composing is recursive."""

    yaml_implicit_resolvers = _resolvers()
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels deep", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or 1.2 would read as something else."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return _tag_of(value) if kind is yaml.ScalarNode and implicit[0] and tag == _TAG + "str" else tag

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unicode's own line ends are folded into spaces unless they are escaped between double quotes.
        style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar(_TAG + "str", data, style)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    yaml_representers: ClassVar[dict[Any, Any]] = {**yaml.SafeDumper.yaml_representers, str: represent_str}


@dataclass(frozen=True)
class Document:
    """A mapping as it was written, and the place (`file, line n`) of each of its keys and list items."""

    value: dict[str, Any]
    places: Mapping[KeyPath, str]


def read_document(data: bytes, file: str) -> Document:
    """Read a YAML mapping; a RecipeError tells the line and column of what cannot be read."""
    if len(data) > MAX_BYTES:
        raise RecipeError(
            f"the file has {len(data):,} bytes; a recipe has at most {MAX_BYTES:,}",
            file,
            "give a recipe; rows and pictures belong into files that it names",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            "the file is not text in UTF-8", f"{file}, line {line}", "save it as UTF-8"
        ) from error
    reader = _Reader(file)
    value = reader.read(text)
    if not isinstance(value, dict):
        raise RecipeError(
            "this is no recipe: its top level is not a mapping of keys to values",
            file,
            "start with the sections, such as `run: {name: my-run}`",
        )
    return Document(value, reader.places)


def read_value(text: str, where: str) -> Any:
    """Read the value of an override: a quoted text, list or mapping in flow style, else one scalar as it stands."""
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return _Reader(where).read(text)
    return _Reader(where).scalar(yaml.ScalarNode(_tag_of(text), text), ())


def write(value: Mapping[str, Any]) -> str:
    """YAML that reads back as the same value, here and in readers of YAML 1.1 or 1.2."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, default_flow_style=None, width=100
    )
    return text


class _Reader:
    """Turns text into plain values, and remembers the place of each."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[KeyPath, str] = {}
        self.count = 0

    def read(self, text: str) -> Any:
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            raise self.unreadable(error) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            what = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
            raise self.fault(what, line) from error
        return None if node is None else self.value(node, ())

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """The plain value of a node; an alias is written out wherever it stands."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.fault(f"more than {MAX_VALUES:,} values, aliases written out", _line(node))
        if len(path) > MAX_DEPTH:
            raise self.fault(f"more than {MAX_DEPTH} levels deep, aliases written out", _line(node))
        self.places.setdefault(path, f"{self.file}, line {_line(node)}")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        raise self.fault(f"the type {_tag(node)} is not read", _line(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.fault("a key must be text, not a list or a mapping", _line(key))
            if key.value == "<<" and key.style is None:
                for other in self.merge(item, path):
                    merged = other | merged
                continue
            if key.value in own:
                raise self.fault(f"the key `{key.value}` stands twice in one mapping", _line(key))
            self.places[(*path, key.value)] = f"{self.file}, line {_line(key)}"
            own[self.text(key)] = self.value(item, (*path, key.value))
        return merged | own

    def merge(self, node: yaml.Node, path: KeyPath) -> Iterator[dict[str, Any]]:
        """The mappings that `<<` puts into one; an earlier one wins, and the mapping's own keys win over all."""
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.value(item, path)
            if not isinstance(value, dict):
                raise self.fault("`<<` must name a mapping, or a list of mappings", _line(item))
            yield value

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = self.text(node)
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return text
        pattern = _SCALARS.get(kind, ("", []))[0]
        if kind not in _SCALARS or not re.fullmatch(pattern, text):
            raise self.fault(f"`{text}` with the type {_tag(node)} is not read", _line(node))
        try:
            return _PLAIN[kind](text)
        except ValueError as error:
            raise self.fault("this number has too many digits", _line(node)) from error

    def text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self.fault("half of a surrogate pair (\\ud800 to \\udfff) is no character", _line(node))
        return text

    def unreadable(self, error: yaml.MarkedYAMLError) -> RecipeError:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        if "'\\t'" in problem:
            problem = "a tab stands where only spaces may"
        elif "but found another document" in problem:
            problem = "a second document begins; a recipe is one"
        elif error.context and error.context not in problem:
            problem = f"{error.context}, {problem}"
        return self.fault(problem, *(() if mark is None else (mark.line + 1, mark.column + 1)))

    def fault(self, what: str, line: int = 0, column: int = 0) -> RecipeError:
        where = self.file + (f", line {line}" if line else "") + (f", column {column}" if column else "")
        return RecipeError(f"this YAML cannot be read: {what}", where, _cure(what))


def _cure(what: str) -> str:
    cures = {
        "tab": "indent with spaces",
        "twice": "keep one of the two",
        "mapping values are not allowed": "check the indentation, and put quotes around text that contains `: `",
        "undefined alias": "define it first with `&name`, or put quotes around text that begins with `*`",
        "cannot start any token": "put quotes around text that begins with a sign such as @, %, ` or *",
        "type": "leave the `!` word out",
    }
    return next((cure for sign, cure in cures.items() if sign in what), "mend the recipe there")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def _tag(node: yaml.Node) -> str:
    return node.tag.replace(_TAG, "!!")


def _whole(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_PLAIN = {"bool": lambda text: text.lower() == "true", "null": lambda _: None, "int": _whole, "float": _float}
