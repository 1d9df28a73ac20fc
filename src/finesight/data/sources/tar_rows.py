"""From the members of a row to its values: names of columns, text, JSON, and which picture belongs to which column."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from finesight.core.errors import DataError
from finesight.data.sources.json import parse_json
from finesight.data.sources.tar_index import JSON, PICTURES, SOUNDS, TarIndex, tail

_TEXT: Final = frozenset({"txt", "text", "transcript", "caption", "vtt", "srt"})
_NUMBER: Final = frozenset({"cls", "cls2", "class", "count", "index", "inx", "id"})

Place = int | list[int]
"""One member of a row by its number in the index, or several."""


class OneRow:
    """The members of one row, read as they are asked for."""

    def __init__(self, index: TarIndex, row: int, where: str, read: Callable[[int, int], bytes]) -> None:
        self._index, self._row, self._where, self._read = index, row, where, read
        self._members = {index.extension(member): member for member in index.members(row)}

    def values(self, columns: Collection[str] | None) -> dict[str, Any]:
        """The values of `columns`, or all; raises DataError for a member that cannot be used."""
        fault = self._index.faults.get(self._row)
        if fault is not None:
            raise DataError(*fault_words(fault, self._where))
        members = {ext: member for ext, member in self._members.items() if ext != JSON}
        offers: dict[str, Place] = dict(members)
        content: Any = {}
        ours = False
        inside = self._members.get(JSON)
        if inside is not None and (columns is None or not offers.keys() >= set(columns)):
            content = self._json(inside)
            if not isinstance(content, dict):
                content = {JSON: content}
            ours = "__media__" in content
            offers |= self._media_of_columns(content.pop("__media__", None))
        for name, place in _aliases(members) if columns is None or not offers.keys() >= set(columns) else ():
            if name not in content or (name in ("image", "audio") and not ours):
                offers.setdefault(name, place)
        content.setdefault("__key__", self._index.key(self._row))
        found = {name: value for name, value in content.items() if name not in offers and value is not None}
        read: dict[int, Any] = {}
        for name, place in offers.items():
            if columns is None or name in columns:
                several = [
                    self._value(member, read) for member in ([place] if isinstance(place, int) else place)
                ]
                found[name] = several[0] if isinstance(place, int) else several
        return found if columns is None else {name: found[name] for name in found if name in columns}

    def _media_of_columns(self, told: Any) -> dict[str, Place]:
        """What `__media__` says: the extension of each column's picture, or those of its several pictures."""
        found: dict[str, Place] = {}
        for name, extensions in told.items() if isinstance(told, dict) else ():
            listed = extensions if isinstance(extensions, list) else [extensions]
            places = [self._members.get(extension) for extension in listed if isinstance(extension, str)]
            if len(places) < len(listed) or None in places:
                what = f"`__media__` of its JSON names members of `{name}` that are not there"
                raise DataError(what, self._where, "the shard was changed: convert the data again", name)
            several = [place for place in places if place is not None]
            found[str(name)] = several if isinstance(extensions, list) else several[0]
        return found

    def _value(self, member: int, read: dict[int, Any]) -> Any:
        if member not in read:
            read[member] = self._decoded(member, self._bytes(member))
        return read[member]

    def _decoded(self, member: int, data: bytes) -> Any:
        kind = tail(self._index.extension(member))
        if kind not in _TEXT and kind not in _NUMBER:
            return data
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            what = f"byte {error.start + 1} of member `{self._name(member)}` is not UTF-8"
            raise DataError(
                what, self._where, "save the text as UTF-8", self._index.extension(member)
            ) from error
        digits = text.strip()
        if kind in _NUMBER and digits.lstrip("-").isdecimal() and digits.isascii() and len(digits) < 19:
            return int(digits)
        return text

    def _json(self, member: int) -> Any:
        try:
            return parse_json(self._bytes(member).removeprefix(b"\xef\xbb\xbf"))
        except ValueError as error:
            what = f"member `{self._name(member)}` is not JSON: {error}"
            raise DataError(what, self._where, "mend the member at the place named", JSON) from error

    def _bytes(self, member: int) -> bytes:
        try:
            data = self._read(*self._index.place(member))
        except DataError as error:
            error.column = error.column or self._index.extension(member)
            raise
        if not self._index.matches(member, data):
            what = f"the bytes of member `{self._name(member)}` are not those that manifest.json lists"
            mend = "the shard was damaged or changed: put it back, or convert the data again"
            raise DataError(what, self._where, mend, self._index.extension(member))
        return data

    def _name(self, member: int) -> str:
        return f"{self._index.key(self._row)}.{self._index.extension(member)}"


def fault_words(fault: str, where: str) -> tuple[str, str, str]:
    """What, where and mend of a row whose member cannot be used."""
    return fault, where, "write the shard anew with plain files alone, or leave the row out"


def _aliases(members: Mapping[str, int]) -> Iterable[tuple[str, Place]]:
    """Further names of members: `image`, `audio`, `text`, and the words before a picture's extension."""
    for name, kinds in (("image", PICTURES), ("audio", SOUNDS)):
        fitting = {ext: member for ext, member in members.items() if tail(ext) in kinds}
        plain = [member for ext, member in fitting.items() if ext in kinds]
        numbered = sorted(
            (int(ext.partition(".")[0]), member)
            for ext, member in fitting.items()
            if ext.count(".") == 1 and ext.partition(".")[0].isdecimal() and len(ext) < 16 and ext.isascii()
        )
        if plain:
            yield name, plain[0]
        elif numbered:
            yield name, [member for _, member in numbered]
        for ext, member in fitting.items():
            words = ext.rpartition(".")[0]
            if words and not words.isdecimal():
                yield words, member
    if "txt" in members:
        yield "text", members["txt"]


def columns_of(indexes: Sequence[TarIndex]) -> tuple[str, ...]:
    """All names that rows may have: `__key__`, extensions, their other names, and keys of JSON members."""
    extensions = dict.fromkeys(ext for index in indexes for ext in index.extensions if ext != JSON)
    names = dict.fromkeys(["__key__", *extensions])
    names |= dict.fromkeys(name for name, _ in _aliases(dict.fromkeys(extensions, 0)))
    numbered = [ext for ext in extensions if ext.partition(".")[0].isdecimal()]
    for name, kinds in (("image", PICTURES), ("audio", SOUNDS)):
        if any(tail(ext) in kinds for ext in numbered):
            names[name] = None
    return tuple(names | dict.fromkeys(name for index in indexes for name in index.json_keys))


def notes_of(file: str, indexes: Sequence[TarIndex]) -> Iterable[tuple[str, str]]:
    """What a person should be told of members that are left out: kind and text of a notice."""
    counts: dict[str, int] = {}
    for index in indexes:
        for text, count in index.left_out.items():
            counts[text] = counts.get(text, 0) + count
    yield from (("left out", f"{file}: {count:,} × {text}") for text, count in counts.items())
    yield from dict.fromkeys(note for index in indexes for note in index.notes)
