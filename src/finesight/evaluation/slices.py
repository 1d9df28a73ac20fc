"""Parts of a prediction table: all of it, and one for each value of each tag."""

from collections.abc import Sequence
from dataclasses import dataclass

from finesight.core.prediction import Prediction


@dataclass(frozen=True)
class Slice:
    """Some rows of a table: `name` is `all` or `tag=value`, `rows` their numbers from 0, ascending."""

    name: str
    rows: Sequence[int]


def slices(predictions: Sequence[Prediction]) -> list[Slice]:
    """`all`, then one slice a tag value, ordered by tag and value and not by the order of the rows.

    A row without a tag is in none of that tag's slices. No slice is empty unless the table is.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for number, item in enumerate(predictions):
        for pair in item.tags.items():
            rows.setdefault(pair, []).append(number)
    tagged = [Slice(f"{tag}={value}", rows[tag, value]) for tag, value in sorted(rows)]
    return [Slice("all", range(len(predictions))), *tagged]
