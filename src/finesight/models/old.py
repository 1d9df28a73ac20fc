"""Weights from elsewhere as the weights that a model begins with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finesight.core.errors import ModelError
from finesight.models.compose.states import differences, read_state

_AROUND = ("module.", "_orig_mod.", "base_model.model.")
"""What distributed training, compilation and adapters put before all names of a model."""


def load_weights(model: Any, place: str) -> int:
    """Fill a model from a file of tensors by name, and return how many there are.

    Raises ModelError, with the model as it was, where names or shapes are not the model's; a tied matrix may be there
    once or twice.
    """
    own = model.state_dict()
    given = _bare(read_state(Path(place).expanduser()))
    tied = _alike(own)
    for name, twins in tied.items():
        if name not in given:
            found = next((given[twin] for twin in twins if twin in given), None)
            if found is not None:
                given[name] = found
    faults = differences(own, given)
    if faults:
        what = f"these are not the weights of this model ({'; '.join(faults)})"
        raise ModelError(what, f"model.weights: {place}", "choose the model that they were saved from")
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)
    return len(given)


def _bare(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(given)
    for start in _AROUND:
        if found and all(name.startswith(start) for name in found):
            found = {name.removeprefix(start): value for name, value in found.items()}
    return found


def _alike(own: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of each tensor that stands under several."""
    places: dict[int, list[str]] = {}
    for name, value in own.items():
        places.setdefault(value.data_ptr(), []).append(name)
    return {name: [twin for twin in names if twin != name] for names in places.values() for name in names}
