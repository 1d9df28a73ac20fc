"""What all processes know of a step before its first backward pass."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, zip_longest
from operator import or_
from typing import Any

from finesight.core.batch import Batch

_MEDIA = {"pixel_values": "pictures", "input_features": "sounds"}
"""What inputs of a model are whose names begin so."""


def kind_of(inputs: Iterable[str]) -> str:
    """Which towers compute for inputs of these names: `pictures`, `sounds`, both (`pictures+sounds`), or none (``)."""
    found = {kind for name in inputs for begin, kind in _MEDIA.items() if name.startswith(begin)}
    return "+".join(sorted(found))


@dataclass(frozen=True)
class Agreed:
    """One step over all processes: its samples, tokens, supervised tokens and positions (padding among them), and of
    each kind (as `kind_of` says) the `most` micro-batches that one process has."""

    samples: int
    tokens: int
    supervised: int
    positions: int
    most: Mapping[str, int]
    ids: tuple[str, ...]


def facts_of(window: Sequence[Batch]) -> dict[str, Any]:
    """What a process says of its share of a step."""
    return {
        "tokens": sum(batch.tokens for batch in window),
        "supervised": sum(batch.supervised for batch in window),
        "positions": sum(batch.positions for batch in window),
        "kinds": Counter(kind_of(batch.inputs) for batch in window),
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
        most=reduce(or_, (Counter(share["kinds"]) for share in shares)),
        ids=ids,
    )
