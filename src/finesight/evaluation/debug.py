"""What a comparison of texts saw: the first predictions before and after normalisation, with the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from finesight.core.prediction import Prediction
from finesight.evaluation.metrics.exact_match import matches, matches_strict
from finesight.evaluation.normalise import squad_normalise


@dataclass(frozen=True)
class DebugRow:
    """One prediction as `exact_match` saw it.

    `normalised` texts are those that `exact_match` compares, references in their order; `match` and
    `match_strict` are the verdicts of `exact_match` and `exact_match_strict`.
    """

    id: str
    origin: str
    prediction: str
    normalised: str
    references: tuple[str, ...]
    normalised_references: tuple[str, ...]
    match: bool
    match_strict: bool


def debug_rows(predictions: Sequence[Prediction], limit: int) -> list[DebugRow]:
    """The first `limit` predictions in their order. One without references matches nothing."""
    return [
        DebugRow(
            id=item.id,
            origin=item.origin,
            prediction=item.prediction,
            normalised=squad_normalise(item.prediction),
            references=item.references,
            normalised_references=tuple(map(squad_normalise, item.references)),
            match=matches(item.prediction, item.references),
            match_strict=matches_strict(item.prediction, item.references),
        )
        for item in predictions[:limit]
    ]
