"""Memory that one training step frees is what the next one needs."""

import ctypes
import os
import sys

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
