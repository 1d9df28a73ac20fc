"""What happens where memory does not suffice: it is told with its numbers, or the step is made in smaller parts."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finesight.core.batch import Batch
from finesight.core.errors import TrainingError
from finesight.runtime.memory import free_bytes, own_bytes, total_bytes

_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "alloc_failed",
)
"""What errors of the CPU's allocator, of CUDA's libraries and of Apple's GPUs say, which are plain RuntimeErrors."""


class OutOfMemory(TrainingError):
    """Memory did not suffice in a `step` for a micro-batch of so many `samples` and `positions`, padding among them."""

    step = 0
    samples = 0
    positions = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def memory_of(device: torch.device) -> dict[str, int]:
    """Bytes of memory that this process has `allocated` on a device, and that are `free` and there in `total`."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return {"allocated": torch.cuda.memory_allocated(device), "free": free, "total": total}
    return {"allocated": own_bytes(), "free": free_bytes(), "total": total_bytes()}


def out_of_memory(batch: Batch | None, device: torch.device, step: int) -> OutOfMemory:
    """The error of a step for which memory did not suffice while it computed `batch` (None: in its update)."""
    where, mend = f"step {step}", "use a smaller model, `adapter`, or another `train.optimizer`"
    what = f"memory does not suffice for the update of the weights: {told_memory(device)}"
    if batch is not None:
        named = ", ".join(batch.ids[:8]) + (", …" if len(batch.ids) > 8 else "")
        where = f"step {step}, a micro-batch of the samples {named}"
        what = f"memory does not suffice for {sizes(batch)}: {told_memory(device)}"
        mend = (
            "lower `train.micro_batch` or `train.micro_tokens` (which --resume takes), let "
            "`train.on_oom: shrink` do so, or set `train.gradient_checkpointing: true`, `data.max_tokens`"
        )
    error = OutOfMemory(what, where, mend)
    error.step = step
    if batch is not None:
        error.samples, error.positions = len(batch.ids), batch.positions
    return error


def no_room_for_data(device: torch.device, step: int) -> OutOfMemory:
    """The error of a step whose samples did not fit beside what is there; none of it was computed."""
    what = f"memory does not suffice for the samples of the next steps: {told_memory(device)}"
    return OutOfMemory(what, f"step {step}", "use fewer `data.workers`, smaller pictures, or a smaller model")


def sizes(batch: Batch) -> str:
    """How large a micro-batch is."""
    longest = max(batch.segments) if batch.segments else batch.targets.shape[1]
    count = len(batch.ids)
    samples = f"{count} sample{'s' if count > 1 else ''}"
    tokens = f"{batch.tokens:,} tokens ({batch.positions:,} positions), the longest {longest:,}"
    return f"a micro-batch of {samples} with {tokens}"


def told_memory(device: torch.device) -> str:
    """The memory of a device in words."""
    has = memory_of(device)
    free = f"{has['free']:,} bytes are free of {has['total']:,}"
    return f"on {device} this process has {has['allocated']:,} bytes, {free}"


@contextmanager
def computed_in_memory(batch: Batch, device: torch.device, step: int) -> Iterator[None]:
    """Around a forward and backward pass: where memory does not suffice for it, OutOfMemory is raised."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return
    raise out_of_memory(batch, device, step)  # where the error is gone, and with it what it holds


@contextmanager
def measured_in_memory(device: torch.device, what: str) -> Iterator[None]:
    """Around a part of an evaluation: where memory does not suffice for it, this is told with the numbers."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        text = f"memory does not suffice for {what}: {told_memory(device)}"
    else:
        return
    raise OutOfMemory(
        text, "evaluation.batch_size", "lower it (--resume takes that), or `generation.max_new_tokens`"
    )


def give_back(device: torch.device) -> None:
    """Free what a broken-off step has left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
