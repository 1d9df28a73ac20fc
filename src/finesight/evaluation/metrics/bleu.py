"""Corpus BLEU with coco-caption's words, reference length and smoothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finesight.core.prediction import Prediction
from finesight.evaluation.metrics.contract import Metric
from finesight.evaluation.metrics.ngrams import Captions, counted, find

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ORDERS = 4
# coco-caption's guards: a precision is (matches + TINY) / (n-grams + SMALL), the length ratio likewise.
TINY, SMALL = 1e-15, 1e-9


def bleu_statistics(captions: Captions) -> "Floats":
    """What corpus BLEU sums, shape (items, 10).

    Columns: matched n-grams for n = 1 … 4, each clipped to the most that one reference has of it; all n-grams
    of the candidate for n = 1 … 4; words of the candidate; words of the reference closest in length, the
    shorter of two that are equally close.
    """
    import numpy as np

    lengths, reference_lengths = captions.lengths()
    columns = np.zeros((len(lengths), 2 * ORDERS + 2))
    for n, (candidate, reference) in enumerate(counted(captions, ORDERS), 1):
        order = np.argsort(reference.key, kind="stable")
        keys, starts = np.unique(reference.key[order], return_index=True)
        most = np.maximum.reduceat(reference.count[order], starts) if len(keys) else reference.count
        place, found = find(keys, candidate.key)
        matched = np.minimum(candidate.count[found], most[place[found]])
        columns[:, n - 1] = np.bincount(candidate.item[found], matched, minlength=len(lengths))
        columns[:, ORDERS + n - 1] = np.maximum(lengths - n + 1, 0)
    columns[:, -2] = lengths
    owners = captions.owners()
    far = np.abs(reference_lengths - lengths[owners])
    by_distance = np.lexsort((reference_lengths, far, owners))
    _, first = np.unique(owners[by_distance], return_index=True)
    columns[:, -1] = reference_lengths[by_distance][first]
    return columns


def _statistics(predictions: Sequence[Prediction]) -> "Floats":
    return bleu_statistics(Captions.of(predictions))


def bleu_reduce(sums: "Floats", counts: "Floats") -> "Floats":
    """BLEU-1 … BLEU-4 of summed statistics: shape (..., 10) to (..., 4), each 0–1.

    Papineni et al., 2002 (https://aclanthology.org/P02-1040): the geometric mean of the n-gram precisions,
    times exp(1 − reference length / candidate length) where the candidates are shorter in all. Where no
    candidate has n words, coco-caption's guards make that precision 1e-6: BLEU-n is small there, but not 0.
    """
    import numpy as np

    precision = (sums[..., :ORDERS] + TINY) / (sums[..., ORDERS : 2 * ORDERS] + SMALL)
    means = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (sums[..., -2] + TINY) / (sums[..., -1] + SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return np.asarray(means * brevity[..., None])


BLEU = Metric(tuple(f"bleu_{n}" for n in range(1, ORDERS + 1)), 2 * ORDERS + 2, _statistics, bleu_reduce)
"""`bleu_1` … `bleu_4` of the table as one corpus, 0–1."""
