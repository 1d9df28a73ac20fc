"""Headers of tar archives: what members there are and where their bytes stand, found in one pass and never unpacked.

Reads POSIX (ustar, pax), GNU and old V7 archives. Whatever a header claims, no more is read than the file has, and no
name leads anywhere: bytes are found by place. A damaged header costs the members up to the next whole one, by name of
the place.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from xxhash import xxh3_128

BLOCK = 512
_END = bytes(BLOCK)
_LONGEST_NAME = 64 << 10
_LONGEST_PAX = 1 << 20
_STEP = 1 << 20

_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "a part of a file that begins in another archive",
}
"""What cannot be a part of a row, by the header's letter."""
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_BYTES = (b"1", b"2", b"3", b"4", b"5", b"6")
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstandard", "unzstd"),
}


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name, the place and number of its bytes, and what keeps it from being read."""

    name: str
    start: int
    size: int
    fault: str = ""


@dataclass(frozen=True)
class Damage:
    """A stretch of an archive that no header makes sense of."""

    start: int
    what: str


class NoArchive(Exception):
    """The bytes are no tar archive that can be read; `mend` says what to do."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


@dataclass
class _Pending:
    """What extra headers say of the member that follows them."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


class Scan:
    """One pass over an archive. Iterate for its members; then `digest` is the hash of all its bytes.

    `keep` tells by name and size whether a member's bytes are wanted at once: they are then in `content`. The hash is
    XXH3 of 128 bits against accidents, or, where asked for, `sha256`, which takes longer than all the rest.
    """

    def __init__(
        self, stream: BinaryIO, size: int, keep: Callable[[str, int], bool], sha256: bool = False
    ) -> None:
        self._stream, self._size, self._keep = stream, size, keep
        self._at, self._hash = 0, hashlib.sha256() if sha256 else xxh3_128()
        self.content: bytes | None = None
        self.behind = 0
        """Bytes behind the archive's end that are not zero: another archive that was put behind it, perhaps."""

    @property
    def digest(self) -> str:
        """The hash of the file, once it was gone through."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Member | Damage]:
        found = 0
        pending = _Pending()
        while block := self._next_block():
            if block == _END:
                break
            header = _header(block)
            if header is None:
                if not found:
                    raise _no_archive(block, self._at - len(block))
                yield self._damage(self._at - len(block))
                pending = _Pending()
                continue
            found += 1
            member = self._member(block, *header, pending)
            if member is not None:
                yield member
                pending = _Pending()
        if not self._at:
            raise NoArchive("the file is empty", "give tar files with members")
        self._rest()

    def _member(
        self, block: bytes, name: str, size: int, kind: bytes, pending: _Pending
    ) -> Member | Damage | None:
        """The member of a header; None where it says something of the next one, or of all, or is a folder."""
        start = self._at
        if kind in (b"L", b"K", b"x", b"X", b"g"):
            limit = _LONGEST_NAME if kind in (b"L", b"K") else _LONGEST_PAX
            if size > limit:
                self._skip(size)
                return Damage(start - BLOCK, f"a header of {size:,} bytes for one name")
            _note(kind, self._take(size), pending)
            return None
        if kind == b"S":
            self._skip_sparse_map(block)
            start = self._at
        name = name if pending.name is None else pending.name
        size = size if pending.size is None else pending.size
        if kind in _WITHOUT_BYTES:
            size = 0
        if kind == b"5" or (kind in (b"0", b"\0") and name.endswith("/")):
            self._skip(size)
            return Member(name, start, 0, "folder")
        fault = "" if kind in _REGULAR else _KINDS.get(kind, f"of an unknown kind, {kind!r}")
        if pending.sparse:
            fault = _KINDS[b"S"]
        self.content = None
        if start + size > self._size:
            fault = f"cut short: its bytes end at {start + size:,}, the file at {self._size:,}"
            self._skip(size)
        elif not fault and self._keep(name, size):
            self.content = self._take(size)
        else:
            self._skip(size)
        return Member(name, start, size, fault)

    def _skip_sparse_map(self, block: bytes) -> None:
        more = block[482]
        while more:
            following = self._next_block()
            if len(following) < BLOCK:
                return
            more = following[504]

    def _damage(self, start: int) -> Damage:
        """Go on to the next block that is a whole header, or to the end."""
        while True:
            here = self._peek()
            if len(here) < BLOCK or here == _END or (here[257:262] == b"ustar" and _header(here) is not None):
                what = f"a damaged header; nothing is read from byte {start + 1:,} to {self._at:,}"
                return Damage(start, what)
            self._next_block()

    def _peek(self) -> bytes:
        if not self._ahead:
            self._ahead = self._stream.read(BLOCK)
        return self._ahead

    _ahead = b""

    def _read(self, size: int) -> bytes:
        parts, left = [], size
        if self._ahead:
            parts.append(self._ahead[:left])
            self._ahead = self._ahead[left:]
            left -= len(parts[0])
        while left > 0:
            data = self._stream.read(min(left, _STEP))
            if not data:
                break
            parts.append(data)
            left -= len(data)
        found = b"".join(parts)
        self._hash.update(found)
        self._at += len(found)
        return found

    def _next_block(self) -> bytes:
        return self._read(BLOCK)

    def _take(self, size: int) -> bytes:
        data = self._read(size)
        self._read(-size % BLOCK)
        return data

    def _skip(self, size: int) -> None:
        left = size + -size % BLOCK
        while left > 0:
            data = self._read(min(left, _STEP))
            if not data:
                return
            left -= len(data)

    def _rest(self) -> None:
        while data := self._read(_STEP):
            self.behind += len(data) if data.strip(b"\0") else 0


def _header(block: bytes) -> tuple[str, int, bytes] | None:
    """Name, size and kind of a header block; None where it is none."""
    if len(block) < BLOCK:
        return None
    told = _number(block[148:156])
    if told != sum(block) - sum(block[148:156]) + 8 * 32:
        return None
    size = _number(block[124:136])
    if size is None or size < 0:
        return None
    name = block[:100].split(b"\0", 1)[0]
    kind = block[156:157]
    if block[257:263] == b"ustar\0":  # not in GNU's own form, which has other things there
        prefix = block[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name), size, kind


def _number(field: bytes) -> int | None:
    """A number in octal digits, or (as GNU writes large ones) in binary."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=False) if field[0] == 0x80 else -1
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _note(kind: bytes, data: bytes, pending: _Pending) -> None:
    """Take what an extra header says of the next member: its name, its size, that it is sparse."""
    if kind == b"L":
        pending.name = _text(data.split(b"\0", 1)[0])
    if kind not in (b"x", b"X"):  # what `g` says of all members is their times and owners
        return
    for key, value in _pax(data):
        if key == b"path":
            pending.name = _text(value)
        elif key == b"size" and re.fullmatch(rb"[0-9]{1,18}", value):
            pending.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            pending.sparse = True


def _pax(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a pax header: records of `<length> <key>=<value>` and a line break."""
    at = 0
    while found := re.compile(rb"([0-9]{1,7}) ").match(data, at):
        length = int(found[1])
        record = data[found.end() : at + length - 1]
        key, equals, value = record.partition(b"=")
        if length <= found.end() - at or not equals or at + length > len(data):
            return
        yield key, value
        at += length


def _no_archive(block: bytes, at: int) -> NoArchive:
    for magic, (name, program) in _COMPRESSED.items():
        if block.startswith(magic) and not at:
            return NoArchive(
                f"the archive is compressed ({name}), so no row can be reached without unpacking all before it",
                f"unpack it once (`{program}`); pictures are compressed already, so little is lost",
            )
    what = "this is no tar archive" if not at else "no member of this tar archive can be read"
    return NoArchive(what, "give tar files, such as `webdataset` or `finesight convert` writes")
