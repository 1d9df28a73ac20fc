"""How a model that answers is held in memory: in which numbers, and on which devices."""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator

from finesight.config.base import Inconsistent, Section, Switch
from finesight.config.faults import faults_of
from finesight.core.errors import RecipeError

Quantize = Literal["nf4", "int8"]
"""Numbers of the frozen matrices: 4 bits or 8."""

Compute = Literal["fp32", "bf16", "fp16"]
"""Numbers in which 4-bit matrices are multiplied."""

Numbers = Literal["nf4", "int8", "none"]
"""The same, or fp32."""

_DEVICE = re.compile(r"cpu|mps|gpu\d+")
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([KMGT])(i?)B")
_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}


class Load(Section):
    """How the weights of a model that answers are held; a model that learns is never held so."""

    quantize: Numbers | None = None
    """Numbers of the language model's matrices: 4 bits (`nf4`), 8 bits (`int8`) or fp32 (`none`); where absent, those
    that an adapter's base had when it was trained, else fp32."""
    spread: Switch = False
    """Lay the layers out over all GPUs, what does not fit there over the CPU's memory, and the rest over the disk."""
    max_memory: Mapping[str, str] = {}
    """With `spread`: the most that a device holds, such as `{gpu0: 20GB, cpu: 30GiB}`; a device that is not named holds
    nothing. What fits nowhere stays on the disk."""

    @field_validator("max_memory")
    @classmethod
    def _devices_and_sizes(cls, memory: Mapping[str, str]) -> Mapping[str, str]:
        for device, size in memory.items():
            if not _DEVICE.fullmatch(device):
                raise Inconsistent(f"`{device}` is no device", "name cpu, mps, or gpu0, gpu1, …")
            if not _SIZE.fullmatch(size):
                raise Inconsistent(f"`{device}: {size}` is no size", "write it as 20GB, 1.5TB or 30GiB")
        return memory

    @model_validator(mode="after")
    def _memory_of_spread_weights(self) -> "Load":
        if self.max_memory and not self.spread:
            raise Inconsistent(
                "`max_memory` says how weights are spread, and `spread` is off",
                "set `spread: true` beside it",
            )
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """`max_memory` in bytes."""
        return {device: _bytes(size) for device, size in self.max_memory.items()}

    @property
    def words(self) -> list[str]:
        """What differs from the defaults, as words that change a recipe."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return [f"model.load.{key}={json.dumps(value)}" for key, value in given.items()]


def _bytes(size: str) -> int:
    found = _SIZE.fullmatch(size)
    assert found is not None  # the section was checked
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[found[2]])


def load_of(quantize: str | None, spread: bool, max_memory: Mapping[str, str]) -> Load:
    """The section of some options; raises RecipeError with every fault."""
    values: dict[str, Any] = {"quantize": quantize, "spread": spread, "max_memory": dict(max_memory)}
    try:
        return Load.model_validate(values)
    except ValidationError as error:
        raise RecipeError.of(faults_of(error, Load, {(): "how the model is loaded"})) from error
