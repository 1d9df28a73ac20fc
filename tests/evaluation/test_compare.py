import dataclasses

import pytest

from finesight.core.errors import DataError
from finesight.evaluation.compare import compare
from finesight.evaluation.metrics import METRICS
from finesight.evaluation.score import score


@pytest.fixture
def table(item):
    return [
        item(
            str(number),
            "a red cat" if number % 3 else "a dog",
            ["a red cat sits", "the cat"],
            f"p{number // 2}",
        )
        for number in range(12)
    ]


def answered(table, prediction: str):
    return [dataclasses.replace(one, prediction=prediction) for one in table]


def test_identical_tables_differ_by_0(table) -> None:
    for one in compare(table, table[::-1], list(METRICS), "val", "itself"):
        assert (one.difference, one.low, one.high) == (0, 0, 0)
        assert (one.count, one.groups, one.baseline, one.split) == (12, 6, "itself", "val")


def test_difference_of_scores(table) -> None:
    baseline = answered(table, "the cat")
    keys = ["exact_match", "bleu", "cider"]
    ours, theirs = score(table, keys, "val"), score(baseline, keys, "val")
    for found, mine, other in zip(
        compare(table, baseline, keys, "val", "majority"), ours, theirs, strict=True
    ):
        assert (found.name, found.slice) == (mine.name, mine.slice)
        assert found.value == pytest.approx(other.value, abs=1e-12)
        assert found.difference == pytest.approx(mine.value - other.value, abs=1e-12)
        assert found.low <= found.difference + 1e-12 and found.difference - 1e-12 <= found.high


def test_baseline_rows_are_matched_by_id(table) -> None:
    baseline = [dataclasses.replace(one, prediction="the cat" if int(one.id) < 6 else "") for one in table]
    straight = compare(table, baseline, ["exact_match"], "val", "b", seed=3)
    assert compare(table, baseline[::-1], ["exact_match"], "val", "b", seed=3) == straight
    assert straight[0].value == 0.5 and straight[0].difference == -0.5


def test_slices_are_those_of_the_predictions(item) -> None:
    table = [item("1", "x", ["x"], kind="a"), item("2", "y", ["x"], kind="b")]
    plain = [dataclasses.replace(one, tags={}) for one in table]
    assert [one.slice for one in compare(table, plain, ["exact_match"], "val", "b")] == [
        "all",
        "kind=a",
        "kind=b",
    ]


def test_other_ids(table) -> None:
    other = [dataclasses.replace(one, id=f"{one.id}x") if int(one.id) < 4 else one for one in table]
    with pytest.raises(DataError) as caught:
        compare(table, other, ["exact_match"], "val", "majority")
    fault = caught.value.faults[0]
    assert "4 ids (0, 1, 2, …)" in fault.what and "majority has 4 ids (0x, 1x, 2x, …)" in fault.what
    assert fault.where == "split val" and fault.mend


def test_missing_id(table) -> None:
    with pytest.raises(DataError, match=r"only the predictions have id 11, only b has none"):
        compare(table, table[:-1], ["exact_match"], "val", "b")


def test_repeated_ids(table) -> None:
    with pytest.raises(DataError, match="more than once in b: id 0"):
        compare(table, [*table, table[0]], ["exact_match"], "val", "b")


def test_other_references(table) -> None:
    reordered = [dataclasses.replace(one, references=one.references[::-1]) for one in table]
    assert compare(table, reordered, ["rouge_l"], "val", "b")[0].difference == pytest.approx(0, abs=1e-12)
    changed = [dataclasses.replace(table[0], references=("else",)), *table[1:]]
    with pytest.raises(DataError, match="references of id 0 differ") as caught:
        compare(table, changed, ["exact_match"], "val", "b")
    assert caught.value.faults[0].where == "rows.csv, row 0"
