"""What changed since a run began: refused when it is continued, or, where the person forces it, named and recorded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finesight.config.load import load_recipe
from finesight.config.recipe import Recipe
from finesight.core.errors import RunError
from finesight.core.rundir import RunDirectory
from finesight.runtime.environment import versions

_HARMLESS = (
    *("format", "description", "log.", "report.", "profile", "parallel.", "data.workers", "data.timeout"),
    *("run.name", "run.dir", "run.threads", "train.time_limit", "train.keep_last", "train.async_save"),
    *("train.on_oom", "train.micro_batch", "train.micro_tokens", "train.gradient_checkpointing"),
    "evaluation.batch_size",
)
"""Recipe keys that change nothing in what is learned but the order of sums: a resumed run may differ in them."""

_TOLD = ("train.micro_batch", "train.micro_tokens", "train.gradient_checkpointing", "evaluation.batch_size")
"""Those of them that change the order of sums, and with dropout what is drawn."""

_MEASURED = ("evaluation.best_by", "evaluation.max_samples", "generation.", "data.val")
"""What decides how the best is measured: values from before and after a change cannot be compared."""


@dataclass
class Changes:
    """What is other than when the run began, in words: what matters (`named`) and was forced, what may change (`told`).

    `remeasured`: scores are measured in another way, so the best so far says nothing any more.
    """

    named: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    remeasured: bool = False


def changed_recipe(run: RunDirectory, recipe: Recipe) -> Changes:
    """What a recipe changes in the run that it is to continue."""
    before, now = _flat(load_recipe(str(run.recipe)).model_dump()), _flat(recipe.model_dump())
    found = Changes()
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key):
            continue
        words = f"{key}: {before.get(key)!r} became {now.get(key)!r}"
        if not key.startswith(_HARMLESS):
            found.named.append(words)
            found.remeasured |= key.startswith(_MEASURED)
        elif key.startswith(_TOLD):
            found.told.append(words)
    return found


def refuse_recipe(run: RunDirectory, changes: Changes, force: bool) -> None:
    """Raise RunError where a run cannot be continued by a recipe."""
    if not changes.named:
        return
    told = "; ".join(changes.named)
    if not force:
        raise RunError(
            f"the recipe is not the one that this run began with ({told})",
            str(run.recipe),
            "resume with the same recipe, begin another run by `run.name=…`, or go on nevertheless with --force",
        )
    if any(words.startswith("train.optimizer:") for words in changes.named):
        raise RunError(
            f"the state of one optimizer is of no use to another ({told})",
            "train.optimizer",
            "begin another run by `run.name=…`, with a checkpoint of this one as `model.pretrained`",
        )
    if run.results.is_file():
        raise RunError(
            f"this run is finished, and the recipe is not the one that it began with ({told})",
            str(run.path),
            f"begin another run by `run.name=…`, with `model.pretrained: {run.path}`",
        )


def check_sameness(
    run: RunDirectory,
    facts: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    changes: Changes,
    force: bool,
) -> None:
    """Refuse to continue a run over other data, or an adapter on another base, than before; forced changes are added to
    `changes`. Other versions of libraries are told. `facts` are what the record says of a run now."""
    record = began_with(run)
    if record is None:
        return
    data, base = _changed_data(record, facts, fingerprints), _changed_base(record, facts)
    if (data or base) and not force:
        what, where, back = base or data or ("", "", "")
        raise RunError(
            what, where, f"{back}, begin another run by `run.name=…`, or go on nevertheless with --force"
        )
    changes.named += [change[0] for change in (data, base) if change]
    changes.remeasured |= bool(data and "data.val" in data[1])
    before, now = latest(record, "versions") or {}, versions()
    changes.told += [
        f"{name} {before.get(name)} became {now[name]}: what follows is not equal to the bit"
        for name in now
        if name in before and before[name] != now[name]
    ]


def began_with(run: RunDirectory) -> dict[str, Any] | None:
    """The record that a run began with; None for a new one."""
    return json.loads(run.environment.read_text(encoding="utf-8")) if run.environment.is_file() else None


def latest(record: Mapping[str, Any], key: str) -> Any:
    """What a run was last continued with, or began with."""
    return next((one[key] for one in reversed(record["resumed"]) if key in one), record.get(key))


def _changed_data(
    record: Mapping[str, Any], facts: Mapping[str, Any], now: Mapping[str, str]
) -> tuple[str, str, str] | None:
    """What is wrong, where, and how to undo it, where the data are not those of before."""
    before, after = latest(record, "data"), facts["data"]
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if before.get(name, {}).get("fingerprint") != now.get(name)]
    if not changed:
        return None
    counts = "; ".join(
        f"{name}: {_samples(before.get(name))} then, {_samples(after.get(name))} now" for name in changed
    )
    where = ", ".join(f"data.{name}" for name in changed)
    return f"the data changed since this run began ({counts})", where, "put the data back as they were"


def _changed_base(record: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, str, str] | None:
    if "base" not in facts:
        return None
    before, now = latest(record, "base") or {}, facts["base"]
    if before.get("fingerprint") == now["fingerprint"]:
        return None
    what = f"the base model changed since this run began: {now['place']}"
    return what, "model.pretrained", "put the base back as it was"


def _samples(facts: Mapping[str, Any] | None) -> str:
    found = (facts or {}).get("samples", 0)
    return "a stream" if found is None else f"{found} samples"


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys."""
    if isinstance(value, Mapping) and value:
        return {
            name: leaf
            for part, item in value.items()
            for name, leaf in _flat(item, f"{key}.{part}" if key else part).items()
        }
    return {key: value}
