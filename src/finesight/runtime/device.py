"""Where it computes."""

from typing import Literal

import torch

from finesight.core.errors import RecipeError
from finesight.runtime.environment import cores
from finesight.runtime.memory import keep_freed_memory
from finesight.runtime.notices import Notices
from finesight.runtime.ranks import Place

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(
    asked: DeviceName,
    notices: Notices,
    threads: int | None = None,
    workers: int = 0,
    place: Place | None = None,
) -> torch.device:
    """The device of the recipe; `auto` takes CUDA, else an Apple GPU, else the CPU, and says so.

    `threads` sets the threads of a CPU run; where absent, each of the `workers` that prepare data gets a core. Of
    several processes on this machine, `place` says which one this is: each has its own GPU, or its part of the cores.
    Raises RecipeError where the device asked for is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        name = next(name for name in ("cuda", "mps", "cpu") if there[name])
    elif there[asked]:
        name = asked
    else:
        have = ", ".join(name for name, works in there.items() if works)
        raise RecipeError(
            f"there is no {asked} device",
            "run.device",
            f"use one of: auto, {have}; `finesight doctor` tells more",
        )
    if threads is not None:
        torch.set_num_threads(threads)
    elif name == "cpu":  # threads that wait for a core shared with a worker hold up all others
        own = cores() // (place.local_size if place else 1) - workers
        torch.set_num_threads(max(1, min(torch.get_num_threads(), own)))
    if name == "cpu":
        keep_freed_memory()
    if asked == "auto" and name == "cpu":
        threads = torch.get_num_threads()
        told = f"{threads} thread{'s' if threads > 1 else ''}"
        notices.add("device", f"no GPU was found: it computes on the CPU with {told}")
    return torch.device(name, place.local_rank) if place and name == "cuda" else torch.device(name)


def peak_bytes(device: torch.device) -> int:
    """Most memory that was in use: of the device's allocator, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
