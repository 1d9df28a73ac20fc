"""BLEU, CIDEr-D and ROUGE-L against pycocoevalcap on equal words."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge, my_lcs

from finesight.core.prediction import Prediction
from finesight.evaluation.metrics import METRICS
from finesight.evaluation.metrics.rouge_l import common_subsequence

WORDS = ["a", "man", "dog", "cat", "runs", "on", "the", "red", "grass", "with", "ball", "big", "small", "near", "tree"]
REAL = [
    (
        "a man riding a wave on a surfboard",
        ["a man on a surfboard rides a wave", "a surfer riding a large wave"],
    ),
    (
        "a cat laying on a laptop",
        ["a cat is lying on top of a laptop computer", "a cat sleeps on the keyboard"],
    ),
    (
        "two dogs play with a frisbee",
        ["two dogs playing with a red frisbee", "dogs run after a frisbee in a park"],
    ),
    (
        "a plate of food on a table",
        ["a plate topped with rice and beans", "a plate of food on a wooden table"],
    ),
    ("a plate of food on a table", ["a plate of food on a table"]),
]


def table(rows: list[tuple[str, list[str]]]) -> list[Prediction]:
    return [
        Prediction(str(number), "", "", text, tuple(references))
        for number, (text, references) in enumerate(rows)
    ]


def values(key: str, predictions: list[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """The metric's values and its statistics."""
    statistics = METRICS[key].statistics(predictions)
    return METRICS[key].value(statistics), statistics


def assert_equal_to_reference(predictions: list[Prediction]) -> None:
    given_texts = {item.id: list(item.references) for item in predictions}
    answers = {item.id: [item.prediction] for item in predictions}
    bleu, _ = Bleu(4).compute_score(given_texts, answers, verbose=0)
    assert values("bleu", predictions)[0] == pytest.approx(bleu, rel=0, abs=1e-9)
    rouge, each = Rouge().compute_score(given_texts, answers)
    value, statistics = values("rouge_l", predictions)
    assert value == pytest.approx([rouge], rel=0, abs=1e-9)
    assert statistics[:, 0] == pytest.approx(each, rel=0, abs=1e-9)
    if any(text for item in predictions for text in item.references):  # else it fails on an empty maximum
        cider, each = Cider().compute_score(given_texts, answers)
        value, statistics = values("cider", predictions)
        assert value == pytest.approx([cider], rel=0, abs=1e-9)
        assert statistics[:, 0] == pytest.approx(each, rel=0, abs=1e-9)


def text_of(draw: random.Random, least: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, 14)))


@pytest.mark.parametrize("seed", range(12))
def test_random_captions(seed: int) -> None:
    draw = random.Random(seed)
    rows = [
        (text_of(draw, 0), [text_of(draw, 1) for _ in range(draw.randint(1, 5))])
        for _ in range(draw.randint(1, 60))
    ]
    assert_equal_to_reference(table(rows))


@pytest.mark.parametrize(
    "rows",
    [
        REAL,
        REAL[:1],
        [("", ["a cat"]), ("a dog", ["a dog", "the dog"])],
        [("", [""]), ("a dog", [""]), ("", ["dog"])],
        [("cat", ["cat"]), ("dog", ["cat"]), ("dog", ["dog", "cat"])],
        [("cat", ["cat"])] * 3,
        [("a cat", ["a cat on a mat", "cat"]), ("a a a a a a", ["a", "a a"]), ("mat on", ["on mat", "mat"])],
    ],
    ids=["real", "one item", "empty prediction", "empty texts", "one word", "all alike", "clipping"],
)
def test_edge_cases(rows: list[tuple[str, list[str]]]) -> None:
    assert_equal_to_reference(table(rows))


def test_one_item_has_cider_0() -> None:
    """Every n-gram is in every document there is, so its weight is log 1 = 0."""
    assert values("cider", table(REAL[4:]))[0] == pytest.approx([0.0], abs=0)


def test_perfect_captions() -> None:
    perfect = table([(references[0], references[:1]) for _, references in REAL])
    assert values("bleu", perfect)[0] == pytest.approx([1.0] * 4)
    assert values("rouge_l", perfect)[0] == pytest.approx([1.0])
    assert values("cider", perfect)[0] == pytest.approx([10.0])


def test_empty_predictions_give_0() -> None:
    empty = table([("", references) for _, references in REAL])
    for key in ("bleu", "cider", "rouge_l"):
        assert values(key, empty)[0] == pytest.approx(0.0, abs=1e-9)


@tuned(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from("abc"), max_size=80), st.lists(st.sampled_from("abc"), max_size=80))
def test_common_subsequence_equals_the_table_of_lengths(first: list[str], second: list[str]) -> None:
    assert common_subsequence(first, second) == my_lcs(first, second)


def test_reduction_works_on_many_sums_at_once() -> None:
    bleu = METRICS["bleu"]
    statistics = bleu.statistics(table(REAL))
    sums = np.stack([statistics.sum(axis=0), statistics[:2].sum(axis=0)])
    together = bleu.reduce(sums, np.array([5.0, 2.0]))
    assert together == pytest.approx(
        np.stack([bleu.value(statistics), bleu.value(statistics[:2])]), abs=1e-15
    )
