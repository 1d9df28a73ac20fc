"""What a run tells of its own steps: times of the parts, utilisation, energy, memory and a trace."""

import json
import logging
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch

from finesight.config.recipe import Recipe
from finesight.core.batch import Batch
from finesight.core.events import Observer
from finesight.core.rundir import RunDirectory
from finesight.models.parts import parts_by_name
from finesight.models.points import part_points
from finesight.planner.estimate import Cost
from finesight.planner.memory import static_memory
from finesight.runtime.distributed import World
from finesight.runtime.energy import Energy, energy_of
from finesight.runtime.peak import peak_of
from finesight.training.loop import LoopState
from finesight.training.meters import Effort, Gauges, Meter
from finesight.training.profiling import Profiler
from finesight.workflows.prepare import Prepared

_log = logging.getLogger("finesight")


class Explained:
    """The gauges of one run, which its first process reads."""

    def __init__(self, recipe: Recipe, run: RunDirectory, prepared: Prepared, world: World) -> None:
        self._run, self._prepared, self._world = run, prepared, world
        device = prepared.device
        self._energy = energy_of(device, world.local_size) if world.first else Energy()
        traced = recipe.profile is not None and world.first
        self._profiler = Profiler(recipe.profile, run.profile, device) if traced and recipe.profile else None
        self._effort: Effort | None = None

    def planned(self, cost: Cost) -> dict[str, Any]:
        """What `plan.json` says before the first step: of the devices, and what the run will take."""
        peak = peak_of(self._prepared.device, self._prepared.precision.name)
        device = {"peak_flops": peak.per_second, "source": peak.source, "processes": self._world.size}
        if cost.flops is not None:
            effort = Effort(cost.flops / cost.positions, peak.per_second * self._world.size)
            cost = replace(cost, mfu=effort.share(cost.positions, cost.seconds))
        return {"device": device, "predicted": cost.document()}

    def gauges(self) -> Gauges:
        """What the loop reads at each step; begins to count energy."""
        if not self._world.first:
            return Gauges()
        self._effort = self._known_effort()
        self._energy.begin()
        energy = self._energy
        _log.info("energy: %s", energy.source if energy.counters else f"not measured, {energy.why}")
        return Gauges(self._effort, energy.since)

    def _known_effort(self) -> Effort | None:
        """From the plan; None where it was not counted, or by a finesight that did not count."""
        plan = json.loads(self._run.plan.read_text(encoding="utf-8")) if self._run.plan.is_file() else {}
        predicted = plan.get("predicted") or {}
        if not predicted.get("flops") or not predicted.get("positions"):
            return None
        # measured anew, since a run may go on on another machine
        peak = peak_of(self._prepared.device, self._prepared.precision.name)
        return Effort(predicted["flops"] / predicted["positions"], peak.per_second * self._world.size)

    @property
    def observers(self) -> list[Observer]:
        """Who looks on for a trace."""
        return [] if self._profiler is None else [self._profiler]

    @contextmanager
    def over(
        self, windows: Generator[tuple[Batch, ...], None, None], done: int, meter: Meter
    ) -> Iterator[Iterator[tuple[Batch, ...]]]:
        """The windows after `done` steps, watched while they are learned from; all hooks are gone afterwards."""
        with closing(windows), meter.watching(part_points(self._prepared.model)):
            if self._profiler is None:
                yield windows
            else:
                with self._profiler.over(windows, done) as watched:
                    yield watched

    def taken(self, state: LoopState, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What a finished run took, as `Cost` has it, beside time and counts."""
        model, effort = self._prepared.model, self._effort
        memory = static_memory(model, parts_by_name(model), optimizer)
        positions, seconds = state.seen.positions, state.seconds
        return {
            "flops": None if effort is None else effort.flops * positions,
            "mfu": None if effort is None else effort.share(positions, seconds),
            "memory": memory.document(),
        }

    def energy(self, state: LoopState) -> dict[str, Any]:
        """What `results.json` says of energy: joules of the training, and who told; or why nobody did."""
        told = {"source": self._energy.source} if self._energy.counters else {"why": self._energy.why}
        return {"joules": state.clocks.joules, **told}
