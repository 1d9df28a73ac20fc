"""Where the rows of a CSV file begin, in one pass over its bytes, exactly as Python's `csv` module tells them apart.

A line break inside quotes ends no row, so what is to be known is which bytes lie inside quotes. Quotes that follow each
other without a gap are a run. A pair of quotes changes nothing: inside it is a doubled quote, outside an empty field or
part of a field that begins without one. So a run of even length leaves inside and outside as they were, and one of odd
length does what its first quote does: after a delimiter or a line end it changes sides (it opens, or it closes), after
anything else it ends outside (it closes, or it is part of the field). With that, a whole block is decided at once.
"""

import numpy as np
from numpy.typing import NDArray

from finesight.data.files.index import Broken, Offsets, few, places

BOM = b"\xef\xbb\xbf"

_QUOTE, _LF, _CR = 34, 10, 13
_MARKS = bytes((_QUOTE, _LF, _CR))
_CHECK = "check the quotes, line ends and delimiter in and around this row"
_LONE_RETURN = "the file is not valid CSV: a carriage return stands alone, without a line feed after it"


_Found = tuple[Offsets, list[int], list[int]]
"""Line feeds that end lines; what follows a closing quote and may not; what follows a lone return."""


class CsvScan:
    """The offsets of the header, of each row, and of the file's end; blank lines are no rows.

    It is strict, as `csv.reader(strict=True)` is: a closing quote must end its field, a carriage return its line.
    """

    def __init__(self, delimiter: str) -> None:
        self.facts: dict[str, int] = {}
        self._delimiter = ord(delimiter)
        self._at = 0  # of the block in the file
        self._rows = 0  # that began before this block
        self._fresh = True  # the block begins a line
        self._blank = False  # the line that goes on began with a carriage return
        self._inside = False  # quotes
        self._before = _LF  # the last byte of the block before
        self._closed = False  # that byte was a quote that closed, if no other follows
        self._opens = np.zeros(256, np.bool_)  # bytes after which a quote opens a field
        self._opens[[self._delimiter, _LF]] = True
        self._follows = self._opens.copy()  # bytes that may follow a closing quote
        self._follows[_CR] = True

    def block(self, data: bytes) -> Offsets:
        """Offsets of the rows that begin in the next block."""
        if self._at == 0 and data.startswith(BOM):
            self._at, data = len(BOM), data[len(BOM) :]
        if not data:
            return np.empty(0, np.int64)
        returned = self._before == _CR and not self._inside and data[0] not in (_CR, _LF)
        marks = few(data, _MARKS)
        ends, misplaced, returns = self._counted(data) if marks is None else self._walked(data, marks)
        wrong = [*misplaced[:1], *returns[:1], *([0] if returned else [])]
        if wrong:
            raise self._refused(data, ends, min(wrong), min(wrong) in misplaced)
        starts = self._starts(data, ends)
        found = starts + self._at
        self._rows, self._blank = self._rows + len(starts), self._begins_blank(data, ends)
        self._fresh = bool(len(ends)) and int(ends[-1]) == len(data) - 1
        self._at, self._before = self._at + len(data), data[-1]
        return found

    def end(self) -> Offsets:
        """The file's end."""
        if self._inside:
            raise Broken("a quote is opened and not closed", self._rows - 1, _CHECK)
        return np.array([self._at], np.int64)

    def _walked(self, data: bytes, marks: list[int]) -> _Found:
        """Mark by mark, which is quicker where there are few of them."""
        inside, closed, last = self._inside, -1 if self._closed else -2, len(data) - 1
        opens, ends, misplaced, returns = (self._delimiter, _LF), list[int](), list[int](), list[int]()
        follows = (*opens, _CR, _QUOTE)
        if self._closed and data[0] not in follows:
            misplaced.append(0)
        for place in marks:
            kind = data[place]
            if kind == _QUOTE:
                if inside:
                    inside, closed = False, place
                    if place < last and data[place + 1] not in follows:
                        misplaced.append(place + 1)
                elif closed == place - 1:  # that one and this are a doubled quote
                    inside = True
                else:
                    inside = (data[place - 1] if place else self._before) in opens
            elif not inside:
                if kind == _LF:
                    ends.append(place)
                elif place < last and data[place + 1] not in (_CR, _LF):
                    returns.append(place + 1)
        self._inside, self._closed = inside, closed == last and not inside
        return np.array(ends, np.int64), misplaced, returns

    def _counted(self, data: bytes) -> _Found:
        """All marks at once."""
        lasts, after, misplaced = self._runs(data)
        self._inside = bool(after[-1])
        ends, returns, array = places(data, _LF), places(data, _CR), np.frombuffer(data, np.uint8)
        ends = ends[~after[np.searchsorted(lasts, ends)]]
        follows = returns[~after[np.searchsorted(lasts, returns)]] + 1
        follower = array[np.minimum(follows, len(data) - 1)]
        return ends, misplaced, follows[(follower != _LF) & (follower != _CR)].tolist()

    def _runs(self, data: bytes) -> tuple[Offsets, NDArray[np.bool_], list[int]]:
        """The runs of quotes in a block: the last place of each; whether inside comes before the first and after each;
        and places where something follows a closing quote that may not.
        """
        inside, closed, head, wrong = self._inside, self._closed, 0, []
        if self._before == _QUOTE:  # the block goes on with a run, or with what follows it
            head = len(data) - len(data.lstrip(b'"'))
            if head % 2:  # then the last but one quote is undone
                inside, closed = closed, inside and not closed
            if closed and head < len(data) and not self._follows[data[head]]:
                wrong = [head]
        quotes = places(data, _QUOTE)[head:]
        first = np.flatnonzero(np.diff(quotes, prepend=-2) != 1)
        lengths = np.diff(first, append=len(quotes))
        starts, odd = quotes[first], lengths & 1 == 1
        lasts, array = starts + lengths - 1, np.frombuffer(data, np.uint8)
        opening = self._opens[array[starts - 1]]
        if len(starts) and starts[0] == 0:
            opening[0] = self._opens[self._before]
        after = np.concatenate(([inside], _sides(odd & opening, odd & ~opening, inside)))
        closing = np.where(odd, after[:-1], opening & ~after[:-1])
        closed = bool(closing[-1]) if len(lasts) else closed and head == len(data)
        self._closed = closed and data[-1] == _QUOTE
        follower = array[np.minimum(lasts + 1, len(data) - 1)]  # of a quote at the end, that quote itself
        misplaced = lasts[closing & ~self._follows[follower] & (follower != _QUOTE)] + 1
        return lasts, after, [*wrong, *misplaced.tolist()]

    def _starts(self, data: bytes, ends: Offsets) -> Offsets:
        """Rows begin after line ends; a line that begins with its end is blank."""
        starts = ends + 1
        if self._fresh:
            starts = np.concatenate(([0], starts))
        if len(starts) and starts[-1] == len(data):
            starts = starts[:-1]
        first = np.frombuffer(data, np.uint8)[starts]
        filled: Offsets = starts[(first != _LF) & (first != _CR)]
        return filled

    def _begins_blank(self, data: bytes, ends: Offsets) -> bool:
        """Whether the line after the last of `ends` begins with a carriage return."""
        if len(ends):
            return data[int(ends[-1]) + 1 : int(ends[-1]) + 2] == b"\r"
        return data[:1] == b"\r" if self._fresh else self._blank

    def _refused(self, data: bytes, ends: Offsets, place: int, quote: bool) -> Broken:
        before = ends[ends < place]
        row = self._rows + len(self._starts(data, before)) - (not self._begins_blank(data, before))
        wanted = "tab" if self._delimiter == 9 else f"`{chr(self._delimiter)}`"
        what = f"the file is not valid CSV: something else than {wanted} follows a closing quote"
        return Broken(what if quote else _LONE_RETURN, row, _CHECK)


def _sides(change: NDArray[np.bool_], leave: NDArray[np.bool_], inside: bool) -> NDArray[np.bool_]:
    """Whether inside comes after each run, which changes sides, or leaves to the outside, or does nothing."""
    changes: Offsets = np.cumsum(change)
    if leave.any():
        changes = changes - np.maximum.accumulate(np.where(leave, changes, -int(inside)))
    elif inside:
        changes = changes + 1
    sides: NDArray[np.bool_] = changes & 1 == 1
    return sides
