"""What this machine has, what works, and what to install. A missing thing is a finding, never an error."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

import psutil

from finesight import __version__
from finesight.data.pictures.jpeg import turbo
from finesight.runtime.environment import LIBRARIES, cores


class Finding(TypedDict):
    """One thing looked at. `works` is None where nothing can be wrong; `mend` is empty where nothing is missing."""

    area: str
    name: str
    works: bool | None
    found: str
    mend: str


_EXTRAS = {
    "serve": (("fastapi", "gradio", "uvicorn"), "a web page and an HTTP API"),
    "audio": (("faster-whisper",), "spoken questions"),
    "quant": (("bitsandbytes",), "models in 4 and 8 bits"),
    "sweep": (("optuna",), "searching hyperparameters"),
    "track": (("tensorboard", "wandb"), "TensorBoard and Weights & Biases"),
}
"""Extra, its packages and what it is for."""

_GIB = 2**30
_SPACE_NEEDED = 2 * _GIB
"""Bytes on disk below which a run of a small model may not fit."""


def examine() -> list[Finding]:
    """Look at everything and return what was found, in the order in which it is read."""
    return [*_software(), *_machine(), *_devices(), *_places(), *_extras()]


def _finding(area: str, name: str, found: str, works: bool | None = None, mend: str = "") -> Finding:
    return Finding(area=area, name=name, works=works, found=found, mend=mend if works is False else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _software() -> Iterator[Finding]:
    yield _finding("software", "finesight", __version__, True)
    yield _finding("software", "Python", platform.python_version(), True)
    for package in LIBRARIES:
        version = _version(package)
        yield _finding(
            "software", package, version or "not installed", version is not None, "pip install finesight"
        )
    yield _fast_jpeg()


def _fast_jpeg() -> Finding:
    version = _version("simplejpeg")
    if version is None:
        found = "not installed: Pillow decodes JPEGs, to the same pixels, and takes about half as long again"
    elif turbo() is None:
        found = f"{version} cannot be imported: Pillow decodes JPEGs"
    else:
        found = f"{version}, decodes plain JPEGs"
    return _finding("software", "simplejpeg", found, turbo() is not None, "pip install --upgrade simplejpeg")


def _machine() -> Iterator[Finding]:
    yield _finding("machine", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield _finding("machine", "processor", f"{cores()} of {os.cpu_count()} cores may be used")
    memory = psutil.virtual_memory()
    yield _finding(
        "machine", "memory", f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    )


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a broken installation raises more than ImportError
        yield _finding(
            "device", "torch", f"cannot be imported: {error}", False, "pip install --force-reinstall torch"
        )
        return
    yield _finding("device", "CPU", f"{torch.get_num_threads()} threads; {_try(torch, 'cpu')}", True)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            numbers = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: fp16 or fp32"
            said = _try(torch, f"cuda:{index}")
            found = f"{about.name}, {about.total_memory / _GIB:.0f} GiB, {numbers}; {said}"
            yield _finding(
                "device", f"CUDA GPU {index}", found, said == _WORKS, "check the driver with nvidia-smi"
            )
    else:
        yield _finding("device", "CUDA GPU", "none that torch can use")
    if torch.backends.mps.is_available():
        said = _try(torch, "mps")
        yield _finding(
            "device", "Apple GPU", said, said == _WORKS, "set run.device to cpu, and update macOS and torch"
        )
    else:
        yield _finding("device", "Apple GPU", "none that torch can use")


_WORKS = "computes rightly, forward and backward"


def _try(torch: Any, device: str) -> str:
    """Multiply small matrices on the device, forward and backward, and compare with the CPU in double precision."""
    try:
        left = (torch.arange(4096, dtype=torch.float64).reshape(64, 64) % 7) / 7
        right = (torch.arange(4096, dtype=torch.float64).reshape(64, 64) % 5) / 5
        moved = left.to(device=device, dtype=torch.float32).requires_grad_(True)
        product = moved @ right.to(device=device, dtype=torch.float32)
        product.sum().backward()
        forward = torch.allclose(product.detach().cpu().double(), left @ right, rtol=1e-2)
        backward = torch.allclose(moved.grad.cpu().double(), right.sum(1).expand(64, 64), rtol=1e-2)
    except Exception as error:  # whatever a driver raises is what the person needs to know
        return f"fails: {error}"
    return _WORKS if forward and backward else "computes wrong numbers"


def _places() -> Iterator[Finding]:
    folder = Path("runs") if Path("runs").is_dir() else Path()
    free = shutil.disk_usage(folder).free
    yield _finding(
        *("place", "disk", f"{free / _GIB:.1f} GiB free under {folder.resolve()}"),
        works=free >= _SPACE_NEEDED,
        mend="free some space, or set run.dir to another disk",
    )
    try:
        with tempfile.TemporaryFile(dir=folder):
            works, found = True, f"{folder.resolve()} can be written"
    except OSError as error:
        works, found = False, f"{folder.resolve()} cannot be written: {error.strerror}"
    yield _finding("place", "run folder", found, works, "run where you may write, or set run.dir")


def _extras() -> Iterator[Finding]:
    for extra, (packages, purpose) in _EXTRAS.items():
        missing = [package for package in packages if _version(package) is None]
        found = f"for {purpose}" + (f"; lacks {', '.join(missing)}" if missing else "")
        yield _finding("extra", extra, found, not missing, f"pip install 'finesight[{extra}]'")
