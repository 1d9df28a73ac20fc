"""Pictures and sounds of a row: bytes, base64, data URIs, paths, web addresses; one of them, or a list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from finesight.core.errors import DataError
from finesight.core.sample import Audio, FileMark, Image
from finesight.data.files.store import Store
from finesight.data.pictures.load import decode_base64
from finesight.data.shapes.values import FILL, json_list

Kind = Literal["picture", "sound"]

_ADDRESS = re.compile(r"([a-z0-9][a-z0-9+.-]{0,19})://", re.IGNORECASE)
_WEB = ("http", "https")
_LONGEST_PATH = 4096
_MOST = 1000
"""Pictures (and sounds) of a row, so that one row cannot fill the memory."""
_HOLDERS = ("bytes", "base64", "data", "path", "url", "file_name")
"""Keys of a mapping that holds a picture or sound, in the order of preference; Hugging Face writes `bytes` and `path`,
the latter often no more than the name that the file once had."""


@dataclass(frozen=True)
class Access:
    """What rows may name beyond files below their source's root: web addresses, files outside it."""

    allow_urls: bool = False
    allow_outside: bool = False


@dataclass(frozen=True)
class Media:
    """Gets the pictures and sounds that the rows of one source hold or name."""

    store: Store
    access: Access
    look: bool = False
    """Whether files of their own are looked for instead of read, and no web address is asked."""
    hear: bool | None = None
    """Whether sounds are read, whatever is done with pictures; None: as they are."""

    def images(self, items: Sequence[Any], where: str, column: str, read: bool) -> tuple[Image, ...]:
        """A picture for each item; empty ones, in the same number, unless they are to be `read`."""
        if not read:
            return tuple(Image(b"") for _ in items)
        return tuple(Image(*self._get(item, "picture", where, column)) for item in items)

    def sounds(self, items: Sequence[Any], where: str, column: str, read: bool) -> tuple[Audio, ...]:
        """A sound for each item, as for pictures unless it is said otherwise."""
        if not (read if self.hear is None else self.hear):
            return tuple(Audio(b"") for _ in items)
        reader = replace(self, look=False) if self.hear and self.look else self
        return tuple(Audio(*reader._get(item, "sound", where, column)) for item in items)

    def _get(self, item: Any, kind: Kind, where: str, column: str) -> tuple[bytes, FileMark | None]:
        """The bytes, and the mark of the file that they are from, if they are."""
        try:
            return self._bytes(item, kind, where)
        except DataError as error:
            error.column = error.column or column
            raise

    def _bytes(self, item: Any, kind: Kind, where: str) -> tuple[bytes, FileMark | None]:
        match item:
            case bytes() | bytearray() | memoryview():
                return bytes(item), None
            case str():
                return self._named(item.strip(), kind, where)
            case Mapping():
                key = next((key for key in _HOLDERS if item.get(key)), None)
                if key == "base64" and isinstance(item[key], str):
                    return decode_base64(item[key], where), None
                if key is not None:
                    return self._bytes(item[key], kind, where)
                what = f"there is no {kind}: none of the keys {', '.join(f'`{key}`' for key in _HOLDERS)} is filled"
                raise DataError(what, where, FILL)
        what = f"a {kind} cannot be {_kind_of(item)}"
        raise DataError(what, where, "give bytes, base64 text or a path below `root`")

    def _named(self, text: str, kind: Kind, where: str) -> tuple[bytes, FileMark | None]:
        """What a text holds as base64, or names by path or address."""
        if text[:5].lower() == "data:":
            return decode_base64(text, where), None
        address = _ADDRESS.match(text)
        if address and address[1].lower() in _WEB:
            return self._fetched(text, kind, where), FileMark(text)
        if not address and (len(text) > _LONGEST_PATH or "." not in text[-8:]):
            return decode_base64(text, where), None  # base64 has no dot, a file's name has a suffix
        return self.store.find(text, where, self.access.allow_outside, look=self.look)

    def _fetched(self, url: str, kind: Kind, where: str) -> bytes:
        download = "download it, and give its path below `root`"
        if kind != "picture":
            raise DataError(
                f"the {kind} is a web address, which is fetched for pictures alone", where, download
            )
        if not self.access.allow_urls:
            mend = f"{download}; or set `data.allow_urls: true` if you trust who wrote the rows"
            raise DataError("the picture is a web address", where, mend)
        if self.look:
            return b""
        from finesight.data.files.fetch import fetch_picture  # a web client, which few need

        return fetch_picture(url, where)


def listed(value: Any, kind: Kind, where: str, column: str) -> list[Any]:
    """The single pictures or sounds of a cell: none, one, or those of a list; raises DataError for a gap in it."""
    value = json_list(value)
    if _is_nothing(value):
        return []
    if not isinstance(value, list | tuple):
        return [value]
    if len(value) > _MOST:
        raise DataError(
            f"the row has {len(value):,} {kind}s, more than {_MOST:,}", where, "split the row", column
        )
    for number, item in enumerate(value, 1):
        if _is_nothing(item):
            raise DataError(f"{kind} {number} of {len(value)} is empty", where, FILL, column)
    return list(value)


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, bytes | bytearray | memoryview) and not len(value))


def _kind_of(item: Any) -> str:
    if isinstance(item, bool):
        return "a truth value"
    return (
        "a number"
        if isinstance(item, int | float)
        else "a list in a list"
        if isinstance(item, list)
        else "this"
    )
