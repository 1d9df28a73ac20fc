"""Score a prediction table alone: no model, no data, no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finesight.evaluation.debug import DebugRow
from finesight.evaluation.debug import debug_rows as rows_of
from finesight.evaluation.score import score
from finesight.evaluation.table import read, results_document
from finesight.runtime.files import write_json


def score_table(
    predictions: Path, metrics: Sequence[str], out: Path | None = None, split: str | None = None
) -> dict[str, Any]:
    """Score a prediction table and write `results.json` into `out`, else beside the table; returns the document."""
    table = read(predictions)
    document = results_document(score(table, metrics, split or predictions.stem), [])
    place = (out or predictions.parent) / "results.json"
    write_json(place, document)
    return {**document, "results": str(place)}


def debug_rows(predictions: Path, count: int) -> list[DebugRow]:
    """The first `count` comparisons of a table, with original and normalised texts."""
    return rows_of(read(predictions), count)
