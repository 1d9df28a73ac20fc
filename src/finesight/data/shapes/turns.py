"""Conversations as people write them: OpenAI's and TRL's `role`/`content`, ShareGPT's and LLaVA's `from`/`value`.

A turn is read into its words and the places of its pictures and sounds; what stands there is filled in afterwards
(`conversations.py`), for a row may hold it beside the turns.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from finesight.core.errors import DataError
from finesight.core.sample import Role
from finesight.data.shapes.media import Kind
from finesight.data.shapes.values import FILL, as_text, json_list

_ROLES: Final[Mapping[str, Role]] = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_TOOLS: Final = frozenset(
    {"tool", "tools", "function", "function_call", "tool_call", "observation", "ipython"}
)
_TOOL_KEYS: Final = ("tool_calls", "function_call", "tool_call_id")
_KNOWN_KEYS: Final = frozenset({"role", "from", "content", "value", "weight"})

_TEXTS: Final = ("text", "input_text", "output_text")
_HOLDERS: Final[Mapping[str, tuple[Kind, tuple[str, ...]]]] = {
    **dict.fromkeys(
        ("image", "image_url", "input_image"),
        ("picture", ("image_url", "image", "url", "path", "base64", "bytes", "data")),
    ),
    **dict.fromkeys(
        ("audio", "input_audio", "audio_url"),
        ("sound", ("input_audio", "audio_url", "audio", "url", "path", "base64", "bytes", "data")),
    ),
}
"""Types of a part that is a picture or a sound, and the keys that may hold it, in the order of preference."""
_ENCODED: Final = ("base64", "data")
"""Keys whose text is base64, whatever it looks like."""

TAGS: Final[Mapping[Kind, str]] = {"picture": "<image>", "sound": "<audio>"}
_KINDS: Final[Mapping[str, Kind]] = {tag: kind for kind, tag in TAGS.items()}
_TAG: Final = re.compile("(<image>|<audio>)")


@dataclass(frozen=True)
class Place:
    """Where a picture or sound stands. `item` is what it is where the turn itself holds it, else None; `number` is
    the place in the row's own list (from 0) where the part names it.
    """

    kind: Kind
    item: Any = None
    number: int | None = None

    def open(self, kind: Kind) -> bool:
        """Whether something of this kind is to be put here."""
        return self.kind == kind and self.item is None


@dataclass(frozen=True)
class Turn:
    """One turn as it was written; `unused` are keys of it that mean nothing here."""

    role: Role
    parts: tuple[str | Place, ...]
    learn: bool
    tagged: bool
    unused: tuple[str, ...] = ()

    def filled(self, kind: Kind, items: Iterator[Any]) -> "Turn":
        """The turn with its open places of a kind filled from `items`, in order."""
        parts = tuple(
            Place(kind, next(items), part.number) if isinstance(part, Place) and part.open(kind) else part
            for part in self.parts
        )
        return self if parts == self.parts else replace(self, parts=parts)

    def leading(self, kinds: Sequence[Kind]) -> int:
        """Number of parts of these kinds that the turn begins with."""
        others = (
            number
            for number, part in enumerate(self.parts)
            if isinstance(part, str) or part.kind not in kinds
        )
        return next(others, len(self.parts))


def read_turns(
    value: Any, where: str, column: str, tags: frozenset[Kind], everywhere: bool = False
) -> list[Turn]:
    """The turns of a cell. In `from`/`value` turns tags of these kinds are places, and `everywhere` where asked.

    Raises DataError that names the turn by its number.
    """
    value = _rows(json_list(value))
    if isinstance(value, str) or not isinstance(value, Sequence):
        what = f"the conversation is {'empty' if value in (None, '') else 'not a list of turns'}"
        mend = 'write [{"role": "user", "content": …}, …], or name `columns.question` and `columns.answer`'
        raise DataError(what, where, mend, column)
    if not value:
        raise DataError("the conversation is empty", where, FILL, column)
    return [
        _turn(turn, f"{where}, turn {number}", column, tags, everywhere)
        for number, turn in enumerate(value, 1)
    ]


def _rows(value: Any) -> Any:
    """A list of mappings where a typed table keeps it as a mapping of lists; else the value as it is."""
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(part, list) for part in value.values())
    ):
        return value
    return [dict(zip(value, parts, strict=False)) for parts in zip(*value.values(), strict=False)]


def _turn(turn: Any, where: str, column: str, tags: frozenset[Kind], everywhere: bool) -> Turn:
    if not isinstance(turn, Mapping):
        mend = 'write {"role": "user", "content": …} or {"from": "human", "value": …}'
        raise DataError("the turn is not a mapping", where, mend, column)
    named = turn.get("role") if turn.get("role") is not None else turn.get("from")
    role = _ROLES.get(str(named).strip().lower())
    tools = next((key for key in _TOOL_KEYS if turn.get(key)), None)
    if tools is not None or str(named).strip().lower() in _TOOLS:
        what = f"the turn is a tool's: `{tools or named}`, and tools cannot be learned from"
        raise DataError(what, where, "take such rows out", column)
    if role is None:
        what = (
            f"the turn is of `{str(named)[:50]}`"
            if named is not None
            else "the turn has no `role` and no `from`"
        )
        raise DataError(what, where, f"name one of {', '.join(f'`{name}`' for name in _ROLES)}", column)
    tagged = turn.get("content") is None and turn.get("value") is not None
    content = turn.get("value") if tagged else turn.get("content")
    parts = _parts(content, where, column, tags if tagged or everywhere else frozenset())
    if role == "assistant" and any(isinstance(part, Place) for part in parts):
        what = "the answer holds a picture or a sound, and a model writes words alone"
        raise DataError(what, where, "put it into the turn of the user", column)
    if not any(part.strip() if isinstance(part, str) else part for part in parts):
        raise DataError("the turn is empty", where, FILL, column)
    unused = tuple(key for key in turn if key not in _KNOWN_KEYS and turn[key] not in (None, "", [], {}))
    return Turn(role, tuple(parts), role != "assistant" or turn.get("weight") != 0, tagged, unused)


def _parts(content: Any, where: str, column: str, tags: frozenset[Kind]) -> list[str | Place]:
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        return [_part(part, where, column) for part in content]
    text = as_text(content, where, column)
    pieces = (piece for piece in _TAG.split(text) if piece)
    return [Place(_KINDS[piece]) if _KINDS.get(piece) in tags else piece for piece in pieces]


def _part(part: Any, where: str, column: str) -> str | Place:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise DataError("a part of the turn is neither text nor a mapping", where, _PART, column)
    kind: Any = part.get("type")
    if kind is None:  # some write {"text": …} and {"image": …}
        kind = next((key for key in ("text", *_HOLDERS) if part.get(key) is not None), None)
    if kind in _TEXTS:
        return as_text(part.get("text"), where, column)
    if not isinstance(kind, str) or kind not in _HOLDERS:
        what = (
            f"a part of the turn is of the type `{str(kind)[:50]}`"
            if kind
            else "a part of the turn has no `type`"
        )
        raise DataError(what, where, _PART, column)
    holds, keys = _HOLDERS[kind]
    key = next((key for key in keys if part.get(key)), None)
    item = part.get(key) if key else None
    if isinstance(item, Mapping):  # {"image_url": {"url": …}}, {"input_audio": {"data": …, "format": "wav"}}
        inner = next((name for name in (*_ENCODED, "url") if item.get(name)), None)
        key, item = (inner, item[inner]) if inner else (key, item)
    if key in _ENCODED and isinstance(item, str):
        item = {"base64": item}
    number = part.get("index")
    return Place(holds, item, number if isinstance(number, int) and not isinstance(number, bool) else None)


_PART: Final = (
    'write {"type": "text", "text": …}, {"type": "image"} or {"type": "image_url", "image_url": {"url": …}}'
)
