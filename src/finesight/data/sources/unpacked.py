"""What parquet and Arrow files become in memory, read from the headers in front of the data and before it is unpacked.

A footer may say anything; what a library allocates is what stands in front of each page or buffer. So these are read
here, with nothing but bounds that are checked: Thrift's compact protocol for pages of parquet (parquet-format,
`PageHeader`), FlatBuffers for messages of Arrow (`Message.fbs`). ValueError for what is neither.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

Read = Callable[[int, int], bytes]
"""Bytes of a file by place and number; fewer at its end."""

_HEAD: Final = 1 << 13
"""Bytes that are read of a page at first: more than its header has, unless that holds long statistics."""
_LONGEST_HEAD: Final = 16 << 20
_DEEPEST: Final = 16
_DICTIONARY: Final = 2
"""Type of a page that holds the different values of a column."""
_NO_MESSAGE: Final = 0xFFFFFFFF
_RECORD_BATCH: Final = 3
_DICTIONARY_BATCH: Final = 2


@dataclass
class Pages:
    """Bytes of all pages of a column chunk once they are unpacked, and of its largest page of different values."""

    unpacked: int = 0
    dictionary: int = 0


def pages_of(read: Read, start: int, size: int) -> Pages:
    """The pages of the column chunk of `size` bytes at `start`; raises ValueError where they are none."""
    found, at, end = Pages(), start, start + size
    while at < end:
        kind, unpacked, packed, length = _page(read, at, end)
        if unpacked < 0 or packed < 0:
            raise ValueError(f"the page at byte {at + 1:,} has a negative size")
        found.unpacked += unpacked
        if kind == _DICTIONARY:
            found.dictionary = max(found.dictionary, unpacked)
        at += length + packed
    return found


def _page(read: Read, at: int, end: int) -> tuple[int, int, int, int]:
    """Type, unpacked size, packed size and length of the header of the page at `at`."""
    size = _HEAD
    while True:
        data = read(at, min(size, end - at))
        try:
            thrift = _Thrift(data)
            fields = dict(thrift.numbers())
            return fields.get(1, 0), fields[2], fields[3], thrift.at
        except (IndexError, KeyError) as error:
            if size >= min(_LONGEST_HEAD, end - at) or isinstance(error, KeyError):
                raise ValueError(f"there is no page at byte {at + 1:,}") from error
            size *= 8


class _Thrift:
    """Thrift's compact protocol; IndexError where the data end."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        found = shift = 0
        while True:
            byte = self._byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")

    def _zigzag(self) -> int:
        found = self._varint()
        return (found >> 1) ^ -(found & 1)

    def numbers(self) -> Iterator[tuple[int, int]]:
        """Fields of a struct that are whole numbers; the others are gone past."""
        field = 0
        while byte := self._byte():
            kind, step = byte & 15, byte >> 4
            field = field + step if step else self._zigzag()
            if kind in (4, 5, 6):
                yield field, self._zigzag()
            else:
                self._skip(kind, 0)

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        match kind:
            case 1 | 2:  # truth values, which are the field's kind itself
                return
            case 3:
                self.at += 1
            case 4 | 5 | 6:
                self._varint()
            case 7:
                self.at += 8
            case 8:
                length = self._varint()
                self.at += length
            case 9 | 10:
                head = self._byte()
                count = head >> 4 if head >> 4 < 15 else self._varint()
                if count > len(self._data):
                    raise IndexError
                for _ in range(count):
                    self._skip_item(head & 15, depth + 1)
            case 12:
                while byte := self._byte():
                    if not byte >> 4:
                        self._zigzag()
                    self._skip(byte & 15, depth + 1)
            case _:
                raise ValueError(f"no kind of field is {kind}")
        if self.at > len(self._data):
            raise IndexError

    def _skip_item(self, kind: int, depth: int) -> None:
        if kind in (1, 2):
            self.at += 1  # in a list, a truth value is a byte
        else:
            self._skip(kind, depth)


@dataclass(frozen=True)
class Message:
    """A record batch (or a batch of a dictionary) in an Arrow file: `rows`, and its bytes once it is unpacked.

    `mapped` says that it is not packed, and stands in the file as it would in memory.
    """

    rows: int
    unpacked: int
    mapped: bool
    is_dictionary: bool


def messages_of_stream(read: Read, size: int) -> Iterator[Message]:
    """The batches of an Arrow stream of `size` bytes, in order; raises ValueError."""
    at = 0
    while at + 8 <= size:
        found, at = _message(read, at, size)
        if found is None and at < 0:
            return
        if found is not None:
            yield found


def messages_of_file(read: Read, size: int) -> Iterator[Message]:
    """The dictionaries of an Arrow file, then its record batches, where its footer says; raises ValueError."""
    try:
        (length,) = struct.unpack("<i", read(size - 10, 4))
        if not 0 < length <= min(_LONGEST_HEAD, size - 10):
            raise ValueError("its end is cut off or damaged")
        footer = _Table.root(read(size - 10 - length, length))
        places = [place for field in (2, 3) for place in footer.blocks(field)]
    except (struct.error, IndexError) as error:
        raise ValueError("its end is cut off or damaged") from error
    for place in places:
        found, _ = _message(read, place, size)
        if found is None:
            raise ValueError(f"there is no batch at byte {place + 1:,}")
        yield found


def _message(read: Read, at: int, size: int) -> tuple[Message | None, int]:
    """The message at `at`, None where it is no batch; and the place behind it, negative at a stream's end."""
    try:
        mark, length = struct.unpack("<Ii", read(at, 8)) if at >= 0 else (0, 0)
        if mark != _NO_MESSAGE:
            raise ValueError(f"there is no message at byte {at + 1:,}; it may be of an old Arrow")
        if length == 0:
            return None, -1
        if not 0 < length <= min(_LONGEST_HEAD, size - at):
            raise ValueError(f"the message at byte {at + 1:,} is cut short")
        head = _Table.root(read(at + 8, length))
        body, kind = head.number(3, "<q"), head.number(1, "<B")
        first = at + 8 + length
        if not 0 <= body <= size - first:
            raise ValueError(f"the message at byte {at + 1:,} is cut short")
        if kind not in (_RECORD_BATCH, _DICTIONARY_BATCH):
            return None, first + body
        batch = head.table(2) if kind == _RECORD_BATCH else head.table(2).table(1)
        return _batch(batch, read, first, body, kind == _DICTIONARY_BATCH), first + body
    except (struct.error, IndexError) as error:
        raise ValueError(f"the message at byte {at + 1:,} is damaged") from error


def _batch(batch: "_Table", read: Read, first: int, body: int, is_dictionary: bool) -> Message:
    rows = batch.number(0, "<q")
    if not batch.has(3):
        return Message(rows, body, True, is_dictionary)
    unpacked = 0
    for place, length in batch.pairs(2):
        if not 0 <= place <= body or not 0 <= length <= body - place:
            raise ValueError(f"a buffer of the message before byte {first + 1:,} lies outside of it")
        if length >= 8:  # each packed buffer begins with its length; −1: it is not packed
            told = int.from_bytes(read(first + place, 8), "little", signed=True)
            unpacked += length if told < 0 else told
    return Message(rows, unpacked, False, is_dictionary)


@dataclass(frozen=True)
class _Table:
    """A table of FlatBuffers: its bytes and its place among them."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, struct.unpack_from("<I", data)[0])

    def _field(self, number: int) -> int:
        """The place of a field, 0 where the table has none."""
        vtable = self.at - int(struct.unpack_from("<i", self.data, self._inside(self.at))[0])
        size = int(struct.unpack_from("<H", self.data, self._inside(vtable))[0])
        if 4 + 2 * number + 2 > size:
            return 0
        offset = int(struct.unpack_from("<H", self.data, self._inside(vtable + 4 + 2 * number))[0])
        return self.at + offset if offset else 0

    def _inside(self, place: int) -> int:
        if place < 0:  # which Python would count from the end
            raise IndexError(place)
        return place

    def has(self, number: int) -> bool:
        """Whether a field is there."""
        return self._field(number) > 0

    def number(self, number: int, form: str) -> int:
        """A whole number; 0 where it is not there."""
        place = self._field(number)
        return int(struct.unpack_from(form, self.data, place)[0]) if place else 0

    def table(self, number: int) -> "_Table":
        """A table within this one."""
        place = self._field(number)
        if not place:
            raise IndexError(number)
        return _Table(self.data, place + int(struct.unpack_from("<I", self.data, place)[0]))

    def _list(self, number: int) -> tuple[int, int]:
        """Start and number of the items of a list."""
        place = self._field(number)
        if not place:
            return 0, 0
        start = place + int(struct.unpack_from("<I", self.data, place)[0])
        return start + 4, int(struct.unpack_from("<I", self.data, start)[0])

    def pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """A list of buffers: place and length of each."""
        start, count = self._list(number)
        return (struct.unpack_from("<qq", self.data, start + 16 * item) for item in range(count))

    def blocks(self, number: int) -> Iterator[int]:
        """A list of blocks of a file: the place of each."""
        start, count = self._list(number)
        return (int(struct.unpack_from("<q", self.data, start + 24 * item)[0]) for item in range(count))
