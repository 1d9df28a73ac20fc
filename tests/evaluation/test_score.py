import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finesight.core.errors import DataError, RecipeError
from finesight.core.prediction import Prediction, Score
from finesight.evaluation.metrics import METRICS
from finesight.evaluation.score import score

TEXTS = st.lists(st.sampled_from(["a", "red", "cat", "sat", "on", "the", "mat.", "isn't"]), max_size=6).map(" ".join)


@st.composite
def tables(draw: st.DrawFn) -> list[Prediction]:
    return [
        Prediction(
            id=str(number),
            origin="",
            prompt="",
            prediction=draw(TEXTS),
            references=tuple(draw(st.lists(TEXTS, min_size=1, max_size=3))),
            tags={"kind": draw(st.sampled_from(["in", "out"]))},
            group=draw(st.sampled_from(["", "p", "q"])),
        )
        for number in range(draw(st.integers(1, 8)))
    ]


def assert_same(first: list[Score], second: list[Score]) -> None:
    assert [(one.slice, one.name, one.count) for one in first] == [
        (one.slice, one.name, one.count) for one in second
    ]
    for one, other in zip(first, second, strict=True):
        mine, theirs = (one.value, one.low, one.high), (other.value, other.low, other.high)
        assert mine == pytest.approx(theirs, rel=0, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(tables(), st.randoms(use_true_random=False))
def test_order_changes_nothing(table: list[Prediction], shuffler: random.Random) -> None:
    shuffled = [
        dataclasses.replace(one, references=tuple(shuffler.sample(one.references, len(one.references))))
        for one in table
    ]
    shuffler.shuffle(shuffled)
    assert_same(
        score(table, list(METRICS), "val", resamples=20), score(shuffled, list(METRICS), "val", resamples=20)
    )


@settings(deadline=None, max_examples=40)
@given(tables())
def test_slices_average_to_the_whole(table: list[Prediction]) -> None:
    """So it is for CIDEr only while a slice keeps the document frequencies of the whole table."""
    keys = ["exact_match", "token_f1", "cider", "rouge_l"]
    scores = score(table, keys, "val", resamples=2)
    for key in keys:
        whole, *parts = [one for one in scores if one.name == key]
        assert whole.slice == "all" and whole.count == len(table) == sum(part.count for part in parts)
        average = sum(part.value * part.count for part in parts) / whole.count
        assert average == pytest.approx(whole.value, rel=0, abs=1e-12)


def test_rows_of_results(item) -> None:
    table = [
        item("1", "cat", ["cat"], size="s"),
        item("2", "dog", ["cat"], size="l"),
        item("3", "cat", ["cat"]),
    ]
    scores = score(table, ["exact_match", "bleu"], "test")
    assert [(one.split, one.slice, one.name, one.count) for one in scores[:5]] == [
        ("test", "all", "exact_match", 3),
        *(("test", "all", f"bleu_{n}", 3) for n in (1, 2, 3, 4)),
    ]
    assert [one.slice for one in scores[::5]] == ["all", "size=l", "size=s"]
    assert scores[0].value == pytest.approx(2 / 3)
    assert 0 <= scores[0].low <= scores[0].value <= scores[0].high <= 1
    assert (scores[5].value, scores[5].low, scores[5].high) == (0, 0, 0)
    assert all(type(one.value) is float for one in scores)


def test_same_seed_same_interval(item) -> None:
    table = [item(str(number), "cat" if number % 3 else "dog", ["cat"]) for number in range(30)]
    first, again, other = (score(table, ["exact_match"], "val", seed=seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert first.value == other.value
    alone = score(table, ["exact_match"], "val", seed=1)[0]
    among = score(table, ["cider", "exact_match"], "val", seed=1)[1]
    assert alone == among


def test_empty_table() -> None:
    with pytest.raises(DataError) as caught:
        score([], ["exact_match"], "val")
    fault = caught.value.faults[0]
    assert "no prediction" in fault.what and "val" in fault.where and fault.mend


def test_prediction_without_references(item) -> None:
    table = [item("1", "x", ["x"]), item("17", "x", []), item("18", "x", [])]
    with pytest.raises(DataError) as caught:
        score(table, ["exact_match"], "val")
    fault = caught.value.faults[0]
    assert "17" in fault.what and "2 of 3" in fault.what and fault.where == "rows.csv, row 17" and fault.mend


def test_unknown_metric(item) -> None:
    with pytest.raises(RecipeError, match="accuracy"):
        score([item("1", "x", ["x"])], ["accuracy"], "val")
