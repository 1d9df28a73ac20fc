"""What all processes know of a step before its first backward pass."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from finesight.core.batch import Batch

_MEDIA = ("pixel_values", "input_features")
"""How inputs of a model begin that are pictures or sounds."""


def shows(batch: Batch) -> bool:
    """Whether a batch has pictures or sounds, so that the towers which see or hear them compute."""
    return any(name.startswith(_MEDIA) for name in batch.inputs)


@dataclass(frozen=True)
class Agreed:
    """One step over all processes: its samples, tokens, supervised tokens and positions (padding among them), and the
    most micro-batches that one process has of those with pictures or sounds (`shown`) and of the others (`read`)."""

    samples: int
    tokens: int
    supervised: int
    positions: int
    shown: int
    read: int
    ids: tuple[str, ...]


def facts_of(window: Sequence[Batch]) -> dict[str, Any]:
    """What a process says of its share of a step."""
    shown = sum(map(shows, window))
    return {
        "tokens": sum(batch.tokens for batch in window),
        "supervised": sum(batch.supervised for batch in window),
        "positions": sum(batch.positions for batch in window),
        "shown": shown,
        "read": len(window) - shown,
        "ids": [name for batch in window for name in batch.ids],
    }


def agreed(shares: Iterable[Mapping[str, Any]]) -> Agreed:
    """A whole step from what each process says; ids as they were dealt, one to each process in turn."""
    shares = list(shares)
    dealt = chain.from_iterable(zip_longest(*(share["ids"] for share in shares)))
    ids = tuple(name for name in dealt if name is not None)
    return Agreed(
        samples=len(ids),
        tokens=sum(share["tokens"] for share in shares),
        supervised=sum(share["supervised"] for share in shares),
        positions=sum(share["positions"] for share in shares),
        shown=max(share["shown"] for share in shares),
        read=max(share["read"] for share in shares),
        ids=ids,
    )
