"""Where the rows of a CSV file begin, in one pass over its bytes, exactly as Python's `csv` module tells them apart.

A line break inside quotes ends no row. Where every quote stands as the format wants it (at the beginning of a field, at
its end, or doubled inside), a byte lies inside quotes just where the number of quotes before it is odd: that is counted
for a whole block at once. A block where a quote stands elsewhere is walked mark by mark instead.
"""

import numpy as np

from finesight.data.index import Block, Broken, Offsets, positions

BOM = b"\xef\xbb\xbf"

_QUOTE, _LF, _CR = 34, 10, 13
_CHECK = "check the quotes, line ends and delimiter in and around this row"
_LONE_RETURN = "the file is not valid CSV: a carriage return stands alone, without a line feed after it"


class CsvScan:
    """The offsets of the header, of each row, and of the file's end; blank lines are no rows.

    It is strict, as `csv.reader(strict=True)` is: a closing quote must end its field, a carriage return its line.
    """

    def __init__(self, delimiter: str) -> None:
        self.facts: dict[str, int] = {"nulls": 0}
        self._delimiter = ord(delimiter)
        self._at = 0  # of the block in the file
        self._rows = 0  # that began before this block
        self._inside = False  # quotes
        self._fresh = True  # the block begins a line
        self._before = _LF  # the last byte of the block before, and whether it was a closing quote
        self._closed = False
        self._opens = np.zeros(256, np.bool_)  # bytes after which a quote opens a field
        self._opens[[self._delimiter, _LF]] = True
        self._follows = np.zeros(256, np.bool_)  # bytes that may follow a closing quote
        self._follows[[self._delimiter, _LF, _CR, _QUOTE]] = True

    def block(self, data: Block) -> Offsets:
        """Offsets of the rows that begin in the next block."""
        skipped = 0
        if self._at == 0 and data[: len(BOM)].tobytes() == BOM:
            skipped = len(BOM)
            data = data[skipped:]
            if not len(data):
                self._at = skipped
                return np.empty(0, np.int64)
        if not data.min():
            self.facts["nulls"] = 1
        at = self._at + skipped
        self._across(int(data[0]))
        marks = positions((data == _QUOTE) | (data == _LF) | (data == _CR))
        kinds = data[marks]
        ends = self._counted(data, marks, kinds)
        if ends is None:
            ends = self._walked(data, marks.tolist(), kinds.tolist())
        starts = self._starts(data, ends)
        self._fresh = bool(len(ends)) and int(ends[-1]) == len(data) - 1
        self._at, self._before = at + len(data), int(data[-1])
        self._rows += len(starts)
        return starts + at

    def end(self) -> Offsets:
        """The file's end."""
        if self._inside:
            raise Broken("a quote is opened and not closed", self._rows - 1, _CHECK)
        return np.array([self._at], np.int64)

    def _across(self, first: int) -> None:
        """Check what the last byte of the block before needs to be followed by."""
        if self._closed and not self._follows[first]:
            raise self._misplaced(self._rows)
        if self._before == _CR and not self._inside and first not in (_CR, _LF):
            raise Broken(_LONE_RETURN, self._rows - 1, _CHECK)

    def _misplaced(self, rows: int) -> Broken:
        wanted = "tab" if self._delimiter == 9 else f"`{chr(self._delimiter)}`"
        what = f"the file is not valid CSV: something else than {wanted} follows a closing quote"
        return Broken(what, rows - 1, _CHECK)

    def _starts(self, data: Block, ends: Offsets) -> Offsets:
        """Rows begin after line ends; a line that begins with its end is blank."""
        starts = ends + 1
        if self._fresh:
            starts = np.concatenate(([0], starts))
        if len(starts) and starts[-1] == len(data):
            starts = starts[:-1]
        first = data[starts]
        filled: Offsets = starts[(first != _LF) & (first != _CR)]
        return filled

    def _counted(self, data: Block, marks: Offsets, kinds: Block) -> Offsets | None:
        """Places of the line feeds that end lines, by counting quotes; None where counting may not be exact."""
        quotes = kinds == _QUOTE
        odd = (np.cumsum(quotes) + self._inside) & 1 == 1  # after each mark: whether it lies inside quotes
        opening, closing = marks[quotes & odd], marks[quotes & ~odd]
        # a quote after a quote: its neighbour closes, by the count, so the two are a doubled quote inside a field
        before = data[opening - 1]
        fine = self._opens[before] | (before == _QUOTE)
        if len(opening) and opening[0] == 0:
            fine[0] = self._closed if self._before == _QUOTE else self._opens[self._before]
        returns = marks[(kinds == _CR) & ~odd]
        after, next_mark = (
            data[np.minimum(closing + 1, len(data) - 1)],
            np.minimum(returns + 1, len(data) - 1),
        )
        returned = data[next_mark]
        exact = fine.all() and self._follows[after].all() and ((returned == _LF) | (returned == _CR)).all()
        if not exact:
            return None
        if len(marks):
            self._inside = bool(odd[-1])
        self._closed = bool(len(closing)) and int(closing[-1]) == len(data) - 1
        ends: Offsets = marks[(kinds == _LF) & ~odd]
        return ends

    def _walked(self, data: Block, marks: list[int], kinds: list[int]) -> Offsets:
        """The same, mark by mark: quotes in the midst of a field that begins without one are part of it."""
        inside, closed, last = self._inside, -1 if self._closed else -2, len(data) - 1
        ends: list[int] = []
        for place, kind in zip(marks, kinds, strict=True):
            if inside:
                if kind == _QUOTE:
                    inside, closed = False, place
                    if place < last and not self._follows[data[place + 1]]:
                        raise self._misplaced(self._rows_to(data, ends))
            elif kind == _QUOTE:
                # after a quote that seemed to close, it is a doubled one; else it opens a field, or is part of one
                inside = closed == place - 1 or bool(self._opens[data[place - 1] if place else self._before])
            elif kind == _LF:
                ends.append(place)
            elif place < last and data[place + 1] not in (_CR, _LF):
                raise Broken(_LONE_RETURN, self._rows_to(data, ends) - 1, _CHECK)
        self._inside, self._closed = inside, closed == last and not inside
        return np.array(ends, np.int64)

    def _rows_to(self, data: Block, ends: list[int]) -> int:
        return self._rows + len(self._starts(data, np.array(ends, np.int64)))
