"""Micro-batches that fit into memory: the recipe's, or smaller ones since it did not suffice for those."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.rundir import RunDirectory
from finesight.data.loading.layout import Layout
from finesight.runtime.distributed import World
from finesight.runtime.files import write_json
from finesight.runtime.notices import Notices
from finesight.training.memory import OutOfMemory
from finesight.workflows.course import Course


class Fitting:
    """The `course` of a run in micro-batches that fit, by the recipe's `train.on_oom`."""

    def __init__(
        self, recipe: Recipe, run: RunDirectory, course: Course, notices: Notices, world: World
    ) -> None:
        self.course = course
        train = recipe.train
        self._asked = [train.micro_batch, train.micro_tokens]
        self._shrinks = train.on_oom == "shrink"
        self._run, self._notices, self._world, self._times = run, notices, world, 0

    def smaller(self, lack: OutOfMemory) -> bool:
        """Go over to smaller micro-batches; False where the policy, or what did not fit, does not let."""
        if not self._shrinks:
            return False
        if self._world.control is not None:
            self._say(
                "`train.on_oom: shrink` is for one process: several cannot go on where one of them failed"
            )
            return False
        before = self.course.layout
        layout = before.smaller(lack.samples, lack.positions, self.course.longest)
        if layout is None:
            self._say("a micro-batch of one sample cannot be made smaller")
            return False
        self._times += 1
        self.course = self.course.laid_out(layout)
        self._say(f"step {lack.step}: {lack.faults[0].what}; it goes on in micro-batches of {_told(layout)}")
        self._record({"step": lack.step, "what": lack.faults[0].what} | _sizes(layout))
        return True

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same micro-batches; nothing where they are the recipe's."""
        if not self._times:
            return {}
        sizes = _sizes(self.course.layout)
        return {"micro": {"asked": self._asked, "times": self._times, **sizes}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the micro-batches of a saved run, unless the recipe has others by now."""
        micro = state.get("micro")  # which a state has only where memory did not suffice
        if micro is None or micro["asked"] != self._asked:
            return
        self._times = micro["times"]
        samples = sys.maxsize if micro["samples"] is None else micro["samples"]
        self.course = self.course.laid_out(
            replace(self.course.layout, samples=samples, tokens=micro["tokens"])
        )
        since = f"since memory did not suffice, {self._times} times"
        self._say(f"micro-batches are of {_told(self.course.layout)}, {since}, before this run was resumed")

    def _say(self, text: str) -> None:
        self._notices.add("memory", text)

    def _record(self, fact: dict[str, Any]) -> None:
        if self._run.environment.is_file():
            record = json.loads(self._run.environment.read_text(encoding="utf-8"))
            known = [*record.get("out_of_memory", []), fact]
            write_json(self._run.environment, record | {"out_of_memory": known})


def _sizes(layout: Layout) -> dict[str, int | None]:
    return {"samples": None if layout.samples == sys.maxsize else layout.samples, "tokens": layout.tokens}


def _told(layout: Layout) -> str:
    bounds = _sizes(layout)
    told = [f"{most:,} {name}" for name, most in bounds.items() if most is not None]
    return " and ".join(told) + " at most"
