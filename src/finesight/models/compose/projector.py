"""The weights of a projector: drawn at random, or taken from a file that holds a projector alone."""

from pathlib import Path

import torch
from torch import Tensor, nn

from finesight.core.errors import ModelError
from finesight.models.compose.modeling_finesight import FinesightAudioProjector, FinesightProjector
from finesight.models.compose.states import differences, read_state

_AROUND = (
    "base_model.",
    "module.",
    "model.",
    "mm_projector.",
    "multi_modal_projector.",
    "audio_projector.",
    "projector.",
)
"""What may stand before a projector's own names, such as `model.mm_projector.` in the files of LLaVA's first stage."""
_LLAVA = {"0": "linear_1", "2": "linear_2"}
"""Names of the two matrices in those files, and in `transformers`."""


def draw_projector(projector: nn.Module) -> None:
    """Random values as `transformers` draws them: normal ones in matrices, no biases, norms as they are."""
    for module in projector.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def load_projector(projector: nn.Module, place: str, key: str = "model.compose.projector") -> None:
    """Fill a projector from a file; raises ModelError with what is missing, unknown or of another shape.

    `key` is the projector's in the recipe.
    """
    file, own = Path(place).expanduser(), projector.state_dict()
    given = {_bare(name): value.to(torch.float32) for name, value in read_state(file).items()}
    if isinstance(projector, FinesightProjector | FinesightAudioProjector):
        given = {
            name if name.startswith("steps.") else f"steps.{name}": value for name, value in given.items()
        }
    else:
        given = _two_matrices(given, own)
    faults = differences(own, given)
    if faults:
        raise ModelError(
            f"these are not the weights of this projector ({'; '.join(faults)})",
            f"{key}.pretrained: {place}",
            "choose the kind and the parts that the projector was made for",
        )
    projector.load_state_dict(given)


def _bare(name: str) -> str:
    while (found := next((start for start in _AROUND if name.startswith(start)), None)) is not None:
        name = name.removeprefix(found)
    return name


def _two_matrices(given: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """LLaVA's names in `transformers`; a single matrix is followed by the identity."""
    if given.keys() == {"weight", "bias"}:
        width = len(own["linear_2.bias"])
        second = {"linear_2.weight": torch.eye(width), "linear_2.bias": torch.zeros(width)}
        return {"linear_1.weight": given["weight"], "linear_1.bias": given["bias"], **second}
    parts = (name.partition(".") for name in given)
    names = [f"{_LLAVA.get(first, first)}.{rest}" if rest else first for first, _, rest in parts]
    return dict(zip(names, given.values(), strict=True))
