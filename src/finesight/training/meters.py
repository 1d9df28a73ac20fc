"""Where a step's time goes: one line of time, cut where the step and hooks on the model's parts say so.

Each stretch has one name, so the names add up to the whole. On CUDA the cuts are events on the stream, read once when
the step is over; elsewhere they are the process's clock.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

FORWARD = ("inputs", "vision", "audio", "projector", "language_model", "head")
"""What the forward pass is made of: moving a batch to the device and turning its pictures to floats; the parts; the
output embeddings and the loss."""

WHOLE = "forward"
"""The forward pass where nothing is known of its parts."""

Point = tuple[str, nn.Module]
"""A module, and the name of the time that is spent in it, but for that in modules of other names within it."""


class Clock(Protocol):
    """Marks moments, and tells afterwards how far apart they were."""

    def mark(self) -> Any:
        """This moment."""

    def settle(self, last: Any) -> None:
        """Called once when the `last` mark is made: from then on all can be read."""

    def between(self, one: Any, other: Any) -> float:
        """Seconds between two marks."""


class HostClock:
    """The process's own clock."""

    def mark(self) -> float:
        """Now."""
        return time.perf_counter()

    def settle(self, last: float) -> None:
        """Nothing to wait for."""

    def between(self, one: float, other: float) -> float:
        """The difference."""
        return other - one


class CudaClock:
    """Events on a GPU's stream: what is computed is timed, not what is queued."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """An event behind all that was queued so far."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def settle(self, last: torch.cuda.Event) -> None:
        """Wait for the last event, and so for all."""
        last.synchronize()

    def between(self, one: torch.cuda.Event, other: torch.cuda.Event) -> float:
        """Seconds on the GPU."""
        return float(one.elapsed_time(other)) / 1000


def clock_of(device: torch.device) -> Clock:
    """The clock that fits a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


class Meter:
    """The times of one step after another.

    `begin`, `enter` and `forward` are called by the step; `inside` and `outside` by hooks, and heard in a forward pass
    alone: what is computed again in the backward pass belongs to that.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or HostClock()
        self._marks: list[tuple[str, Any]] = []
        self._within: list[str] = []
        self._watched = False

    def begin(self) -> None:
        """A new step; what is left of one that was broken off is forgotten."""
        self._marks.clear()
        self._within.clear()

    def enter(self, name: str) -> None:
        """From here on it is `name`."""
        self._within.clear()
        self._marks.append((name, self._clock.mark()))

    def forward(self) -> None:
        """A forward pass begins."""
        first = "inputs" if self._watched else WHOLE
        self.enter(first)
        self._within.append(first)

    def inside(self, name: str) -> None:
        """A part begins."""
        if self._within:
            self._within.append(name)
            self._marks.append((name, self._clock.mark()))

    def outside(self, name: str) -> None:
        """A part ends; after the whole model comes the loss."""
        if len(self._within) > 1:
            self._within.pop()
            if len(self._within) == 1:
                self._within[0] = "head"
            self._marks.append((self._within[-1], self._clock.mark()))

    def seconds(self) -> dict[str, float]:
        """Ends the step: seconds by name, and of the whole forward pass as `forward`."""
        self.enter("")
        clock, marks = self._clock, self._marks
        clock.settle(marks[-1][1])
        spent: dict[str, float] = {}
        for (name, one), (_, other) in pairwise(marks):
            spent[name] = spent.get(name, 0.0) + clock.between(one, other)
        self.begin()
        return {WHOLE: 0.0, **spent, **_forward(spent)}

    @contextmanager
    def watching(self, points: Sequence[Point]) -> Iterator[None]:
        """While open, the parts are told apart; afterwards no hook is left."""
        with hooked(points, self.inside, self.outside):
            self._watched = bool(points)
            try:
                yield
            finally:
                self._watched = False


def _forward(spent: Mapping[str, float]) -> dict[str, float]:
    parts = [spent[name] for name in FORWARD if name in spent]
    return {WHOLE: sum(parts)} if parts else {}


@contextmanager
def hooked(
    points: Iterable[Point], enter: Callable[[str], object], leave: Callable[[str], object]
) -> Iterator[None]:
    """While open, `enter` and `leave` are called with a point's name around the forward pass of its module.

    Inside of what `torch.compile` turns into one they are silent, and cost nothing.
    """
    handles: list[RemovableHandle] = []

    def hook(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, __: Any) -> None:
            if not torch.compiler.is_compiling():
                enter(name)

        def after(_: nn.Module, __: Any, ___: Any) -> None:
            if not torch.compiler.is_compiling():
                leave(name)

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    try:
        for name, module in points:
            hook(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Effort:
    """How much arithmetic a run's positions take, and how much its devices could do.

    `flops` are those of a forward and backward pass by position (padding among them), `peak` what all processes'
    devices together could do in a second.
    """

    flops: float
    peak: float

    def share(self, positions: int, seconds: float) -> float | None:
        """Model FLOPs utilisation (MFU): the share of the peak that so many positions in so much time are.

        Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B, with the FLOPs counted, not estimated.
        """
        return self.flops * positions / (self.peak * seconds) if seconds > 0 and self.peak > 0 else None


def _nothing() -> float | None:
    return None


@dataclass(frozen=True)
class Gauges:
    """What the loop asks when a step is over: its `effort`, where known, and the joules since it asked last."""

    effort: Effort | None = None
    joules: Callable[[], float | None] = _nothing


UNREAD = Gauges()
"""Gauges that tell nothing."""


@dataclass
class Clocks:
    """What a run has spent beside its steps: seconds of evaluations and of saves, and joules of everything (None: not
    measured); `since` are the seconds of both since the last step."""

    evaluation: float = 0.0
    saving: float = 0.0
    joules: float | None = None
    since: dict[str, float] = field(default_factory=dict)

    def spend(self, name: str, seconds: float) -> None:
        """Count an evaluation or a save."""
        self.since[name] = self.since.get(name, 0.0) + seconds
        if name == "evaluation":
            self.evaluation += seconds
        else:
            self.saving += seconds

    def use(self, joules: float | None) -> None:
        """Count what a meter of energy says."""
        if joules is not None:
            self.joules = (self.joules or 0.0) + joules

    def taken(self) -> dict[str, float]:
        """The seconds since the last step, which begin anew."""
        since = {"evaluation": 0.0, "saving": 0.0} | self.since
        self.since = {}
        return since
