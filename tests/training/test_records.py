import json
import math
from pathlib import Path

import pytest

from finesight.core.events import EvaluationReport, StepReport
from finesight.core.rundir import RunDirectory
from finesight.training.records import Records

SECONDS = {"data": 0.1, "forward": 0.2, "backward": 0.3, "optimizer": 0.1, "total": 0.7}


def _step(step: int, loss: float = 1.0) -> StepReport:
    return StepReport(step, 20, step / 10, loss, 1e-3, 2.0, 4, 40, 12, SECONDS, (f"s{step}",))


def _write(records: Records, first: int, last: int) -> None:
    for step in range(first, last + 1):
        records.on_step(_step(step, 1 / step))
        if step % 5 == 0:
            values = {"val_loss": 0.5, "cider": 0.25}
            records.on_evaluation(EvaluationReport(step, "val", values, True, step / 10, 1 / step))


def _text(run: RunDirectory) -> dict[str, str]:
    return {path.name: path.read_text() for path in (run.metrics, run.samples, run.losses, run.timing)}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def test_shapes(run: RunDirectory) -> None:
    _write(Records(run, 2, True), 1, 5)
    steps = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in steps] == [1, 2, 4, 5, 5]
    assert steps[0].keys() == {
        "step", "epoch", "loss", "lr", "grad_norm", "samples", "tokens", "supervised_tokens", "padding", "seconds",
        "samples_per_second", "tokens_per_second", "supervised_tokens_per_second",
    }  # fmt: skip
    assert steps[3:] == [
        {"step": 5, "split": "val", "name": n, "value": v} for n, v in (("val_loss", 0.5), ("cider", 0.25))
    ]
    assert run.losses.read_text().splitlines()[0] == "epoch,step,train_loss,val_loss"
    assert run.losses.read_text().splitlines()[-1] == "0.5,5,0.2,0.5"
    assert run.timing.read_text().splitlines()[0] == (
        "step,data,forward,backward,optimizer,total,decode,inputs,vision,audio,projector,language_model,head,"
        "communication,evaluation,saving,joules"
    )
    assert (
        run.timing.read_text().splitlines()[1] == "1,0.100000,0.200000,0.300000,0.100000,0.700000" + "," * 11
    )
    assert len(run.timing.read_text().splitlines()) == 6
    assert json.loads(run.samples.read_text().splitlines()[2]) == {"step": 3, "ids": ["s3"]}


def test_a_number_that_is_not_finite_is_still_json(run: RunDirectory) -> None:
    records = Records(run, 1, False)
    records.on_step(_step(1, math.nan))
    assert json.loads(run.metrics.read_text(), parse_constant=pytest.fail)["loss"] is None
    assert not run.samples.exists()


@pytest.mark.parametrize(("step", "evaluated"), [(10, True), (10, False), (7, False), (0, False), (3, False)])
def test_rewound_and_written_again_it_is_the_same(
    step: int, evaluated: bool, run: RunDirectory, tmp_path: Path
) -> None:
    other = RunDirectory(tmp_path / "other")
    _write(Records(other, 3, True), 1, 14)
    _write(Records(run, 3, True), 1, 12)
    records = Records(run, 3, True)
    records.rewind(step, evaluated)
    if step == 10 and not evaluated:  # it was stopped inside the evaluation
        records.on_evaluation(EvaluationReport(10, "val", {"val_loss": 0.5, "cider": 0.25}, True, 1.0, 0.1))
    _write(records, step + 1, 14)
    assert _text(run) == _text(other)


def test_an_unfinished_last_line_is_dropped(run: RunDirectory) -> None:
    _write(Records(run, 1, True), 1, 6)
    whole = _text(run)
    for path in (run.metrics, run.samples, run.losses, run.timing):
        with open(path, "a") as stream:
            stream.write('{"step": 7, "los' if path.suffix == ".jsonl" else "0.7,7")
    Records(run, 1, True).rewind(6, True)
    assert _text(run) == whole


def test_rewinding_nothing(run: RunDirectory) -> None:
    Records(run, 1, True).rewind(0, False)
    assert run.losses.read_text() == "epoch,step,train_loss,val_loss\n"
    assert not run.metrics.exists()
