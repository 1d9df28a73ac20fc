"""Exact match: the share of predictions that equal one of their references."""

from collections.abc import Sequence

from finesight.evaluation.metrics.contract import mean_of
from finesight.evaluation.normalise import squad_normalise


def matches(prediction: str, references: Sequence[str]) -> bool:
    """Whether the prediction equals a reference after SQuAD's normalisation.

    SQuAD v1.1's exact match (Rajpurkar et al., 2016): the best over the references. Two texts of which the
    normalisation leaves nothing ("A" and "the") are equal; where that matters, use `matches_strict`.
    """
    answer = squad_normalise(prediction)
    return any(squad_normalise(reference) == answer for reference in references)


def matches_strict(prediction: str, references: Sequence[str]) -> bool:
    """Whether the prediction equals a reference character for character, case and white space included."""
    return prediction in references


EXACT_MATCH = mean_of("exact_match", matches)
"""Share of items that match after normalisation, 0–1."""

EXACT_MATCH_STRICT = mean_of("exact_match_strict", matches_strict)
"""Share of items that match as the texts stand, 0–1."""
