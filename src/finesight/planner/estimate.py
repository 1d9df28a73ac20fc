"""Time and memory of a run, from one timed pass over a real window of its own data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What a run takes: bytes of memory at its peak, seconds in all and a step, and how much it sees.

    `positions` are all that are computed: the `tokens` and their padding. `flops` are those of all steps, `mfu` the
    share of the devices' peak that they are; None where not known. `memory` is by part, as `planner.memory` has it.
    """

    peak_bytes: int
    seconds: float
    seconds_per_step: float
    steps: int
    samples: int
    tokens: int
    supervised_tokens: int
    positions: int
    flops: float | None = None
    mfu: float | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)

    @property
    def padding(self) -> float:
        """The share of positions that are padding."""
        return 1 - self.tokens / self.positions if self.positions else 0.0

    def document(self) -> dict[str, Any]:
        """As `plan.json` holds it: what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != {}}


def predict_cost(
    *,
    pass_seconds: float,
    peak_bytes: int,
    state_bytes: float,
    steps: int,
    samples: int,
    tokens: int,
    supervised_tokens: int,
    positions: int,
    flops: float | None = None,
    memory: Mapping[str, Any] | None = None,
) -> Cost:
    """The cost of `steps`, from a forward and backward pass that took `pass_seconds` and peaked at `peak_bytes`.

    The pass made no optimizer state: its `state_bytes` are added. Counts are of the whole run, `flops` of a position.
    Evaluations and the updates themselves are not in the time.
    """
    return Cost(
        peak_bytes + round(state_bytes),
        pass_seconds * steps,
        pass_seconds,
        steps,
        samples,
        tokens,
        supervised_tokens,
        positions,
        flops=None if flops is None else flops * positions,
        memory=memory or {},
    )
