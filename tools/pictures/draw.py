"""Which countries are held out: the draw of many whose answers are most like those of all countries.

One random draw of forty countries is a poor sample of a rare colour: ten flags show orange, and a draw can hold
out six of them, or none. So ``DRAWS`` draws are made, and the one is taken whose counts of each colour, and of
answers with one colour, two, three…, are nearest to their share of all countries (the chi-square distance). No
model has a say in it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

DRAWS = 1000
TEST, VALIDATION = 40, 10
"""Countries for testing and for validation."""

LARGEST_GROUP = 3
"""Larger groups of look-alikes, such as the eleven blue ensigns, stay in training: one would fill the sample."""

Sides = dict[str, frozenset[str]]


def held_out(groups: list[list[str]], answers: dict[str, str]) -> Sides:
    """Codes of the ``test`` and of the ``val`` countries.

    ``groups`` are the codes of all countries, those that look alike together; ``answers`` maps a code to its
    colours, such as ``"red, white"``.
    """
    draws = [draw(groups, seed) for seed in range(DRAWS)]
    return min(draws, key=lambda sides: distance(sides["test"], answers))


def draw(groups: list[list[str]], seed: int) -> Sides:
    """Shuffle the groups and take them in turn while they fit, first for testing, then for validation."""
    order = sorted(group for group in groups if len(group) <= LARGEST_GROUP)
    random.Random(seed).shuffle(order)
    test: list[str] = []
    validation: list[str] = []
    for group in order:
        if len(test) + len(group) <= TEST:
            test += group
        elif len(validation) + len(group) <= VALIDATION:
            validation += group
    return {"test": frozenset(test), "val": frozenset(validation)}


def distance(chosen: Iterable[str], answers: dict[str, str]) -> float:
    """Chi-square distance between the chosen countries' colours and numbers of colours and those of all."""
    codes = sorted(chosen)
    all_counts, counts = _traits(answers.values()), _traits(answers[code] for code in codes)
    expected = {trait: count * len(codes) / len(answers) for trait, count in all_counts.items()}
    return sum((counts[trait] - share) ** 2 / share for trait, share in expected.items())


def _traits(answers: Iterable[str]) -> Counter[str | int]:
    return Counter(trait for answer in answers for trait in (*answer.split(", "), len(answer.split(", "))))
