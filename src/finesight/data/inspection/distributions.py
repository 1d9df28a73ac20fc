"""Distributions of what a survey found, in numbers that a table and a page can show."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from finesight.data.inspection.survey import Survey

PERCENTILES: Final = (1, 5, 25, 50, 75, 95, 99)
BARS: Final = 24
"""Bars of a histogram at most."""


def percentiles(values: np.ndarray) -> dict[str, float]:
    """Least, percentiles (the nearest rank, so each is one of them) and most of some numbers; empty where none is."""
    if not len(values):
        return {}
    ranks = np.percentile(values, PERCENTILES, method="inverted_cdf")
    found = {"min": values.min(), **dict(zip((f"p{rank}" for rank in PERCENTILES), ranks, strict=True))}
    return {name: np.asarray(value).item() for name, value in (found | {"max": values.max()}).items()}


def histogram(values: np.ndarray) -> dict[str, list[int]]:
    """Counts of whole numbers in bars of equal width: bar k holds those from edge k to below edge k + 1."""
    low, high = int(values.min()), int(values.max()) + 1
    width = -(-(high - low) // BARS)
    edges = np.arange(low, high + width, width)
    counts, _ = np.histogram(values, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def token_figures(tokens: np.ndarray, supervised: np.ndarray) -> dict[str, Any]:
    """What `summary.json` says of tokens (N,) and of those that are learned from (N,)."""
    total, learned = int(tokens.sum()), int(supervised.sum())
    lengths = {"total": total, "mean": round(total / len(tokens), 2), **percentiles(tokens)} if total else {}
    return {
        "tokens": lengths,
        "supervised_tokens": learned,
        "supervised_share": round(learned / total, 6) if total else 0.0,
        "lengths": histogram(tokens) if total else {"edges": [], "counts": []},
    }


def picture_figures(survey: Survey) -> dict[str, Any]:
    """What `summary.json` says of pictures: how many, their sizes in pixels, and width to height."""
    aspect = np.round(survey.widths / np.maximum(survey.heights, 1), 4)
    sizes: Mapping[str, np.ndarray] = {"width": survey.widths, "height": survey.heights, "aspect": aspect}
    each = survey.pictures
    return {
        "count": len(survey.widths),
        "samples_without": int((each == 0).sum()),
        "samples_with_several": int((each > 1).sum()),
        **{name: percentiles(values) for name, values in sizes.items()},
    }
