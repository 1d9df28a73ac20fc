"""Answers beside the truth: right or wrong, and which words differ."""

import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from finesight.core.prediction import Prediction

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = {"a", "an", "the"}
_SMALL_WORDS = {"and", "or", "of", "in", "on", "at", "with", "to", "is", "are", "by", "it", "its", "for"}


@dataclass(frozen=True)
class Piece:
    """A run of words that is the same on the other side, or is not."""

    text: str
    same: bool


@dataclass(frozen=True)
class Card:
    """One answer as the page shows it. `picture` is a file, or None."""

    sample: Prediction
    right: bool
    answer: Sequence[Piece]
    truth: Sequence[Piece]
    more: int
    picture: Path | None


def key(word: str) -> str:
    """What a word counts as: without case and punctuation; nothing for an article."""
    bare = word.lower().translate(_NO_PUNCTUATION)
    return "" if bare in _ARTICLES else bare


def keys(text: str) -> list[str]:
    """The words of a text that count."""
    return [bare for word in text.split() if (bare := key(word))]


def is_right(sample: Prediction) -> bool:
    """Whether the answer equals a reference but for case, punctuation and articles."""
    return any(keys(sample.prediction) == keys(reference) for reference in sample.references)


def card(sample: Prediction, picture: Path | None) -> Card:
    """An answer beside the reference that is closest to it; `more` counts the other references."""
    words = keys(sample.prediction)
    closest = max(sample.references, key=lambda text: _alike(words, keys(text)), default="")
    answer, truth = _pieces(sample.prediction, closest)
    others = {text for text in sample.references if text != closest}
    return Card(sample, is_right(sample), answer, truth, len(others), picture)


def choose(rows: Sequence[Prediction], pictures: Mapping[str, Path], limit: int) -> list[Card]:
    """At most `limit` answers, as many right as wrong where there are both; those with pictures where there are any."""
    shown = [row for row in rows if row.id in pictures] or rows
    right = [row for row in shown if is_right(row)]
    wrong = [row for row in shown if not is_right(row)]
    half = max(limit // 2, limit - len(right))
    taken = {id(row) for row in wrong[:half] + right[: limit - min(half, len(wrong))]}
    return [card(row, pictures.get(row.id)) for row in shown if id(row) in taken]


def confusions(
    rows: Iterable[Prediction], most: int = 6
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The words most often missed, and most often said wrongly, each with the number of answers."""
    missed, added = Counter[str](), Counter[str]()
    for row in rows:
        if is_right(row) or not row.references:
            continue
        said, true = set(keys(row.prediction)), set(keys(row.references[0]))
        missed.update(true - said - _SMALL_WORDS)
        added.update(said - true - _SMALL_WORDS)
    return _top(missed, most), _top(added, most)


def _top(words: Counter[str], most: int) -> list[tuple[str, int]]:
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))[:most]


def _match(first: Sequence[str], second: Sequence[str]) -> SequenceMatcher[str]:
    return SequenceMatcher(None, first, second, autojunk=False)


def _alike(first: Sequence[str], second: Sequence[str]) -> tuple[int, float]:
    """Words in common, in order; among equals the share of them."""
    match = _match(first, second)
    return sum(block.size for block in match.get_matching_blocks()), match.ratio()


def _pieces(answer: str, truth: str) -> tuple[list[Piece], list[Piece]]:
    both = _match(keys(answer), keys(truth)).get_matching_blocks()
    return (
        _marked(answer, {at for block in both for at in range(block.a, block.a + block.size)}),
        _marked(truth, {at for block in both for at in range(block.b, block.b + block.size)}),
    )


def _marked(text: str, same: set[int]) -> list[Piece]:
    """The words in runs; `same` holds the positions, among the words that count, of those on both sides."""
    runs: list[tuple[list[str], bool]] = []
    at = 0
    for word in text.split():
        alike = not key(word) or at in same
        at += bool(key(word))
        if not runs or runs[-1][1] != alike:
            runs.append(([], alike))
        runs[-1][0].append(word)
    return [Piece(" ".join(words), alike) for words, alike in runs]
