"""Memory of this machine: how much is left, and that what one training step frees is what the next one needs."""

import ctypes
import os
import sys
from pathlib import Path

import psutil

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""

_LARGEST_BLOCK = 32 * 2**20
"""Bytes up to which glibc lets a block come from its heap (HEAP_MAX_SIZE / 2); larger ones go back to the system."""

_KEPT = 2**30
"""Free bytes at the end of the heap from which on they are given back."""

_PERSON_DECIDES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB of freed memory of this process; whether it does.

    By itself glibc returns activations to the system at each step and fetches them anew, page by page: in the
    quickstart's step 5,000 page faults and a tenth of the CPU time. Where the person has set malloc by the environment,
    or the C library is another one, nothing is changed.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _PERSON_DECIDES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where Linux tells what a container may use, and what it uses (cgroups 2 and 1)."""


def free_bytes() -> int:
    """Bytes that processes can still have: of the machine, or of the container where that is less."""
    free = int(psutil.virtual_memory().available)
    for most, used in _LIMITS:
        try:
            free = min(free, int(Path(most).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # not there, or no limit
            continue
    return max(0, free)


def own_bytes() -> int:
    """Bytes that this process has in memory."""
    return int(psutil.Process().memory_info().rss)


def total_bytes() -> int:
    """Bytes of memory that the machine has."""
    return int(psutil.virtual_memory().total)
