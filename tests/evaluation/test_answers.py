"""Exact match and token F1 against SQuAD v1.1's definition, written anew from its description."""

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finesight.evaluation.metrics import METRICS
from finesight.evaluation.metrics.exact_match import matches, matches_strict
from finesight.evaluation.metrics.token_f1 import token_f1

WORDS = st.sampled_from(["the", "a", "An", "red", "Red.", "cat", "cat's", "theme", "dog,", "-", "U.S.", "é"])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join) | st.text("aAnteh .-_1é\u00a0", max_size=9)
REFERENCES = st.lists(TEXTS, min_size=1, max_size=4)


def words_of(text: str) -> list[str]:
    """Words by hand: lower case, no ASCII punctuation, runs of word characters that are articles blanked."""
    kept = [sign for sign in text.lower() if sign not in string.punctuation]
    out, run = "", ""
    for sign in [*kept, " "]:
        if sign.isalnum() or sign == "_":
            run += sign
        else:
            out += (" " if run in ("a", "an", "the") else run) + sign
            run = ""
    return out.split()


def f1_of(prediction: str, reference: str) -> float:
    mine, theirs = words_of(prediction), words_of(reference)
    shared, left = 0, list(theirs)
    for word in mine:
        if word in left:
            left.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(mine), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None, max_examples=150)
@given(TEXTS, REFERENCES)
def test_equal_to_the_definition(prediction: str, references: list[str]) -> None:
    exact = any(words_of(prediction) == words_of(reference) for reference in references)
    assert matches(prediction, references) == exact
    assert token_f1(prediction, references) == pytest.approx(
        max(f1_of(prediction, reference) for reference in references), abs=1e-12
    )
    assert matches_strict(prediction, references) == any(prediction == reference for reference in references)


@pytest.mark.parametrize(
    ("prediction", "references", "normalised", "strict", "f1"),
    [
        ("The Cat.", ["cat"], True, False, 1.0),
        ("cat", ["dog", "cat"], True, True, 1.0),
        ("red cat", ["a red dog"], False, False, 0.5),
        ("cat cat", ["cat"], False, False, 2 / 3),
        ("", ["cat"], False, False, 0.0),
        ("A", ["the"], True, False, 0.0),  # nothing is left of either: v1.1's F1 is 0 there
        ("cat ", ["cat"], True, False, 1.0),
    ],
)
def test_by_hand(prediction: str, references: list[str], normalised: bool, strict: bool, f1: float) -> None:
    assert matches(prediction, references) is normalised
    assert matches_strict(prediction, references) is strict
    assert token_f1(prediction, references) == pytest.approx(f1)


def test_means_over_items(item) -> None:
    table = [item("1", "cat", ["cat"]), item("2", "Cat", ["cat"]), item("3", "red cat", ["cat"])]
    for key, value in {
        "exact_match": 2 / 3,
        "exact_match_strict": 1 / 3,
        "token_f1": (2 + 2 / 3) / 3,
    }.items():
        statistics = METRICS[key].statistics(table)
        assert statistics.shape == (3, 1) and statistics.dtype == np.float64
        assert METRICS[key].value(statistics) == pytest.approx([value])
