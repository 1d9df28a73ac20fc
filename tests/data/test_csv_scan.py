"""Where rows of CSV begin: what the scan of bytes finds in blocks of any size is what the standard library finds."""

import csv
import io
import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finesight.data.files import index
from finesight.data.files.index import Broken
from finesight.data.sources.csv_scan import CsvScan, _sides

Found = tuple[list[int], tuple[str, int] | None]
"""Offsets of the header and the rows, and the fault with its row, if there is one."""


class Counted:
    """Lines as text, counting the bytes that were handed out; a byte order mark is skipped."""

    def __init__(self, data: bytes) -> None:
        self.position = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        self.stream = io.BytesIO(data)
        self.stream.seek(self.position)

    def __iter__(self) -> Iterator[str]:
        for line in self.stream:
            self.position += len(line)
            yield line.decode("latin-1")


def by_the_standard_library(data: bytes, delimiter: str) -> Found:
    lines, starts = Counted(data), []
    end = lines.position
    try:
        for fields in csv.reader(lines, delimiter=delimiter, strict=True):
            if fields:
                starts.append(end)
            end = lines.position
    except csv.Error as error:
        words = str(error)
        kind = "open" if "unexpected end" in words else "return" if "new-line" in words else "quote"
        return starts, (kind, len(starts))
    return starts, None


def by_scan(data: bytes, delimiter: str, cuts: list[int]) -> Found:
    scan, starts = CsvScan(delimiter), []
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    if data.startswith(b"\xef\xbb\xbf"):  # a first block is never so short that it cuts the mark
        bounds = [0, *(bound for bound in bounds if bound >= 3)]
    blocks = [data[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    try:
        for block in blocks:
            starts += scan.block(block).tolist()
        assert scan.end().tolist() == [len(data)]
    except Broken as error:
        kind = "open" if "not closed" in error.what else "return" if "carriage" in error.what else "quote"
        return starts, (kind, error.row)
    return starts, None


def check(data: bytes, delimiter: str, cuts: list[int]) -> bool:
    """Compare the ways of many and of few marks with the standard library; whether it finds no fault."""
    wanted = by_the_standard_library(data, delimiter)
    for seldom in (index._SELDOM, 1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "_SELDOM", seldom)
            found = by_scan(data, delimiter, cuts)
        assert found[1] == wanted[1]
        if wanted[1] is None:
            assert found[0] == wanted[0]
        else:  # the blocks before the fault have given their rows
            assert found[0] == wanted[0][: len(found[0])] or found[0][:-1] == wanted[0]
    return wanted[1] is None


PIECES = st.lists(
    st.sampled_from(
        [b'"', b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"a", b"b c", b"\xff", b"\0", b";", b"\xc3\xa9"]
    )
)
CUTS = st.lists(st.integers(0, 60), max_size=4)


@given(PIECES, CUTS, st.booleans())
@example([b'"', b'"', b'"', b"\n"], [1, 2], False)
@example([b'"a"', b'"b"'], [3], False)
@example([b"a", b'"', b'"'], [2], False)
@example([b"a\r"], [1], False)
@example([b"a\r", b"b"], [2], False)
def test_any_bytes(pieces: list[bytes], cuts: list[int], bom: bool) -> None:
    check((b"\xef\xbb\xbf" if bom else b"") + b"".join(pieces), ",", cuts)


@pytest.mark.proof
def test_many_random_bytes(proof_factor: int) -> None:
    draw, whole = random.Random(7), 0
    for _ in range(5000 * proof_factor):
        weights = [draw.random() ** 2 for _ in range(7)]
        data = bytes(draw.choices(b'",\n\ra;\0', weights, k=draw.randrange(40)))
        cuts = [draw.randrange(len(data) + 1) for _ in range(draw.randrange(4))]
        whole += check(data, draw.choice(",;"), cuts)
    assert whole > 1000  # not all of them are broken


FIELDS = st.text('a"\n\r,é \0', max_size=6).map(lambda text: text.encode())


@given(
    st.lists(st.lists(FIELDS, min_size=1, max_size=3), max_size=6), CUTS, st.sampled_from([b"\n", b"\r\n"])
)
def test_tables_as_they_are_written(rows: list[list[bytes]], cuts: list[int], end: bytes) -> None:
    lines = (b",".join(b'"' + field.replace(b'"', b'""') + b'"' for field in row) for row in rows)
    assert check(end.join(lines), ",", cuts)


@given(st.lists(st.text('a"é ', max_size=6), max_size=6), CUTS)
def test_quotes_in_the_midst_of_fields_are_part_of_them(words: list[str], cuts: list[int]) -> None:
    assert check(b"\n".join(f'5{word},6{word}"'.encode() for word in words), ",", cuts)


@given(st.lists(st.sampled_from("cl ")), st.booleans())
def test_sides_equal_a_walk(steps: list[str], inside: bool) -> None:
    wanted, side = [], inside
    for step in steps:
        side = not side if step == "c" else False if step == "l" else side
        wanted.append(side)
    change, leave = (np.array([step == kind for step in steps], bool) for kind in "cl")
    assert _sides(change, leave, inside).tolist() == wanted


def test_blocks_of_many_marks_and_of_few() -> None:
    """Both ways of finding marks, and blocks that end in the midst of everything."""
    draw = random.Random(3)
    rows = [["a" * draw.choice((1, 1, 3000)), 'x"\r\n"y' * draw.randrange(3), "\n"] for _ in range(300)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    data = text.getvalue().encode()
    for size in (1, 7, 100, 4096, 1 << 20):
        assert check(data, ",", list(range(0, len(data), size)) if size > 5 else [])
