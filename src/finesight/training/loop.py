"""The training loop. It owns time: what comes next, when to measure, save and stop. The mathematics is in `step`."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from finesight.config.train import Stop
from finesight.core.batch import Batch
from finesight.core.errors import FinesightError, Interrupted, TrainingError
from finesight.core.events import EvaluationReport, Observer, StepReport
from finesight.runtime.control import Lost
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.signals import StopAsked
from finesight.training.agreement import Agreed, agreed, facts_of
from finesight.training.memory import (
    OutOfMemory,
    give_back,
    is_out_of_memory,
    no_room_for_data,
    out_of_memory,
)
from finesight.training.meters import UNREAD, Clocks, Gauges
from finesight.training.schedule import Schedule
from finesight.training.step import Step, no_number
from finesight.training.stopping import Best

_log = logging.getLogger("finesight")


class Again(Exception):
    """The same step is to be made once more, from windows of smaller micro-batches. Nothing was learned meanwhile."""


class Saver(Protocol):
    """Writes a checkpoint of the whole run; `best` where it is the best so far."""

    def __call__(self, state: Mapping[str, Any], step: int, best: bool) -> None:
        """Write it."""


@dataclass
class Seen:
    """What the steps so far have learned from."""

    samples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    positions: int = 0

    def add(self, step: Agreed) -> None:
        """Count a step."""
        self.samples += step.samples
        self.tokens += step.tokens
        self.supervised_tokens += step.supervised
        self.positions += step.positions


@dataclass
class LoopState:
    """Where a run stands: finished steps, the last one that was evaluated, the best, seconds of training so far, the
    last step's loss, what was seen, how many steps were skipped, what was spent beside the steps, and how often the
    next one was broken off."""

    step: int = 0
    evaluated: int = 0
    best: Best = field(default_factory=Best)
    seconds: float = 0.0
    loss: float | None = None
    seen: Seen = field(default_factory=Seen)
    skipped: int = 0
    clocks: Clocks = field(default_factory=Clocks)
    again: int = 0

    def saved(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {
            "evaluated": self.evaluated,
            "best": self.best.state(),
            "seconds": self.seconds,
            "loss": self.loss,
            "seen": asdict(self.seen),
            "skipped": self.skipped,
            "clocks": asdict(self.clocks),
        }

    @classmethod
    def restored(cls, step: int, saved: Mapping[str, Any]) -> "LoopState":
        """As it was when it was saved."""
        best, seen = Best(**saved["best"]), Seen(**saved["seen"])
        # which no state had at first
        skipped, clocks = saved.get("skipped", 0), Clocks(**saved.get("clocks", {}))
        return cls(step, saved["evaluated"], best, saved["seconds"], saved["loss"], seen, skipped, clocks)


def _nothing() -> None:
    """Of what is saved at once there is nothing to wait for."""


def _never(_: OutOfMemory) -> bool:
    """Micro-batches are what they are."""
    return False


@dataclass(frozen=True)
class Timetable:
    """When things happen, in steps. `evaluate_every` and `save_every` count from the run's beginning.

    `steps_per_epoch` is infinite where nobody knows it: no part of an epoch has passed then, as far as one can tell. So
    many steps as `nan_limit` may be skipped in a run.
    """

    steps: int
    steps_per_epoch: float
    evaluate_every: int
    save_every: int
    measure: str
    stop: Stop | None = None
    nan_limit: int = 0


@dataclass(frozen=True)
class Loop:
    """One run over `windows`, which begin after `state.step` finished steps.

    `evaluate` gives the scores of the validation samples by name (None: there are none); `asked` tells whether the run
    was asked to stop from outside. Where a `world` of several processes trains, each has its share of the windows, its
    own `asked`, and the rest in common: whatever one of them meets, all of them do the same next. `gauges` are read
    once a step.

    `durable` returns once everything that was saved is on the disk. `smaller` tells whether a step that memory did not
    suffice for can be made in smaller micro-batches: then Again is raised.
    """

    step: Step
    schedule: Schedule
    timetable: Timetable
    evaluate: Callable[[], Mapping[str, float]] | None
    save: Saver
    observers: Sequence[Observer]
    asked: Callable[[], bool]
    world: World = ALONE
    gauges: Gauges = UNREAD
    durable: Callable[[], None] = _nothing
    smaller: Callable[[OutOfMemory], bool] = _never

    def run(self, windows: Iterator[tuple[Batch, ...]], state: LoopState) -> None:
        """Train to the end, or raise Interrupted once everything is saved."""
        times = self.timetable
        while True:
            improved = self._evaluate_when_due(state)
            done = state.step >= times.steps or self._out_of_patience(state)
            if improved or done or self._due(state, times.save_every):
                began = time.perf_counter()
                self.save(state.saved(), state.step, improved)
                state.clocks.spend("saving", time.perf_counter() - began)
            if done:
                state.clocks.use(self.gauges.joules())
                return self.durable()
            report = self._next(windows, state)
            for observer in self.observers:
                observer.on_step(report)

    def _out_of_patience(self, state: LoopState) -> bool:
        """Whether the evaluation of this very step ended the waiting: between evaluations nothing is known."""
        times = self.timetable
        return 0 < state.step == state.evaluated and state.best.exhausted(times.stop, state.step, times.steps)

    def _due(self, state: LoopState, every: int) -> bool:
        return state.step > 0 and state.step % every == 0

    def _evaluate_when_due(self, state: LoopState) -> bool:
        """Measure where the timetable says so; whether this is the best so far."""
        times = self.timetable
        due = self._due(state, times.evaluate_every) or (state.step == times.steps > 0)
        if self.evaluate is None or not due or state.evaluated == state.step:
            return False
        began = time.perf_counter()
        try:
            values = self.evaluate()
        except (StopAsked, FinesightError) as error:
            raise self._left(StopAsked() if self.asked() else error, state) from error.__cause__
        seconds = time.perf_counter() - began
        state.clocks.spend("evaluation", seconds)
        threshold = times.stop.threshold if times.stop else 0.0
        value = float(state.step) if times.measure == "last" else values[times.measure]
        improved = state.best.update(times.measure, value, state.step, threshold)
        state.evaluated = state.step
        epoch = state.step / times.steps_per_epoch
        report = EvaluationReport(state.step, "val", values, improved, epoch, state.loss, seconds)
        for observer in self.observers:
            observer.on_evaluation(report)
        return improved

    def _wait(
        self, windows: Iterator[tuple[Batch, ...]], state: LoopState
    ) -> tuple[tuple[Batch, ...], Agreed, dict[str, float]]:
        """This process's share of the next step, once all processes have theirs and know of each other's; and the
        seconds that it waited for its own, and then for the others."""
        began = time.perf_counter()
        window: tuple[Batch, ...] = ()
        failed: StopAsked | FinesightError | None = None
        try:
            if self.asked():
                raise StopAsked
            window = next(windows)
        except (StopAsked, FinesightError) as error:
            failed = StopAsked() if self.asked() else error  # who asks to stop may end workers, too
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = no_room_for_data(self.step.device, state.step + 1)
        between = time.perf_counter()
        try:
            step = agreed(self.world.together(facts_of(window), failed))
        except (StopAsked, FinesightError) as error:
            raise self._left(error, state) from error.__cause__
        after = time.perf_counter()
        if self.world.size == 1:
            return window, step, {"data": after - began}
        return window, step, {"data": between - began, "communication": after - between}

    def _left(self, error: StopAsked | FinesightError, state: LoopState) -> FinesightError:
        """What is told of a wait or a measurement that was broken off, once everything is saved."""
        self.save(state.saved(), state.step, False)
        self.durable()
        if isinstance(error, StopAsked):
            return interrupted(state.step, self.timetable.steps)
        *others, last = error.faults
        saved = f"what was learned in {state.step} steps is saved: --resume goes on from there"
        if self._alone and self.world.strategy == "fsdp":  # its slices were not all there
            saved = "--resume goes on from the last checkpoint"
        error.faults = (*others, replace(last, mend=f"{last.mend}; {saved}"))
        return error

    @property
    def _alone(self) -> bool:
        """Whether another process was lost, so that nothing more can be agreed."""
        return self.world.control is not None and self.world.control.alone

    def _broken_off(self, lack: OutOfMemory, state: LoopState) -> Exception:
        """What is raised of a step that memory did not suffice for; all but that is as if it had not begun."""
        updating = self.step.updating
        self.step.forget()
        give_back(self.step.device)
        if self.world.control is not None:  # the others wait in a collective that never comes
            self.world.control.part(lack)
        if updating:  # perhaps of some weights and not of others: they are not to be saved
            fault = lack.faults[0]
            mend = f"{fault.mend}; --resume goes on from the last checkpoint"
            lack.faults = (replace(fault, mend=mend),)
            return lack
        if self.smaller(lack):
            state.again += 1
            return Again()
        return self._left(lack, state)

    def _next(self, windows: Iterator[tuple[Batch, ...]], state: LoopState) -> StepReport:
        began = time.perf_counter()
        window, step, waited = self._wait(windows, state)
        number = state.step + 1
        rate = self.schedule.rate(number)
        lack: OutOfMemory | None = None
        try:
            with self.world.telling():
                result = self.step(window, number, rate, step)
        except FinesightError as error:
            if not isinstance(error, (Lost, TrainingError)) and not self._alone:
                raise
            # a loss that is no number, or another process that ended before the update: the weights are those of the
            # step before, in all processes that are left
            raise self._left(error, state) from error.__cause__
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            lack = out_of_memory(self.step.computing, self.step.device, number)
        if lack is not None:  # where the error is gone, and with it what it holds
            raise self._broken_off(lack, state)
        if result.skipped and state.skipped >= self.timetable.nan_limit:
            raise self._left(no_number(result.loss, result.grad_norm, number, step, state.skipped), state)
        if result.skipped:
            told = "step %d is skipped: the loss is %s, the gradient norm %s (samples %s)"
            _log.warning(told, number, result.loss, result.grad_norm, ", ".join(step.ids[:8]))
        total = time.perf_counter() - began
        state.step, state.seconds = number, state.seconds + total
        state.skipped += result.skipped
        broken_off, state.again = state.again, 0
        state.loss = state.loss if result.skipped else result.loss
        state.seen.add(step)
        beside = {"decode": sum(batch.seconds for batch in window), **state.clocks.taken()}
        together = waited.get("communication", 0.0) + result.seconds.get("communication", 0.0)
        shared = {"communication": together} if self.world.size > 1 else {}
        effort, joules = self.gauges.effort, self.gauges.joules()
        state.clocks.use(joules)
        return StepReport(
            step=number,
            steps=self.timetable.steps,
            epoch=number / self.timetable.steps_per_epoch,
            loss=result.loss,
            lr=rate,
            grad_norm=result.grad_norm,
            samples=step.samples,
            tokens=step.tokens,
            supervised_tokens=step.supervised,
            seconds={**waited, **result.seconds, **shared, "total": total, **beside},
            ids=step.ids,
            positions=step.positions,
            skipped=result.skipped,
            mfu=effort.share(step.positions, total) if effort else None,
            joules=joules,
            broken_off=broken_off,
        )


def interrupted(step: int, steps: int) -> Interrupted:
    """The error of a run that was asked to stop and has saved itself."""
    return Interrupted(
        f"stopped after step {step} of {steps}; everything is saved",
        "this run",
        "continue with the same command and --resume",
    )
