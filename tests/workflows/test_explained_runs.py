"""A run tells of its own steps: times of parts, utilisation, energy, memory and a trace; stopped and continued, too."""

import csv
import gzip
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, rows, tiny_mapping

from finesight.config.load import parse_recipe
from finesight.core.errors import Interrupted, RecipeError
from finesight.reports.page import render
from finesight.runtime.energy import Energy
from finesight.workflows import explained
from finesight.workflows import train as workflow

STEPS, STOP = 12, 5
FINER = ("decode", "inputs", "vision", "projector", "language_model", "head", "evaluation", "saving")
JOULES = 2.0


class Rising:
    """A counter that has risen by two joules whenever it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> int:
        self.reads += 1
        return self.reads

    def joules(self, before: int, now: int) -> float:
        return JOULES * (now - before)


@pytest.fixture(scope="module", autouse=True)
def measured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explained, "energy_of", lambda *_: Energy([Rising()], "a counter of a test"))
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        patch.setattr("finesight.reports.page.loss_svg", lambda rows, width: "")
        yield


def recipe(data: Path, folder: Path, **profile: Any) -> Any:
    settings = {"steps": [5, 6], **profile}
    return parse_recipe(tiny_mapping(data, folder, profile=settings, train={"max_steps": STEPS}))


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watcher]:
    """A run that nobody stopped, and who looked on."""
    folder, watcher = tmp_path_factory.mktemp("explained") / "whole", Watcher()
    workflow.train(recipe(tiny_data, folder, shapes=True, memory=True), observer=watcher)
    return folder, watcher


@pytest.fixture(scope="module")
def stopped(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was stopped within its trace."""
    folder = tmp_path_factory.mktemp("explained") / "stopped"
    stop = Watcher("step", STOP, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        workflow.train(recipe(tiny_data, folder), observer=stop)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "timing_logs.csv", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_times_of_parts_add_up_in_the_table_and_in_the_reports(whole: tuple[Path, Watcher]) -> None:
    folder, watcher = whole
    told = table(folder)
    assert [row["step"] for row in told] == [str(step) for step in range(1, STEPS + 1)]
    for row, report in zip(told, watcher.steps, strict=True):
        assert float(row["total"]) == pytest.approx(report.seconds["total"], abs=1e-6)
        assert all(float(row[name]) == pytest.approx(report.seconds[name], abs=1e-6) for name in FINER)
        assert row["audio"] == row["communication"] == ""
        parts = sum(report.seconds[name] for name in FINER[1:6])
        assert parts == pytest.approx(report.seconds["forward"])
        phases = sum(report.seconds[name] for name in ("data", "forward", "backward", "optimizer"))
        assert phases <= report.seconds["total"]
        assert report.seconds["decode"] > 0
    after = [int(row["step"]) for row in told if float(row["evaluation"])]
    assert after == [6, 11], "the steps after those that were evaluated"
    assert [int(row["step"]) for row in told if float(row["saving"])] == [6, 11]
    assert watcher.evaluations[0].seconds == watcher.steps[5].seconds["evaluation"]


def test_rates_and_utilisation(whole: tuple[Path, Watcher]) -> None:
    folder, watcher = whole
    plan = document(folder / "plan.json")
    flops = plan["predicted"]["flops"] / plan["predicted"]["positions"]
    assert plan["measured"]["flops"] == pytest.approx(flops * sum(r.positions for r in watcher.steps))
    steps = [row for row in rows(folder / "metrics.jsonl") if "loss" in row]
    for row, report in zip(steps, watcher.steps, strict=True):
        seconds = report.seconds["total"]
        assert row["samples_per_second"] == report.samples / seconds
        assert row["tokens_per_second"] == report.tokens / seconds
        assert row["supervised_tokens_per_second"] == report.supervised_tokens / seconds
        assert row["mfu"] == report.mfu
    # the peak is measured when a run begins and again when it goes on: both are of the same kind
    peaks = [flops * r.positions / (r.seconds["total"] * (r.mfu or 0)) for r in watcher.steps]
    assert max(peaks) == pytest.approx(min(peaks))
    assert plan["device"]["processes"] == 1
    assert 0 < plan["measured"]["mfu"] < 1.5 and 0 < plan["predicted"]["mfu"] < 1.5
    # two a value and position in the forward pass, twice as many in the backward pass, and some in attention
    environment = document(folder / "environment.json")
    learned = environment["parameters"]["language_model"]["trainable"]
    assert flops > 2 * learned


def test_memory_by_part(whole: tuple[Path, Watcher]) -> None:
    folder, _ = whole
    plan = document(folder / "plan.json")
    parameters = document(folder / "environment.json")["parameters"]
    predicted, measured = plan["predicted"]["memory"], plan["measured"]["memory"]
    for part, counts in parameters.items():
        assert predicted["gradients"][part] == measured["gradients"][part] == 4 * counts["trainable"]
        assert 4 * counts["total"] <= predicted["weights"][part] <= 4 * counts["total"] + 200, "buffers"
        assert predicted["optimizer"][part] == 8 * counts["trainable"]
        assert 0 <= measured["optimizer"][part] - predicted["optimizer"][part] < 200, "counters of steps"
    assert set(predicted["activations"]) == {"vision_tower", "projector", "language_model", "head"}
    assert predicted["logits"] > 0
    assert "activations" not in measured


def test_energy_is_added_up(whole: tuple[Path, Watcher]) -> None:
    folder, watcher = whole
    assert [report.joules for report in watcher.steps] == [JOULES] * STEPS
    assert {row["joules"] for row in table(folder)} == {f"{JOULES:.6f}"}
    # once more at the end, for the last evaluation and save
    expected = {"joules": JOULES * (STEPS + 1), "source": "a counter of a test"}
    assert document(folder / "results.json")["energy"] == expected


def trace(folder: Path, name: str) -> set[str]:
    """Names of what a trace holds."""
    with gzip.open(folder / "profile" / f"{name}.json.gz", "rt", encoding="utf-8") as stream:
        return {event.get("name", "") for event in json.load(stream)["traceEvents"]}


def test_the_chosen_steps_are_traced(whole: tuple[Path, Watcher]) -> None:
    folder, _ = whole
    assert sorted(path.name for path in (folder / "profile").iterdir()) == [
        "steps-5-6.json.gz",
        "steps-5-6.txt",
    ]
    names = trace(folder, "steps-5-6")
    assert {name for name in names if name.startswith("step ")} == {"step 5", "step 6"}
    assert "aten::addmm" in names
    text = (folder / "profile" / "steps-5-6.txt").read_text(encoding="utf-8")
    assert text.startswith("Operators of steps 5 to 6")
    assert "Input Shapes" in text and "Self CPU Mem" in text


def test_the_report_tells_it(whole: tuple[Path, Watcher]) -> None:
    page = render(whole[0])
    for words in ("vision tower", "head and loss", "(MFU)", "Memory of training", "a counter of a test"):
        assert words in page


def test_stopped_and_continued_it_is_the_same(
    whole: tuple[Path, Watcher], stopped: Path, tiny_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    workflow.train(recipe(tiny_data, folder), resume=True)
    one, other = (essence(place) for place in (whole[0], folder))
    assert all(one[name] == other[name] for name in one if name not in ("recipe.yaml",))
    filled = [[{name for name, cell in row.items() if cell} for row in table(f)] for f in (whole[0], folder)]
    assert filled[0] == filled[1]
    assert [row["step"] for row in table(folder)] == [str(step) for step in range(1, STEPS + 1)]
    assert float(table(folder)[STOP]["evaluation"]) > 0, "it was made before the stop"
    assert document(folder / "results.json")["energy"]["joules"] == JOULES * (STEPS + 1)
    # what was traced before the stop is kept; the rest is traced once
    assert sorted(path.name for path in (folder / "profile").glob("*.gz")) == [
        "steps-5-5.json.gz",
        "steps-6-6.json.gz",
    ]
    assert {name for name in trace(folder, "steps-6-6") if name.startswith("step ")} == {"step 6"}


def test_a_run_of_before_is_continued_with_the_columns_of_today(
    whole: tuple[Path, Watcher], stopped: Path, tiny_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    old = [line.split(",")[:6] for line in (folder / "timing_logs.csv").read_text().splitlines()]
    (folder / "timing_logs.csv").write_text("".join(",".join(cells) + "\n" for cells in old))
    plan = document(folder / "plan.json")
    del plan["device"], plan["predicted"]["flops"], plan["predicted"]["memory"]
    (folder / "plan.json").write_text(json.dumps(plan))
    assert "vision" not in render(folder).partition("Where the time went")[2].partition("</ul>")[0]

    mapping = tiny_mapping(tiny_data, folder, train={"max_steps": STEPS})
    workflow.train(parse_recipe(mapping), resume=True)  # without a profile, which changes nothing
    told = table(folder)
    assert [bool(row["vision"]) for row in told] == [False] * STOP + [True] * (STEPS - STOP)
    assert [[row[name] for name in old[0]] for row in told[:STOP]] == old[1:]
    assert essence(folder)["losses_log.csv"] == essence(whole[0])["losses_log.csv"]
    assert "mfu" not in rows(folder / "metrics.jsonl")[-3]
    page = render(folder)
    assert "incomplete rows" not in page
    assert "vision tower" in page


def test_steps_that_the_run_does_not_have_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        workflow.train(recipe(tiny_data, tmp_path / "run", steps=[10, 13]))
    (fault,) = caught.value.faults
    assert (fault.what, fault.where) == (
        "`profile.steps` ends with step 13, and the run has 12",
        "profile.steps",
    )


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([6, 4], "ends before it begins"),
        ([4], "profile.steps"),
        ([0, 4], "profile.steps"),
        (4, "profile.steps"),
    ],
)
def test_wrong_values(steps: Any, told: str, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="profile") as caught:
        recipe(tiny_data, tmp_path / "run", steps=steps)
    assert told in str(caught.value)
