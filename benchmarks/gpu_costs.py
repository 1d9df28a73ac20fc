"""What a training loop costs on a GPU: seconds of whole passes, memory, FLOPs, and a profile of a few steps."""

import contextlib
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.ticks import Finished
from finesight.core.batch import Example

_WARM = 2
"""Passes that are not timed: kernels are chosen and memory is found."""
_PROFILED = 4
"""Steps under torch.profiler, after all that is timed."""
_ROWS = 15
"""Operations that a profile names."""

PARTS = {
    "matrix products": ("mm", "addmm", "bmm", "matmul", "linear", "convolution"),
    "attention": ("attention", "attn", "flash"),
    "optimizer": ("adam", "foreach", "clip_grad"),
    "copies": ("copy", "memcpy", "memset", "cat", "index", "gather", "contiguous", "embedding", "nonzero"),
}
"""Parts of a profile by what is in an operation's name; all others are `other`."""


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def flops_of(model: nn.Module, examples: Sequence[Example]) -> float:
    """FLOPs that a pass needs: 6 for each token and each weight that multiplies it, and of causal attention 6 · layers
    · width · T² (of an encoder's twice that), as PaLM counts them (https://arxiv.org/abs/2204.02311, appendix B).

    Neither padding nor anything computed twice is useful; the output embeddings count for every token, as they do
    for all who report MFU, though one may do without.
    """
    config: Any = model.config
    decoder = config.get_text_config()
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    seeing = sum(size for name, size in sizes.items() if "vision_tower" in name)
    tables = sum(size for name, size in sizes.items() if "embed_tokens" in name or "lm_head" in name)
    weights = sum(sizes.values()) - seeing - tables + decoder.vocab_size * decoder.hidden_size
    lengths = [len(example.tokens) for example in examples]
    wide = decoder.num_hidden_layers * decoder.hidden_size
    total = float(sum(6 * weights * length + 6 * wide * length**2 for length in lengths))
    if seeing:
        vision = config.vision_config
        places = (vision.image_size // vision.patch_size) ** 2
        wide = vision.num_hidden_layers * vision.hidden_size
        pictures = sum(len(example.pictures) for example in examples)
        total += pictures * (6 * seeing * places + 12 * wide * places**2)
    return total


class Passes:
    """Told of every finished step by a loop, as `Ticks` is; ends it after `rounds` timed passes and the profile.

    `weights`: tokens that each step of a pass learns from.
    """

    def __init__(
        self, weights: Sequence[int], rounds: int, device: torch.device, profiled: bool = True
    ) -> None:
        self._weights, self._rounds, self._device = weights, rounds, device
        self._wants_profile = profiled
        self._steps: list[float | Tensor] = []
        self._passes = 0
        self._profiler: profile | None = None
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.peak_bytes = 0
        self.profile: Mapping[str, Any] = {}
        self._began = self._now()

    def run(self, loop: Callable[[], None]) -> None:
        """Let a loop train until all is measured."""
        with contextlib.suppress(Finished):
            loop()

    def step(self, loss: float | Tensor) -> None:
        """One step is finished; raises Finished after the last."""
        self._steps.append(loss)
        if self._profiler is not None:
            if len(self._steps) == _PROFILED:
                self._end_profile()
            return
        if len(self._steps) < len(self._weights):
            return
        seconds = self._now() - self._began
        self._passes += 1
        if self._passes > _WARM:
            self.seconds.append(seconds)
            pairs = zip(self._steps, self._weights, strict=True)
            self.losses.append(sum(float(loss) * count for loss, count in pairs) / sum(self._weights))
        if self._passes == _WARM + self._rounds:
            self.peak_bytes = self._peak()
            if not self._wants_profile:
                raise Finished
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profiler = profile(activities=activities)
            self._profiler.start()
        self._steps, self._began = [], self._now()

    def _now(self) -> float:
        """Seconds, once the device has done all that it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _end_profile(self) -> None:
        assert self._profiler is not None
        wall = self._now() - self._began
        self._profiler.stop()
        self.profile = profile_of(self._profiler, wall, self._device.type == "cuda")
        raise Finished


def profile_of(profiler: profile, wall: float, on_gpu: bool) -> dict[str, Any]:
    """Shares of the wall time by part, and the operations that took the most, with what they took of a step.

    On a GPU: the time of the kernels that each operation launched; `idle` is when none ran. On a CPU: the operation's
    own time.
    """
    took = {
        str(row.key): (row.self_device_time_total if on_gpu else row.self_cpu_time_total) / 1e6
        for row in profiler.key_averages()
        if not (on_gpu and row.device_type != torch.autograd.DeviceType.CPU)
    }
    parts = dict.fromkeys([*PARTS, "other"], 0.0)
    for name, seconds in took.items():
        parts[part_of(name)] += seconds / wall
    most = sorted(took.items(), key=lambda row: row[1], reverse=True)[:_ROWS]
    return {
        "steps": _PROFILED,
        "seconds_per_step": wall / _PROFILED,
        "parts": {**parts, "idle": max(0.0, 1 - sum(parts.values()))},
        "operations_ms_per_step": {name: 1e3 * seconds / _PROFILED for name, seconds in most if seconds},
    }


def part_of(operation: str) -> str:
    """The part of a profile to which an operation belongs."""
    name = operation.lower()
    # attention before products, which are in the names of some of its kernels
    for part in ("attention", "optimizer", "matrix products", "copies"):
        if any(word in name for word in PARTS[part]):
            return part
    return "other"
