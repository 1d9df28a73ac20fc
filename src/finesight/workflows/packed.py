"""Whether a model computes packed rows as it computes their samples alone: tried before a packed run learns."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finesight.core.batch import IGNORE, Batch, Example
from finesight.core.errors import FinesightError
from finesight.data.loading.collate import collate, collate_packed
from finesight.models.forward import SupervisedForward
from finesight.models.packing import refused
from finesight.training.precision import Precision
from finesight.training.step import evaluating, loss_sum
from finesight.workflows.course import Course
from finesight.workflows.prepare import Prepared

_TRIED = 4
"""Samples that are compared."""

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 5e-3}
"""Largest difference of a sample's loss, in nats a token, and of the loss itself where that is above 1. In fp32 only
the order of sums differs; bf16 keeps 8 bits and fp16 11, and a difference of a few units in the last place passes
through all layers. A sample that sees another one is off by far more."""


_ROUTES = {
    "segments": "segment by segment",
    "varlen": "by torch.nn.attention.varlen (segment by segment where attention drops out)",
}


def try_packing(prepared: Prepared, forward: SupervisedForward, course: Course) -> None:
    """Compare a few samples of a run, packed and alone; what was found is a notice.

    Raises ModelError where the model does not keep them apart.
    """
    examples = course.some(_TRIED)
    if len(examples) == 1:
        examples = [*examples, *examples]
    pad_id, precision, device = prepared.ports.pad_id, prepared.precision, prepared.device
    far = ensure_packs(prepared.model, forward, examples, pad_id, precision, device)
    routes = " and ".join(_ROUTES[route] for route in sorted(forward.packed_rows.routes))
    prepared.notices.add(
        "packing",
        f"attention in packed rows is computed {routes}; losses of {len(examples)} samples packed and alone are "
        f"within {far:.1g} of each other",
    )


def ensure_packs(
    model: Any,
    forward: SupervisedForward,
    examples: Sequence[Example],
    pad_id: int,
    precision: Precision,
    device: torch.device,
) -> float:
    """The largest difference between the losses of samples packed and alone; raises ModelError where it is too large.

    Where a run computes in half precision, the same is asked in fp32 first, which shows more. Examples without targets
    tell nothing.
    """
    family = model.config.model_type
    whole = Precision("fp32", precision.device)
    far = 0.0
    for numbers in dict.fromkeys((whole, precision)):
        most = TOLERANCE[numbers.name]
        forward.packed_rows.routes.clear()  # those of the run's own numbers, which come last, are told
        try:
            with evaluating(model), numbers.autocast():
                packed = _apart(forward, collate_packed(examples).to(device), examples)
                alone = [_apart(forward, collate([one], pad_id).to(device), [one])[0] for one in examples]
        except FinesightError:
            raise
        except Exception as error:  # each family fails in a way of its own at inputs that it cannot take
            raise refused(
                f"it cannot compute such a row ({type(error).__name__}: {error})", family
            ) from error
        found = max(
            (abs(one - other) / max(1.0, abs(other)) for one, other in zip(packed, alone, strict=True)),
            default=0.0,
        )
        if not found <= most:
            why = f"a sample's loss differs by {found:.3g} from its loss alone (more than {most:g})"
            raise refused(why, family)
        far = max(far, found)
    return far


def _apart(forward: SupervisedForward, batch: Batch, examples: Sequence[Example]) -> list[float]:
    """Mean loss per supervised token of each example of a batch."""
    logits: Tensor = forward(batch)
    targets = batch.targets[batch.targets != IGNORE]
    counts = [example.supervised for example in examples]
    pieces = zip(torch.split(logits, counts), torch.split(targets, counts), counts, strict=True)
    return [float(loss_sum(rows, wanted)) / count for rows, wanted, count in pieces if count]
