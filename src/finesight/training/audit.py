"""Whether what is to learn does learn: the gradients of each group after its first backward pass.

A gradient that is None, one that is exactly zero and one that is neither are three things: nothing leads from the loss
to the first; the second may be so by construction (a LoRA adapter's A, as long as B is zero); the third learns.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finesight.config.train import Group
from finesight.core.errors import TrainingError
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.notices import Notices
from finesight.training.agreement import Agreed
from finesight.training.optim import PartOf, group_of

_TOWERS = {"vision_tower": "pictures", "audio_tower": "sounds", "audio_projector": "sounds"}
"""Parts that compute for an input of one kind alone, and which."""

_AGAIN = 4
"""Further steps in which a gradient that is exactly zero is looked at."""

_SHOWN = 8
"""Names that a message or a record lists at most."""

_NONE, _NO_NUMBER = -1.0, -2.0
"""What a process says in place of a squared norm: there is no gradient; it is not finite."""


class Unreached(TrainingError):
    """What is to learn has no gradient, or what is frozen has one; raised before the weights change."""


@dataclass
class Row:
    """A group as it was at its last look, in `step`: how many of its `tensors` had a gradient, the norm of them all,
    and names of tensors (the first few) without one, or with one that is exactly zero."""

    group: str
    learns: bool
    tensors: int
    step: int = 0
    reached: int = 0
    zero: int = 0
    norm: float = 0.0
    without: list[str] = field(default_factory=list)
    at_zero: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Declared:
    """A group of tensors that are to learn; `needs` are the kinds of input without which none of them is reached."""

    name: str
    tensors: tuple[str, ...]
    needs: frozenset[str]


class Audit:
    """Looks at the gradients of a run's first steps, until every group of what is to learn was seen to learn.

    A group is looked at in the first step that has the inputs which it reads. What `known` says was found before the
    run was continued is not looked at again; `record` is given all that is known, whenever that is more.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[Group],
        part_of: PartOf,
        notices: Notices,
        record: Callable[[Mapping[str, Any]], object],
        known: Mapping[str, Any] | None = None,
        world: World = ALONE,
    ) -> None:
        self._values = dict(module.named_parameters())
        self._declared, self._media = _declared(self._values, groups, part_of)
        self._frozen = [name for name, value in self._values.items() if not value.requires_grad]
        self._notices, self._record, self._world = notices, record, world
        known = known or {"groups": [], "waiting": [one.name for one in self._declared], "zero": {}}
        self._rows = {row["group"]: Row(**row) for row in known["groups"]}
        self._waiting = [one for one in self._declared if one.name in known["waiting"]]
        self._zero: dict[str, int] = {
            name: left for name, left in known["zero"].items() if name in self._values
        }
        self._first = not known["groups"]

    @property
    def done(self) -> bool:
        """Whether nothing is left to look at."""
        return not self._waiting and not self._zero

    def __call__(self, number: int, step: Agreed) -> bool:
        """Look at the gradients of step `number`, which are whole and unscaled; whether all is seen now.

        All processes call it in the same steps. Raises Unreached where a group of which the inputs were there had no
        gradient at all, and where something frozen had one.
        """
        seen = {medium for kind in step.most for medium in kind.split("+")} & {"pictures", "sounds"}
        due = [one for one in self._waiting if one.needs <= seen]
        wanted = list(dict.fromkeys([name for one in due for name in one.tensors] + list(self._zero)))
        if not wanted:
            return self.done
        norms = self._norms(wanted, number, step)
        if norms is None:  # no step is made of it: the next one tells
            return False
        for one in due:
            self._take(one, norms, number, step, whole=self._media <= seen)
        self._look_again(norms)
        if self._first and self._frozen:
            self._rows["frozen"] = Row("frozen", False, len(self._frozen), number)
        self._first = False
        self._tell()
        return self.done

    def close(self) -> None:
        """The run is over: tell of what was never seen."""
        for one in self._waiting:
            if one.name not in self._rows:
                needs = " and ".join(sorted(one.needs))
                self._notices.add(
                    "unreached",
                    f"no step had {needs}, so the {one.name} learned nothing: {_tensors(one.tensors)}",
                )
        left = [name for name in self._zero if ".lora_" not in name]
        if left:
            self._say_zero(left)

    def _norms(self, names: Sequence[str], number: int, step: Agreed) -> dict[str, float | None] | None:
        """Norm of each gradient over all processes, None where there is no gradient; or None where one is no number."""
        grads = {name: self._values[name].grad for name in names}
        own = [_local(value) for value in grads.values() if value is not None]
        made = iter(torch.stack([value.norm().double() for value in own]).tolist() if own else [])
        said = []
        for value in grads.values():
            norm = _NONE if value is None else next(made)
            said.append(norm if math.isfinite(norm) else _NO_NUMBER)
        wrong = [name for name in self._frozen if self._first and self._values[name].grad is not None]
        shares = self._world.together({"norms": said, "frozen": wrong})
        if found := sorted({name for share in shares for name in share["frozen"]}):
            raise _frozen_learns(found, number, step)
        told = list(zip(*(share["norms"] for share in shares), strict=True))
        if any(norm == _NO_NUMBER for norms in told for norm in norms):
            return None
        # slices of one gradient add up; whole ones are alike in all processes
        return {
            name: _joined(norms, isinstance(self._values[name], DTensor))
            for name, norms in zip(names, told, strict=True)
        }

    def _take(
        self, one: _Declared, norms: Mapping[str, float | None], number: int, step: Agreed, whole: bool
    ) -> None:
        """Write a group's row; raise where nothing of it was reached. It stays open where something of it was not, and
        the step did not have all kinds of input (`whole`) that the model reads."""
        without = [name for name in one.tensors if norms[name] is None]
        reached = {name: norm for name in one.tensors if (norm := norms[name]) is not None}
        zero = [name for name, norm in reached.items() if norm == 0]
        if not reached and (whole or one.needs):
            raise _nothing_reached(one, number, step)
        self._rows[one.name] = Row(
            one.name,
            True,
            len(one.tensors),
            number,
            len(reached),
            len(zero),
            math.hypot(*reached.values()),
            without[:_SHOWN],
            zero[:_SHOWN],
        )
        if without and not whole:
            return
        self._waiting.remove(one)
        self._zero |= dict.fromkeys(zero, _AGAIN + 1)
        if without:
            self._notices.add(
                "unreached",
                f"no gradient reached {len(without)} of the {len(one.tensors)} tensors of the {one.name}, which are to "
                f"learn: {_listed(without)}",
            )

    def _look_again(self, norms: Mapping[str, float | None]) -> None:
        """Of gradients that were exactly zero: forget those that are not, and tell of those that stayed so."""
        moved = {name for name in self._zero if norms[name]}
        self._zero = {name: left - 1 for name, left in self._zero.items() if name not in moved}
        for one in self._declared:
            row = self._rows.get(one.name)
            if row is not None and not moved.isdisjoint(one.tensors):
                row.zero -= len(moved.intersection(one.tensors))
                row.at_zero = [name for name in row.at_zero if name not in moved]
        stayed = [name for name, left in self._zero.items() if not left]
        if stayed:
            self._zero = {name: left for name, left in self._zero.items() if left}
            self._say_zero(stayed)

    def _say_zero(self, names: Sequence[str]) -> None:
        self._notices.add(
            "unreached",
            f"the gradient of what is to learn stays exactly zero, in {_tensors(names)}: {_listed(names)}",
        )

    def _tell(self) -> None:
        self._record(
            {
                "groups": [asdict(row) for row in self._rows.values()],
                "waiting": [one.name for one in self._waiting],
                "zero": self._zero,
            }
        )


def _declared(
    values: Mapping[str, nn.Parameter], groups: Sequence[Group], part_of: PartOf
) -> tuple[list[_Declared], frozenset[str]]:
    """The groups of what is to learn: parts, what adapters add to them, and the recipe's own; and the kinds of input
    that the model reads."""
    parts = {name: part_of(name) for name in values}
    there = set(parts.values())
    media = {part: medium for part, medium in _TOWERS.items() if part in there}
    if "projector" in there:
        media["projector"] = (
            "sounds" if "audio_tower" in there and "vision_tower" not in there else "pictures"
        )
    found: dict[str, list[str]] = {}
    for name, value in values.items():
        if not value.requires_grad:
            continue
        named = parts[name].replace("_", " ")
        found.setdefault(f"adapter of the {named}" if ".lora_" in name else named, []).append(name)
    for name, value in values.items():
        own = group_of(name, groups, part_of) if value.requires_grad else None
        if own is not None:
            found.setdefault(f"group `{own.match}`", []).append(name)
    declared: list[_Declared] = []
    for group, names in found.items():
        if any(set(names) == set(one.tensors) for one in declared):  # the recipe's group is a part
            continue
        needs = [frozenset({media[parts[name]]} if parts[name] in media else ()) for name in names]
        declared.append(_Declared(group, tuple(names), frozenset.intersection(*needs)))
    return declared, frozenset(media.values())


def _local(value: Tensor) -> Tensor:
    local: Tensor = value.to_local() if isinstance(value, DTensor) else value
    return local.detach().float()


def _joined(norms: Iterable[float], sliced: bool) -> float | None:
    there = [norm for norm in norms if norm != _NONE]
    if not there:
        return None
    return math.hypot(*there) if sliced else max(there)


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


def _where(number: int, step: Agreed) -> str:
    return f"step {number}, samples {', '.join(step.ids[:_SHOWN])}"


def _nothing_reached(one: _Declared, number: int, step: Agreed) -> Unreached:
    return Unreached(
        f"the {one.name} is to learn, and no gradient reached any of its {_tensors(one.tensors)}: "
        f"{_listed(one.tensors)}",
        _where(number, step),
        "let it not learn, by `model.freeze`, or look why the loss does not depend on it",
    )


def _frozen_learns(names: Sequence[str], number: int, step: Agreed) -> Unreached:
    return Unreached(
        f"a gradient reached what is frozen, {_tensors(names)}: {_listed(names)}",
        _where(number, step),
        "look which code of the model turns their `requires_grad` on again",
    )
