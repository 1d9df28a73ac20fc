"""How a model that answers is held in memory: said, and recorded."""

from typing import Any

from finesight.models.quantize import held_in
from finesight.models.spread import is_spread, placement
from finesight.runtime.notices import Notices
from finesight.workflows.places import Found


def held(found: Found) -> dict[str, Any]:
    """In which numbers, and how many parameters on which device: what `results.json` has in `loaded`.

    `trained` are the numbers of an adapter's base when the adapter was trained.
    """
    model = found.loaded.model
    trained = {} if found.adapted is None else {"trained": found.adapted.trained}
    return {
        "quantize": held_in(model),
        **trained,
        "spread": is_spread(model),
        "parameters": placement(model),
    }


def say_held(facts: dict[str, Any], notices: Notices) -> None:
    """Say what is not as usual: few bits, several devices, other numbers than an adapter was trained with."""
    numbers = facts["quantize"]
    trained = facts.get("trained", numbers)
    if numbers is None and trained is None and not facts["spread"]:
        return
    lie = ", ".join(f"{count:,} parameters on {place}" for place, count in facts["parameters"].items())
    notices.add("loaded", f"the model is held in {numbers or 'fp32'}: {lie}")
    if trained != numbers:
        text = f"the adapter was trained on its base in {trained or 'fp32'}, which is not quite the same"
        notices.add("loaded", text)
