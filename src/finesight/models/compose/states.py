"""State dicts from elsewhere: tensors by name, and nothing else, out of `.pth`, `.pt`, `.bin` and `.safetensors`."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finesight.core.errors import ModelError


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; raises ModelError where it holds anything else, which is not unpickled."""
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        held = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(held, dict) and all(isinstance(value, Tensor) for value in held.values()):
            return {str(name): value for name, value in held.items()}
        said = "it holds more than tensors by name"
    except pickle.UnpicklingError:  # whose words advise to run whatever is in the file
        said = "it holds more than tensors, or is no such file"
    except (OSError, RuntimeError, SafetensorError, EOFError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ModelError(f"its weights cannot be read: {said}", str(file), "give the file of a state dict")


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What a state dict lacks, has too much, or has in another shape."""
    shared = own.keys() & given.keys()
    wrong = {
        "missing": sorted(own.keys() - given.keys()),
        "unknown": sorted(given.keys() - own.keys()),
        "of another shape": sorted(name for name in shared if own[name].shape != given[name].shape),
    }
    return [f"{kind}: {', '.join(names[:5])}" for kind, names in wrong.items() if names]
