"""ROUGE-L as coco-caption computes it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finesight.core.prediction import Prediction
from finesight.evaluation.metrics.contract import Metric, mean
from finesight.evaluation.metrics.ngrams import Captions, Tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

BETA = 1.2


def common_subsequence(first: Tokens, second: Tokens) -> int:
    """Length in words of the longest common subsequence.

    Bit-parallel: the bits of a whole number hold one row of the table of lengths (Hyyrö, 2004, "Bit-parallel
    LCS-length computation revisited"); a zero bit stands where the length grows.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & places.get(word, 0)
        row = (row + match | row - match) & full
    return len(first) - row.bit_count()


def rouge_l(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L of one candidate, 0–1 (Lin, 2004, https://aclanthology.org/W04-1013).

    (1 + β²) P R / (R + β² P) with β = 1.2, where P is the largest share of the candidate's words that a
    longest common subsequence with a reference covers, and R the largest share of a reference's words; they
    may come from two references. An empty text counts as one empty word, as in coco-caption, so that it
    equals an empty one.
    """
    answer = candidate or ("",)
    texts = [text or ("",) for text in references]
    common = [common_subsequence(answer, text) for text in texts]
    precision = max(common) / len(answer)
    recall = max(shared / len(text) for shared, text in zip(common, texts, strict=True))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _statistics(predictions: Sequence[Prediction]) -> "Floats":
    import numpy as np

    captions = Captions.of(predictions)
    pairs = zip(captions.candidates, captions.references, strict=True)
    return np.array([[rouge_l(candidate, texts)] for candidate, texts in pairs]).reshape(len(predictions), 1)


ROUGE_L = Metric(("rouge_l",), 1, _statistics, mean)
"""Mean ROUGE-L over items, 0–1."""
