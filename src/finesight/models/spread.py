"""Weights spread over several devices and the disk, as `accelerate` lays them out for `transformers`.

Inputs go to the first device, and outputs come back to it. What lies in the CPU's memory beside a GPU, or on the disk,
is moved to a device for the moment in which it is computed with.
"""

import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finesight.config.loading import Load
from finesight.core.errors import ModelError
from finesight.models.parts import own_name, values_of

DISK = "disk"
_SPARE = 0.9
"""Share of the free memory that weights may take where a person names no sizes."""


@contextmanager
def spreading(load: Load, device: str | None) -> Iterator[dict[str, Any]]:
    """The arguments of `from_pretrained` that spread a model; none where `load` does not say so.

    `device` is `cpu` where no other device may be used. The folder for weights that cannot be read from the model's own
    files is gone afterwards, unless `keep_folder` gave it to a model. Raises ModelError where `accelerate` is missing.
    """
    if not load.spread:
        yield {}
        return
    if find_spec("accelerate") is None:
        raise ModelError(
            "`spread` needs accelerate, which is not installed", "spread", "pip install 'accelerate>=1.0'"
        )
    # it would tell in its own words what `placement` tells; docs/models.md says what that costs
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    memory = _memory(load, device)
    folder = Path(tempfile.mkdtemp(prefix="finesight-offload-"))
    told = {"device_map": "auto", "max_memory": memory, "offload_folder": str(folder)}
    try:
        with warnings.catch_warnings():
            # of single tensors beside layers, which have a place, too
            warnings.filterwarnings("ignore", "The following device_map keys do not match any submodules")
            yield told
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def keep_folder(model: nn.Module, spread: Mapping[str, Any]) -> None:
    """Let the folder of `spreading` live as long as its model, if anything is in it; the process's end ends both."""
    if not spread:
        return
    folder = Path(spread["offload_folder"])
    if any(folder.iterdir()):
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    else:  # all is read from the model's own files
        folder.rmdir()


def _memory(load: Load, device: str | None) -> dict[int | str, int] | None:
    """Bytes a device, by the names of `accelerate`; None where it finds them out itself.

    Raises ModelError for a GPU that is not there.
    """
    if load.max_memory:
        gpus = torch.cuda.device_count()
        absent = [name for name in load.sizes if name.startswith("gpu") and int(name[3:]) >= gpus]
        if absent:
            raise ModelError(
                f"there is no {', no '.join(absent)}",
                "max_memory",
                f"this machine has {gpus} GPUs: name those, or cpu",
            )
        sizes = load.sizes.items()
        return {int(name[3:]) if name.startswith("gpu") else name: size for name, size in sizes}
    if device == "cpu":
        from accelerate.utils import get_max_memory

        return {"cpu": int(_SPARE * get_max_memory()["cpu"])}
    return None


def is_spread(model: nn.Module) -> bool:
    """Whether the weights of a model are on several devices, or on the disk, so that it cannot be moved."""
    places = set(_places(model).values())
    return len(places) > 1 or DISK in places


def input_device(model: nn.Module) -> torch.device:
    """The device that takes a model's inputs: that of its parameters, or the first one where they are spread."""
    if not is_spread(model):
        return next(model.parameters()).device
    computing = set(_places(model).values()) - {"cpu", DISK}
    # `accelerate` takes the first of such a set
    return torch.device(next(iter(computing))) if computing else torch.device("cpu")


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """While open, a model whose code looks past a layer at weights that are not on a device is a ModelError."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not is_spread(model) or "meta tensor" not in str(error):
            raise
        raise ModelError(
            f"the code of `{type(model).__name__}` looks at weights that are not on a device: too little fits there",
            "spread",
            "give the first device more by `max_memory`, or load it in nf4",
        ) from error


def settle(model: Any, device: torch.device) -> None:
    """Move a model to a device, unless its weights are spread: those stay where they are."""
    if not is_spread(model):
        model.to(device)


def placement(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters by device: `gpu0`, `cpu`, `disk`…; a tied matrix counts once, an adapter's count, too."""
    places, found = _places(model), dict[str, int]()
    for name, parameter in model.named_parameters():
        name = own_name(name)
        while name and name not in places:
            name = name.rpartition(".")[0]
        place = places.get(name, parameter.device)
        key = _name(parameter.device if parameter.device.type != "meta" else place)
        found[key] = found.get(key, 0) + values_of(parameter)
    return found


def _places(model: nn.Module) -> dict[str, Any]:
    """Where `transformers` put each module, by its name; empty where it was not asked to."""
    return dict(vars(model).get("hf_device_map") or {})


def _name(place: Any) -> str:
    if isinstance(place, int):
        return f"gpu{place}"
    device, _, number = str(place).partition(":")
    return f"gpu{number or 0}" if device == "cuda" else device
