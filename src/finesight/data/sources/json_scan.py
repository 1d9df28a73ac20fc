"""Where the rows of JSON files begin: lines of JSON Lines, and the items of a list, found without parsing them.

Neither scan says that a row is JSON: what is wrong inside a row is that row's error, when it is read.
"""

import numpy as np
from numpy.typing import NDArray

from finesight.data.files.index import Broken, Offsets, few, places
from finesight.data.sources.csv_scan import BOM

Block = NDArray[np.uint8]

LIST, OBJECT = ord("["), ord("{")

_QUOTE, _BACKSLASH, _COMMA, _LF = 34, 92, 44, 10
_DEEPEST = 1_000_000
"""Open brackets at which a file is given up; a single row may have far fewer."""
_MEND = "mend the file: check its brackets, quotes and commas"


def _blank(data: Block) -> NDArray[np.bool_]:
    """Which bytes `bytes.strip` takes away: space, tab, line feed, vertical tab, form feed, return."""
    blank: NDArray[np.bool_] = (data == 32) | ((data >= 9) & (data <= 13))
    return blank


class _Unmarked:
    """The bytes of a text file: blocks with their place in the file, without a byte order mark."""

    def __init__(self) -> None:
        self.at = 0

    def next(self, data: bytes) -> bytes:
        """The block, shorter where it began with the mark; `at` is then the place of its first byte."""
        if self.at == 0 and data.startswith(BOM):
            self.at, data = len(BOM), data[len(BOM) :]
        return data


class LineScan:
    """The offsets of lines that are not blank, and of the file's end. `facts["blank"]` counts the blank ones."""

    def __init__(self) -> None:
        self.facts = {"blank": 0}
        self._text = _Unmarked()
        self._line = -1  # where the present line began, while nothing but blanks was seen of it
        self._fresh = True

    def block(self, data: bytes) -> Offsets:
        """Offsets of the lines of the next block that hold something."""
        data = self._text.next(data)
        if not data:
            return np.empty(0, np.int64)
        at, block = self._text.at, np.frombuffer(data, np.uint8)
        self._text.at += len(data)
        breaks = places(data, _LF)
        starts, ends = np.concatenate(([0], breaks + 1)), np.append(breaks, len(data))
        filled, begins = self._filled(block, starts, ends), starts + at
        if not self._fresh:  # the first piece goes on with a line of the block before
            begins[0] = self._line
        counted = bool(begins[0] < 0)  # that line was found to hold something
        self.facts["blank"] += int((~filled[counted:-1]).sum())
        self._fresh = bool(len(breaks)) and int(breaks[-1]) == len(data) - 1
        self._line = -1 if filled[-1] else int(begins[-1])
        return begins[counted:][filled[counted:]]

    def end(self) -> Offsets:
        """The file's end."""
        return np.array([self._text.at], np.int64)

    def _filled(self, data: Block, starts: Offsets, ends: Offsets) -> NDArray[np.bool_]:
        """Which pieces of the block hold more than blanks."""
        full = starts < len(data)
        filled = full.copy()
        filled[full] = ~_blank(data[starts[full]])
        doubtful = ~filled & (ends > starts)
        if doubtful.any():
            solid = np.flatnonzero(~_blank(data))
            next_solid = np.append(solid, len(data))[np.searchsorted(solid, starts[doubtful])]
            filled[doubtful] = next_solid < ends[doubtful]
        return filled


class More(Broken):
    """Something follows where the outermost value has ended."""


class ItemScan:
    """Where the items of the list that begins at byte `start` begin, and one past its end.

    Each item ends one byte before the next offset.
    With `start` 0 the file's outermost value is taken, which may also be an object: its items are `"key": value`, and
    nothing may follow it. `facts["bracket"]` says which it is, `LIST` or `OBJECT`.
    """

    def __init__(self, start: int = 0) -> None:
        self.facts = {"bracket": 0}
        self._start, self._whole = start, start == 0
        self._text = _Unmarked()
        self._ended = False
        self._inside = False  # a string
        self._odd = False  # an odd number of backslashes ends the block before
        self._depth = 0
        self._last = -1  # the last offset that was found
        self._items = 0

    def block(self, data: bytes) -> Offsets:
        """Offsets of the items that begin in the next block."""
        data = self._text.next(data)
        block = np.frombuffer(data, np.uint8)[max(0, self._start - self._text.at) :]
        self._text.at += len(data)
        if not self.facts["bracket"]:
            solid = np.flatnonzero(~_blank(block))
            if not len(solid):
                return np.empty(0, np.int64)
            block = block[int(solid[0]) :]
            if block[0] not in (LIST, OBJECT):
                raise Broken("the file does not hold a list of rows", -1, _MEND)
            self.facts["bracket"] = int(block[0])
        if self._ended:
            self._check_rest(block)
            return np.empty(0, np.int64)
        return self._within(data[len(data) - len(block) :], self._text.at - len(block))

    def end(self) -> Offsets:
        """Nothing more; raises Broken where the list has not ended."""
        if not self.facts["bracket"]:
            raise Broken("the file is empty", -1, _MEND)
        if not self._ended:
            what = "a quote" if self._inside else "a bracket"
            raise Broken(f"{what} is opened and not closed", self._items - 1, _MEND)
        return np.empty(0, np.int64)

    def _within(self, raw: bytes, at: int) -> Offsets:
        data = np.frombuffer(raw, np.uint8)
        seldom = few(raw, b'"\\[]{},')
        if seldom is None:  # the bit 32 turns [ \ ] into { | }
            marks = np.flatnonzero((data == _QUOTE) | (data == _COMMA) | ((data | 32) - np.uint8(123) < 3))
        else:
            marks = np.array(seldom, np.int64)
        kinds = data[marks]
        quotes = kinds == _QUOTE
        if self._odd or (kinds == _BACKSLASH).any():
            quotes &= ~self._escaped(data, marks[kinds == _BACKSLASH])[marks]
        outside = ((np.cumsum(quotes) + self._inside) & 1 == 0) & ~quotes
        opened = (kinds == LIST) | (kinds == OBJECT)
        closed = (kinds == LIST + 2) | (kinds == OBJECT + 2)
        depth = np.cumsum((opened & outside).astype(np.int64) - (closed & outside)) + self._depth
        ends = np.flatnonzero(depth == 0)
        if len(ends):  # the bracket that was opened first is closed
            close = int(ends[0])
            marks, kinds = marks[: close + 1], kinds[: close + 1]
            outside, depth = outside[: close + 1], depth[: close + 1]
            self._ended = True
        elif len(marks):
            self._inside = bool((np.count_nonzero(quotes) + self._inside) & 1)
            self._depth = int(depth[-1])
            if depth.max() > _DEEPEST:
                raise Broken("it is nested too deeply", self._items - 1, _MEND)
        bounds = marks[(kinds == _COMMA) & outside & (depth == 1)]
        if self._last < 0:
            bounds = np.concatenate(([0], bounds))
        if self._ended:
            bounds = np.append(bounds, marks[-1])
        found: Offsets = bounds + (at + 1)
        self._check_gaps(found)
        if self._ended:
            self._check_rest(data[int(marks[-1]) + 1 :])
        return found

    def _escaped(self, data: Block, backslashes: Offsets) -> NDArray[np.bool_]:
        """Bytes that a backslash before them makes part of a string: those after an odd number of backslashes."""
        escaped = np.zeros(len(data) + 1, np.bool_)
        if not len(backslashes):
            escaped[0] = self._odd
            self._odd = False
            return escaped
        first = np.flatnonzero(np.diff(backslashes, prepend=-2) != 1)  # of each run
        lengths = np.diff(first, append=len(backslashes))
        if self._odd:
            if backslashes[0] == 0:
                lengths[0] += 1
            else:
                escaped[0] = True
        last = np.append(first[1:], len(backslashes)) - 1
        escaped[backslashes[last] + 1] = lengths & 1 == 1
        self._odd = bool(escaped[-1])
        return escaped

    def _check_gaps(self, found: Offsets) -> None:
        """An item has at least one byte; only an empty list has none."""
        gaps = np.diff(found, prepend=self._last if self._last >= 0 else -1)
        empty = np.flatnonzero(gaps == 1)
        none = self._ended and self._items + len(found) == 2
        if len(empty) and not none:
            row = self._items + int(empty[0]) - 1
            raise Broken("there is a comma too many", row, _MEND)
        if len(found):
            self._last = int(found[-1])
            self._items += len(found)

    def _check_rest(self, data: Block) -> None:
        if self._whole and not _blank(data).all():
            raise More("something follows the end of the list", self._items - 1, _MEND)
