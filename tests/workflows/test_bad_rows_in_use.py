"""Rows whose pictures turn out to be bad only when they are used: left out and listed, or the end of the run."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import picture_bytes, rows, tiny_mapping

from finesight.config.load import parse_recipe
from finesight.core.errors import DataError
from finesight.workflows import train as workflow
from finesight.workflows.evaluate import evaluate

COLOURS = ["red", "green", "blue", "white", "yellow", "black"]
BAD = {"train": [3, 17], "val": [2, 5]}


def write(folder: Path, name: str, count: int) -> Path:
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "question", "answer", "kind"])
        for number in range(count):
            first, second = COLOURS[number % 6], COLOURS[(5 * number + 1) % 6]
            content = picture_bytes(first, second)
            broken = content[:40] if number in BAD[name] else content  # a picture by its first bytes
            (folder / f"{name}-{number}.png").write_bytes(broken)
            table.writerow([f"{name}-{number}.png", "Which colours?", f"{first}, {second}", f"k{number % 2}"])
    return folder / f"{name}.csv"


@pytest.fixture
def mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    found = tiny_mapping(write(tmp_path, "train", 24), tmp_path / "run", train={"max_steps": 12})
    columns = found["data"]["train"]["columns"]
    val = {"source": "csv", "path": str(write(tmp_path, "val", 8)), "columns": columns, "tags": ["kind"]}
    found["data"] |= {"val": val, "check": "quick", "on_bad_row": "skip", "workers": 1}
    found["evaluation"] |= {"baselines": True, "max_samples": 4}
    return found


def test_they_are_left_out_everywhere_and_listed(mapping: dict[str, Any], tmp_path: Path) -> None:
    workflow.train(parse_recipe(mapping))
    run = tmp_path / "run"
    with open(run / "faults.csv") as stream:
        found = {(Path(row["file"]).name, int(row["row"]), row["column"]) for row in csv.DictReader(stream)}
    assert found == {
        *(("train.csv", number + 1, "image") for number in BAD["train"]),
        *(("val.csv", number + 1, "image") for number in BAD["val"]),
    }
    seen = [name for row in rows(run / "samples.jsonl") for name in row["ids"]]
    assert len(seen) == 2 * 22 and not {"train-4", "train-18"} & set(seen)
    measured = json.loads((run / "plan.json").read_text())["measured"]
    assert measured["samples"] == len(seen)
    answers = [row["id"] for row in rows(run / "predictions" / "val.jsonl")]
    assert answers == [f"val-{number + 1}" for number in range(8) if number not in BAD["val"]]
    results = json.loads((run / "results.json").read_text())
    assert {row["count"] for row in results["scores"] if row["slice"] == "all"} == {6}
    assert {row["baseline"] for row in results["baselines"]} == {"majority", "nearest picture"}
    notices = json.loads((run / "notices.json").read_text())
    assert [row["count"] for row in notices if "met in use" in row["text"]] == [4]
    again = evaluate(str(run), split="val", out=tmp_path / "again")
    assert {row["count"] for row in again["scores"] if row["slice"] == "all"} == {6}


def test_or_the_run_ends_with_the_first_saved(mapping: dict[str, Any], tmp_path: Path) -> None:
    mapping["data"]["on_bad_row"] = "stop"
    for number in BAD["train"]:
        (tmp_path / f"train-{number}.png").write_bytes(picture_bytes("red", "red"))
    with pytest.raises(DataError, match=r"val\.csv, row \d+") as caught:
        workflow.train(parse_recipe(mapping))
    assert "what was learned in 5 steps is saved: --resume goes on from there" in caught.value.faults[0].mend
    assert (tmp_path / "run" / "checkpoints" / "last").is_file()
    assert len((tmp_path / "run" / "faults.csv").read_text().splitlines()) == 2
