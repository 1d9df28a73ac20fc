"""Token F1: how far the words of prediction and reference overlap."""

from collections import Counter
from collections.abc import Sequence

from finesight.evaluation.metrics.contract import mean_of
from finesight.evaluation.normalise import squad_normalise


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """SQuAD v1.1's F1 (Rajpurkar et al., 2016), the best over the references, 0–1.

    Prediction and reference are bags of the words of their normalised texts; precision and recall count the
    words they share, each as often as both have it; F1 is their harmonic mean, and 0 where no word is shared,
    so also where both are empty.
    """
    answer = Counter(squad_normalise(prediction).split())
    return max(_f1(answer, Counter(squad_normalise(reference).split())) for reference in references)


def _f1(answer: Counter[str], reference: Counter[str]) -> float:
    shared = (answer & reference).total()
    return 2 * shared / (answer.total() + reference.total()) if shared else 0.0


TOKEN_F1 = mean_of("token_f1", token_f1)
"""Mean F1 over items, 0–1."""
