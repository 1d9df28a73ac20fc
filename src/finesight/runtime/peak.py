"""How much arithmetic a device could do: from NVIDIA's data sheets, or by a short measurement."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

SHEETS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        # TFLOP/s of 16-bit numbers (bf16, fp16; sums in fp32, not sparse), of TF32, and of fp32 without tensor cores
        "B200": (2250, 1100, 75),
        "H200 NVL": (835.5, 417.5, 60),
        "H200": (989.4, 494.7, 66.9),
        "H100 NVL": (835.5, 417.5, 60),
        "H100 PCIe": (756, 378, 51),
        "H100": (989.4, 494.7, 66.9),
        "A100": (312, 156, 19.5),
        "A30": (165, 82, 10.3),
        "A40": (149.7, 74.8, 37.4),
        "A10G": (70, 35, 31.5),
        "A10": (125, 62.5, 31.2),
        "L40S": (362, 183, 91.6),
        "L40": (181, 90.5, 90.5),
        "L4": (121, 60, 30.3),
        "RTX A6000": (154.8, 77.4, 38.7),
        "RTX 6000 Ada": (364.2, 182.1, 91.1),
        "RTX 3090": (71, 35.6, 35.6),
        "RTX 4090": (165.2, 82.6, 82.6),
        "RTX 5090": (209.5, 104.8, 104.8),
        "V100-PCIE": (112, 14, 14),
        "V100": (125, 15.7, 15.7),
        "T4": (65, 8.1, 8.1),
    }
)
"""By a word of the name that the driver gives; of several that fit, the longest. From the data sheets of each."""

_SMALLEST, _LARGEST = 256, 4096
_ENOUGH = 2e-3
"""Seconds of a matrix product from which on a larger one is no better a measure."""
_TIMES = 3


@dataclass(frozen=True)
class Peak:
    """Floating-point operations that a device could do in a second, and where that is known from."""

    per_second: float
    source: str


def sheet(name: str, numbers: str) -> float | None:
    """FLOP/s of an NVIDIA GPU by its driver's name, in `bf16`, `fp16`, `tf32` or `fp32`; None for an unknown one."""
    fitting = [
        known for known in SHEETS if re.search(rf"\b{known}\b(?! (?:Ti|D|SUPER|Max-Q|Laptop)\b)", name)
    ]
    if not fitting:
        return None
    half, tf32, fp32 = SHEETS[max(fitting, key=len)]
    return 1e12 * {"bf16": half, "fp16": half, "tf32": tf32, "fp32": fp32}[numbers]


def peak_of(device: torch.device, precision: str) -> Peak:
    """The peak of a device in the numbers of a run (`fp32`, `bf16`, `fp16`).

    Of an NVIDIA GPU that is known by name, its data sheet's; of another device what its matrix products reach, the best
    of a few whose size grows until one takes 2 ms.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        fast = precision == "fp32" and torch.get_float32_matmul_precision() != "highest"
        numbers = "tf32" if fast else precision
        known = sheet(name, numbers)
        if known is not None:
            return Peak(known, f"data sheet of {name}, {numbers}, dense")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    per_second, size = _measured(device, dtype)
    count = torch.get_num_threads()
    by = f" by {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
    return Peak(per_second, f"measured on this {device.type}{by}: a {precision} product of {size} × {size}")


def _measured(device: torch.device, dtype: torch.dtype) -> tuple[float, int]:
    size = _SMALLEST
    while True:
        matrix = torch.ones(size, size, device=device, dtype=dtype)
        _timed(matrix)  # the first one of a size also sets things up
        seconds = min(_timed(matrix) for _ in range(_TIMES))
        if seconds >= _ENOUGH or size >= _LARGEST:
            return 2 * size**3 / max(seconds, 1e-9), size
        size *= 2


def _timed(matrix: torch.Tensor) -> float:
    _wait(matrix.device)
    began = time.perf_counter()
    torch.mm(matrix, matrix)
    _wait(matrix.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
