"""The gradient audit of a run: what was found is in `audit.json`, and is not looked for again when a run goes on."""

import json
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.rundir import RunDirectory
from finesight.models.parts import parts_by_name
from finesight.runtime.distributed import World
from finesight.runtime.files import write_json
from finesight.training.audit import Audit
from finesight.workflows.prepare import Prepared


def audit_of(recipe: Recipe, run: RunDirectory, prepared: Prepared, world: World) -> Audit:
    """The audit of what learns in this run; all processes call it, once the model is as the steps see it."""
    return Audit(
        prepared.model,
        recipe.train.groups,
        parts_by_name(prepared.model),
        prepared.notices,
        record=lambda found: write_json(run.audit, dict(found)) if world.first else None,
        known=world.once(lambda: _known(run)),
        world=world,
    )


def _known(run: RunDirectory) -> Any:
    """What was found before; None where nothing was, or where it cannot be read."""
    try:
        return json.loads(run.audit.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
