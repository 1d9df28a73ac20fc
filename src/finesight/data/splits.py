"""Parts of the training data taken out for validation or test, without leaks between groups."""

from collections.abc import Sequence

import numpy as np

from finesight.core.errors import DataError
from finesight.data.loading.order import generator


def split_groups(groups: Sequence[str] | np.ndarray, share: float, seed: int, purpose: str) -> np.ndarray:
    """Mask (N,) of the samples taken out: whole groups, one after another in random order.

    A group is taken where it brings the count nearer to `share` of the samples, so that a large one is not; at least
    one group is taken, and one left. A pure function of the groups (their names or hashes), `share`, `seed` and
    `purpose` (`val`, `test`); not of the rows' order.
    """
    _, number, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise DataError(
            "all samples are of one group, so none can be set apart",
            f"data.{purpose}.split",
            "name another `group` column, or give a source of its own",
        )
    drawn = generator("split", purpose, seed).permutation(len(counts))
    taken = np.zeros(len(counts), dtype=bool)
    wanted, held, most = share * len(number), 0, len(counts) - 1
    for group, size in zip(drawn.tolist(), counts[drawn].tolist(), strict=True):
        if held + size / 2 <= wanted and most:
            taken[group] = True
            held, most = held + size, most - 1
    if not held:
        taken[drawn[np.argmin(counts[drawn])]] = True
    return np.asarray(taken[number])
