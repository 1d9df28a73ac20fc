"""The options of commands that say how a model is held in memory."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from finesight.core.errors import FinesightError

if TYPE_CHECKING:
    from finesight.config.loading import Load


class NumbersChoice(StrEnum):
    """As `model.load.quantize` of a recipe."""

    NF4 = "nf4"
    INT8 = "int8"
    NONE = "none"


QuantizeOption = Annotated[
    NumbersChoice | None,
    typer.Option(
        help="Hold the language model's matrices in 4 bits (nf4) or 8 (int8); none: in fp32, also where an adapter's "
        "base was quantised."
    ),
]
SpreadOption = Annotated[
    bool,
    typer.Option("--spread", help="Lay the layers over all GPUs, then the CPU's memory, then the disk."),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZES",
        help="With --spread: the most that each device holds, such as gpu0=20GB,cpu=30GB; others hold nothing.",
    ),
]


def load_from(quantize: NumbersChoice | None, spread: bool, max_memory: str | None) -> "Load":
    """What the three options say together."""
    from finesight.config.loading import load_of

    sizes = {}
    for word in (max_memory or "").split(","):
        device, equals, size = word.strip().partition("=")
        if not equals and word.strip():
            mend = "write it as gpu0=20GB,cpu=30GB"
            raise FinesightError(f"`{word.strip()}` names no device and its size", "--max-memory", mend)
        if equals:
            sizes[device.strip()] = size.strip()
    return load_of(None if quantize is None else quantize.value, spread, sizes)
