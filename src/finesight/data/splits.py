"""Parts of the training data taken out for validation or test, without leaks between groups."""

from collections.abc import Sequence

import numpy as np

from finesight.core.errors import DataError
from finesight.data.order import generator


def split_groups(groups: Sequence[str], share: float, seed: int, purpose: str) -> np.ndarray:
    """Mask (N,) of the samples taken out: whole groups, drawn at random until `share` of the samples is reached.

    A pure function of the group names, `share`, `seed` and `purpose` (`val`, `test`); not of the rows' order.
    """
    names, counts = np.unique(np.asarray(groups, dtype=object), return_counts=True)
    drawn = generator("split", purpose, seed).permutation(len(names))
    wanted = share * len(groups)
    # taking one more group must bring the count nearer to the share that was asked for
    reached = np.cumsum(counts[drawn])
    number = int(np.argmin(np.abs(np.concatenate([[0], reached]) - wanted)))
    number = min(max(number, 1), len(names) - 1)
    if len(names) < 2:
        raise DataError(
            f"all samples are of one group (`{names[0] if len(names) else ''}`), so none can be set apart",
            f"data.{purpose}.split",
            "name another `group` column, or give a source of its own",
        )
    taken = set(names[drawn[:number]])
    return np.fromiter((group in taken for group in groups), dtype=bool, count=len(groups))
