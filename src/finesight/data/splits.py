"""Parts of the training data taken out for validation or test, without leaks between groups."""

from collections.abc import Sequence

import numpy as np

from finesight.core.errors import DataError
from finesight.data.order import generator


def split_groups(groups: Sequence[str], share: float, seed: int, purpose: str) -> np.ndarray:
    """Mask (N,) of the samples taken out: whole groups, one after another in random order.

    A group is taken where it brings the count nearer to `share` of the samples, so that a large one is not; at least
    one group is taken, and one left. A pure function of the group names, `share`, `seed` and `purpose` (`val`,
    `test`); not of the rows' order.
    """
    names, counts = np.unique(np.asarray(groups, dtype=object), return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"all samples are of one group (`{names[0] if len(names) else ''}`), so none can be set apart",
            f"data.{purpose}.split",
            "name another `group` column, or give a source of its own",
        )
    drawn = generator("split", purpose, seed).permutation(len(names))
    wanted, held = share * len(groups), 0
    taken: set[str] = set()
    for number in drawn.tolist():
        size = int(counts[number])
        if held + size / 2 <= wanted and len(taken) < len(names) - 1:
            taken.add(names[number])
            held += size
    if not taken:
        taken.add(names[int(drawn[np.argmin(counts[drawn])])])
    return np.fromiter((group in taken for group in groups), dtype=bool, count=len(groups))
