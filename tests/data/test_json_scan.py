"""Where items of JSON lists and lines of JSON Lines begin: as the standard library has them, in blocks of any size."""

import itertools
import json
import random
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finesight.data.files.index import Broken, Scan
from finesight.data.sources.json_scan import LIST, OBJECT, ItemScan, LineScan, More

BOM = b"\xef\xbb\xbf"
CUTS = st.lists(st.integers(0, 200), max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text('a"\\[]{},:\n é/u', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\[]{},: é', max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def offsets_of(scan: Scan, data: bytes, cuts: list[int]) -> list[int]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    if data.startswith(BOM):  # a first block is never so short that it cuts the mark
        bounds = [0, *(bound for bound in bounds if bound >= 3)]
    found: list[int] = []
    for start, end in itertools.pairwise(bounds):
        if start < end:
            found += scan.block(data[start:end]).tolist()
    return found + scan.end().tolist()


def items_of(data: bytes, cuts: list[int], start: int = 0) -> list[bytes]:
    found = offsets_of(ItemScan(start), data, cuts)
    return [data[begin : end - 1] for begin, end in itertools.pairwise(found)]


@given(st.lists(VALUES, min_size=1, max_size=5), CUTS, st.booleans(), st.integers(0, 2), st.booleans())
@example([['"', "\\", "\\\\", '\\"']], [3, 4, 5, 6, 7, 8], True, 0, False)
def test_items_of_lists(values: list, cuts: list[int], plain: bool, indent: int, bom: bool) -> None:
    text = json.dumps(values, ensure_ascii=plain, indent=indent or None)
    data = BOM * bom + f" \n{text}\r\n".encode()
    assert [json.loads(item) for item in items_of(data, cuts)] == values


@given(st.dictionaries(st.text(max_size=4), VALUES, min_size=1, max_size=5), CUTS)
def test_members_of_objects(values: dict, cuts: list[int]) -> None:
    scan = ItemScan()
    data = json.dumps(values).encode()
    found = offsets_of(scan, data, cuts)
    members = [data[begin : end - 1] for begin, end in itertools.pairwise(found)]
    assert scan.facts["bracket"] == OBJECT
    assert json.loads(b"{" + b",".join(members) + b"}") == values
    assert len(members) == len(values)


@given(st.lists(VALUES, min_size=1, max_size=4), VALUES, CUTS)
def test_a_list_inside(values: list, other: object, cuts: list[int]) -> None:
    before = json.dumps({"other": other, "rows": 0})[:-2]
    data = (
        before + json.dumps(values) + f', "after": {json.dumps(other)}}} what comes then is not looked at'
    ).encode()
    found = items_of(data, cuts, len(before.encode()))
    assert [json.loads(item) for item in found] == values


@pytest.mark.parametrize("space", [b"", b" ", b"\n\t "])
def test_empty_lists(space: bytes) -> None:
    scan = ItemScan()
    found = offsets_of(scan, b"[" + space + b"]", [1])
    assert (scan.facts["bracket"], found) == (LIST, [1, 2 + len(space)])


@given(st.binary(max_size=60), CUTS)
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    """What the parser takes is cut into what it takes; what the scan refuses, the parser refuses."""
    try:
        wanted = json.loads(data.decode())
    except (ValueError, RecursionError):
        wanted = None
    try:
        found = items_of(data, cuts)
    except Broken:
        assert not isinstance(wanted, list)
    else:
        if isinstance(wanted, list) and wanted:
            assert [json.loads(item) for item in found] == wanted


@pytest.mark.proof
def test_many_mutants_of_a_list(proof_factor: int) -> None:
    draw, whole = random.Random(11), 0
    good = json.dumps([{"a": [1, 'x]\\"'], "b": {"c": "}, {"}}, [], {"d": "\\\\"}, 5, "e"]).encode()
    for _ in range(3000 * proof_factor):
        data = bytearray(good)
        for _ in range(draw.choice((1, 1, 2, 5))):
            at = draw.randrange(len(data))
            data[at : at + draw.randrange(2)] = bytes(draw.choices(b'"\\[]{},: 1a', k=draw.randrange(3)))
        try:
            wanted = json.loads(data)
        except ValueError:
            wanted = None
        cuts = [draw.randrange(200) for _ in range(draw.randrange(4))]
        try:
            found = items_of(bytes(data), cuts)
        except Broken:
            assert not isinstance(wanted, list)
        else:
            if isinstance(wanted, list) and wanted:
                assert [json.loads(item) for item in found] == wanted
                whole += 1
    assert whole > 300


LINES = st.lists(
    st.sampled_from([b"{}", b'{"a": "\xc3\xa9"}', b" ", b"\t", b"\r", b"\x0b\x0c", b"\n", b"\n", b"\0"])
)


@given(LINES, CUTS, st.booleans())
@example([b" ", b" ", b"{}", b"\n"], [1, 2], False)
@example([b"{}", b" ", b"\n", b" "], [2, 3, 4], False)
def test_lines(pieces: list[bytes], cuts: list[int], bom: bool) -> None:
    scan, mark = LineScan(), BOM * bom
    data = mark + b"".join(pieces)
    found = offsets_of(scan, data, cuts)
    lines = b"".join(pieces).split(b"\n")
    at, wanted = len(mark), []
    for line in lines:
        if line.strip():
            wanted.append(at)
        at += len(line) + 1
    assert found == [*wanted, len(data)]
    assert scan.facts["blank"] == sum(not line.strip() for line in lines[:-1])


@pytest.mark.parametrize(
    ("text", "what", "row"),
    [
        ("", "is empty", -1),
        (" \n", "is empty", -1),
        ("12", "does not hold a list", -1),
        ('"[1]"', "does not hold a list", -1),
        ("[", "a bracket is opened and not closed", 0),
        ('[1, "', "a quote is opened and not closed", 1),
        ('[1, {"a": 2], 3', "a bracket is opened and not closed", 2),
        ("[1,,2]", "a comma too many", 1),
        ("[,1]", "a comma too many", 0),
        ("[1,2,]", "a comma too many", 2),
        ("[1] 2", "something follows", 1),
        ("[" * 1_000_002, "nested too deeply", 0),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_what_is_broken(text: str, what: str, row: int, step: int) -> None:
    if len(text) > 1000 and step < 1000:
        step *= 50_000
    with pytest.raises(Broken, match=what) as caught:
        offsets_of(ItemScan(), text.encode(), list(range(0, len(text), step)))
    assert caught.value.row == row or len(text) > 1000


def test_one_object_after_another_is_told_apart() -> None:
    with pytest.raises(More):
        offsets_of(ItemScan(), b'{"a": 1}\n{"a": 2}\n', [])


def test_blocks_of_many_marks_and_of_few() -> None:
    draw = random.Random(5)
    values = [
        {"image": "".join(draw.choices(string.ascii_letters, k=5000)), "n": list(range(draw.randrange(40)))}
    ]
    values = [{**values[0], "id": number} for number in range(100)]
    data = json.dumps(values).encode()
    for size in (977, 1 << 14, 1 << 20):
        assert [json.loads(item) for item in items_of(data, list(range(0, len(data), size)))] == values
