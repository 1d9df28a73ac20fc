"""The loop with two layers and a list of batches: no model, no data, no files."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from toys import TwoLayers, supervised_logits, windows

from finesight.config.train import Stop, Train
from finesight.core.errors import DataError, Interrupted, WorkerError
from finesight.core.events import EvaluationReport, StepReport
from finesight.training.loop import Loop, LoopState, StopAsked, Timetable
from finesight.training.optim import build_optimizer
from finesight.training.precision import Precision
from finesight.training.schedule import Schedule
from finesight.training.step import Step


class Bench:
    """Collaborators that write down what the loop asks of them."""

    def __init__(self, values: list[float] | None = None, **times: Any) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.reports: list[StepReport] = []
        self.evaluations: list[EvaluationReport] = []
        self.saved: dict[int, Mapping[str, Any]] = {}
        self.stop_at: int | None = None
        self.values = iter(values or [])
        model = TwoLayers(dropout=0.1)
        optimizer = build_optimizer(model, Train(max_steps=1))
        step = Step(
            model, supervised_logits(model), optimizer, Precision("fp32", "cpu"), 1.0, 0, torch.device("cpu")
        )
        self.model = model
        settings = {
            "steps": 6,
            "steps_per_epoch": 4,
            "evaluate_every": 2,
            "save_every": 3,
            "measure": "val_loss",
        } | times
        self.times = Timetable(**settings)
        self.loop = Loop(
            step=step,
            schedule=Schedule(0.01, self.times.steps, 2, "cosine"),
            timetable=self.times,
            evaluate=self.evaluate if values is not None else None,
            save=self.save,
            observers=[self],
            asked=lambda: self.stop_at is not None and len(self.reports) >= self.stop_at,
        )

    def evaluate(self) -> dict[str, float]:
        self.events.append(("evaluate", len(self.reports)))
        return {"val_loss": next(self.values), "cider": 0.5}

    def save(self, state: Mapping[str, Any], step: int, best: bool) -> None:
        self.events.append(("save", step, best))
        self.saved[step] = state

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)

    def on_evaluation(self, report: EvaluationReport) -> None:
        self.evaluations.append(report)

    def on_phase(self, name: str, total: int) -> None: ...

    def on_progress(self, done: int) -> None: ...

    def run(self, state: LoopState | None = None) -> LoopState:
        state = state or LoopState()
        self.loop.run(windows(state.step, self.times.steps), state)
        return state


def test_steps_evaluations_and_saves_come_in_their_order() -> None:
    bench = Bench([3.0, 2.0, 2.5])
    state = bench.run()
    assert bench.events == [
        ("evaluate", 2), ("save", 2, True),
        ("save", 3, False),
        ("evaluate", 4), ("save", 4, True),
        ("evaluate", 6), ("save", 6, False),
    ]  # fmt: skip
    assert [report.step for report in bench.reports] == list(range(1, 7))
    assert [report.epoch for report in bench.reports] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert [report.lr for report in bench.reports] == [bench.loop.schedule.rate(step) for step in range(1, 7)]
    assert (state.step, state.best.step, state.best.value) == (6, 4, 2.0)
    first = bench.reports[0]
    assert (first.samples, len(first.ids)) == (4, 4)
    assert first.supervised_tokens == sum(batch.supervised for batch in next(windows(0, 1)))
    phases = {"data", "forward", "backward", "optimizer"}
    assert set(first.seconds) == phases | {"total", "decode", "evaluation", "saving"}
    assert sum(first.seconds[phase] for phase in phases) <= first.seconds["total"] + 1e-6
    assert [report.step for report in bench.reports if report.seconds["evaluation"]] == [3, 5]
    assert [report.step for report in bench.reports if report.seconds["saving"]] == [3, 4, 5]
    assert state.clocks.evaluation == sum(told.seconds for told in bench.evaluations)
    told = bench.evaluations[1]
    assert (told.step, told.epoch, told.train_loss, told.best) == (4, 1.0, bench.reports[3].loss, True)


def test_the_end_is_measured_and_saved_whatever_the_timetable() -> None:
    bench = Bench([1.0], steps=5, evaluate_every=100, save_every=100)
    bench.run()
    assert bench.events == [("evaluate", 5), ("save", 5, True)]


def test_nothing_to_measure() -> None:
    bench = Bench(None)
    bench.run()
    assert bench.events == [("save", 3, False), ("save", 6, False)]


def test_it_learns() -> None:
    bench = Bench(None, steps=150)
    batch = next(windows(0, 1))
    bench.loop.run(iter([batch] * 150), LoopState())
    assert bench.reports[-1].loss < bench.reports[0].loss / 3


def test_patience_ends_the_run() -> None:
    bench = Bench([1.0, 2.0, 3.0, 0.5], steps=8, stop=Stop(patience=2))
    assert bench.run().step == 6
    assert bench.events[-1] == ("save", 6, False)


def test_patience_as_a_share_waits_for_an_evaluation() -> None:
    # 0.1 of 10 steps have passed without progress at step 1, when nothing was measured yet
    bench = Bench([1.0, 2.0], steps=10, evaluate_every=4, save_every=100, stop=Stop(patience=0.1))
    assert bench.run().step == 8
    assert [event for event in bench.events if event[0] == "evaluate"] == [("evaluate", 4), ("evaluate", 8)]


def test_a_measure_that_is_no_number_stops_nothing_and_wins_nothing() -> None:
    bench = Bench([math.nan, 2.0, math.nan])
    state = bench.run()
    assert (state.best.value, state.best.step) == (2.0, 4)


@pytest.mark.parametrize("at", range(6))
def test_asked_to_stop_it_saves_and_goes_on_where_it_was(at: int) -> None:
    values = {2: 3.0, 4: 2.0, 6: 2.5}
    whole = Bench(list(values.values()))
    whole.run()
    bench = Bench(list(values.values()))
    bench.stop_at = at
    with pytest.raises(Interrupted) as caught:
        bench.run()
    assert caught.value.exit_status == 75
    assert f"after step {at} of 6" in str(caught.value)
    assert bench.events[-1][:2] == ("save", at)
    bench.stop_at = None
    state = LoopState.restored(at, bench.saved[at])
    bench.run(state)
    assert [report.loss for report in bench.reports] == [report.loss for report in whole.reports]
    assert [(e.step, e.values, e.best) for e in bench.evaluations] == [
        (e.step, e.values, e.best) for e in whole.evaluations
    ]


def test_asked_inside_an_evaluation_it_saves_and_measures_again() -> None:
    bench = Bench([])
    bench.values = iter([1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "evaluate", lambda self: (_ for _ in ()).throw(StopAsked))
        bench.loop.__dict__["evaluate"] = bench.evaluate
        with pytest.raises(Interrupted):
            bench.run()
    assert bench.events == [("save", 2, False)]
    assert bench.saved[2]["evaluated"] == 0
    again = Bench([1.0, 2.0, 3.0])
    again.run(LoopState.restored(2, bench.saved[2]))
    assert again.events[:2] == [("evaluate", 0), ("save", 2, True)]


@pytest.mark.parametrize("error", [StopAsked(), WorkerError("a worker was ended", "step 3", "look")])
def test_asked_while_it_waits_for_data_it_saves(error: Exception) -> None:
    """Where a stop was asked for, a worker that has been ended by the same hand is no fault."""

    def broken() -> Any:
        yield from windows(0, 2)
        bench.stop_at = 2
        raise error

    bench = Bench(None)
    with pytest.raises(Interrupted, match="after step 2 of 6"):
        bench.loop.run(broken(), LoopState())
    assert bench.events == [("save", 2, False)]


def test_an_error_of_the_data_is_told_once_the_run_is_saved() -> None:
    def broken() -> Any:
        yield from windows(0, 4)
        raise DataError("row 7 is bad", "rows.csv, row 7", "mend it", "image")

    bench = Bench([1.0, 2.0])
    with pytest.raises(DataError, match="row 7 is bad") as caught:
        bench.loop.run(broken(), LoopState())
    assert bench.events[-1] == ("save", 4, False)
    assert caught.value.faults[0].mend == (
        "mend it; what was learned in 4 steps is saved: --resume goes on from there"
    )
    assert caught.value.column == "image"
    bench = Bench([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bench.loop.__dict__, "evaluate", lambda: next(broken_validation()))
        with pytest.raises(DataError, match="validation"):
            bench.run()
    assert bench.events == [("save", 2, False)]


def broken_validation() -> Any:
    raise DataError("a validation picture is gone", "val.csv, row 1", "put it back")
    yield


def test_an_error_that_nobody_foresaw_stays_what_it_is() -> None:
    bench = Bench(None)
    with pytest.raises(RuntimeError, match="on its own"):
        bench.loop.run(_raising(), LoopState())


def _raising() -> Any:
    raise RuntimeError("on its own")
    yield
