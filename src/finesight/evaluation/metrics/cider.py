"""CIDEr-D on the scale of pycocoevalcap, whose "CIDEr" it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finesight.core.prediction import Prediction
from finesight.evaluation.metrics.contract import Metric, mean
from finesight.evaluation.metrics.ngrams import Captions, Counts, counted, find

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ORDERS = 4
SIGMA = 6.0


def cider_d(captions: Captions) -> "Floats":
    """CIDEr-D of each item, shape (items,), 0–10.

    Vedantam et al., 2015 (https://arxiv.org/abs/1411.5726), as pycocoevalcap computes it: for n = 1 … 4 the
    cosine of the tf-idf vectors of candidate and reference, the candidate's weights clipped to the
    reference's, times exp(−(difference in length)² / (2 · 6²)); averaged over n and references, times 10. A
    length counts bigrams; the document frequency of an n-gram is the number of items of which a reference
    holds it, at least 1. With one item, or where every item has the same references, all weights and
    therefore all scores are 0.
    """
    import numpy as np

    owners = captions.owners()
    lengths, reference_lengths = (np.maximum(words - 1, 0) for words in captions.lengths())
    cosines = np.zeros(len(owners))
    for candidate, reference in counted(captions, ORDERS):
        cosines += _cosines(candidate, reference, owners, len(lengths))
    apart = lengths[owners] - reference_lengths
    cosines *= np.exp(-(apart**2) / (2 * SIGMA**2))
    sums = np.bincount(owners, cosines, minlength=len(lengths))
    return np.asarray(10 * sums / (ORDERS * np.bincount(owners, minlength=len(lengths))))


def _cosines(candidate: Counts, reference: Counts, owners: "npt.NDArray[np.int64]", items: int) -> "Floats":
    """The clipped cosine of each reference text with its candidate, for one n; 0 where a vector is 0."""
    import numpy as np

    holders = np.unique(reference.key) % reference.grams
    frequency = np.bincount(holders, minlength=reference.grams)
    rarity = np.log(items / np.maximum(frequency, 1))
    weight = candidate.count * rarity[candidate.gram]
    reference_weight = reference.count * rarity[reference.gram]
    place, found = find(candidate.key, reference.key)
    shared = np.minimum(weight[place[found]], reference_weight[found]) * reference_weight[found]
    dot = np.bincount(reference.text[found], shared, minlength=len(owners))
    norm = np.sqrt(np.bincount(candidate.text, weight**2, minlength=items))
    reference_norm = np.sqrt(np.bincount(reference.text, reference_weight**2, minlength=len(owners)))
    norms = norm[owners] * reference_norm
    return np.asarray(np.divide(dot, norms, out=np.zeros(len(owners)), where=norms > 0))


def _statistics(predictions: Sequence[Prediction]) -> "Floats":
    return cider_d(Captions.of(predictions))[:, None]


CIDER = Metric(("cider",), 1, _statistics, mean)
"""Mean CIDEr-D over items, 0–10, with the document frequencies of the whole table's references."""
