"""Which of several processes this is, as `torchrun` tells each by its environment; without torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Number `rank` of `size` processes; number `local_rank` of the `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def place_of_process() -> Place:
    """What the launcher said; one process where nothing started several."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, size, local, beside = (os.environ.get(name) for name in names)
    if rank is None or size is None:
        return Place()
    return Place(int(rank), int(size), int(local or rank), int(beside or size))
