"""A run directory holds all of a run: each file of the declared shape, and nothing that is secret."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, rows, tiny_mapping, tiny_recipe

from finesight.config.load import load_recipe, parse_recipe
from finesight.core.errors import TrainingError
from finesight.runtime.environment import without_secrets
from finesight.workflows import train as workflow
from finesight.workflows.dry_run import try_one_batch
from finesight.workflows.evaluate import evaluate
from finesight.workflows.train import train


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_every_file_of_the_layout_is_there(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()} - {".lock"}
    assert names == {
        "recipe.yaml", "environment.json", "log.txt", "metrics.jsonl", "samples.jsonl",
        "losses_log.csv", "timing_logs.csv",
        "loss_curve.png", "timing_curve.png", "checkpoints", "predictions", "results.json", "model", "plan.json",
        "report.html", "faults.csv", "notices.json", "pictures", "audit.json",
    }  # fmt: skip


def test_tables(finished_run: Path) -> None:
    metrics = rows(finished_run / "metrics.jsonl")
    steps = [row for row in metrics if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert all(row["samples"] == 4 and 0 < row["supervised_tokens"] < row["tokens"] for row in steps)
    assert steps[7]["epoch"] == 1.0, "32 samples, 4 at a time"
    measured = {(row["step"], row["name"]) for row in metrics if "name" in row}
    names = ("val_loss", "exact_match", "token_f1", "picture_true", "picture_blank", "picture_shuffled")
    assert measured == {(step, name) for step in (5, 10, 12) for name in names}
    with open(finished_run / "losses_log.csv") as stream:
        losses = list(csv.reader(stream))
    assert losses[0] == ["epoch", "step", "train_loss", "val_loss"]
    assert len(losses) == 1 + 12 + 3
    assert [row[1] for row in losses[1:] if row[3]] == ["5", "10", "12"]
    with open(finished_run / "timing_logs.csv") as stream:
        timing = list(csv.reader(stream))
    assert timing[0][:6] == ["step", "data", "forward", "backward", "optimizer", "total"]
    for row in timing[1:]:
        *phases, total = map(float, row[1:6])
        assert sum(phases) <= total + 1e-4
    ids = [row["ids"] for row in rows(finished_run / "samples.jsonl")]
    assert len({name for step in ids[:8] for name in step}) == 32, "each sample once an epoch"
    assert ids[:4] != ids[8:]


def test_documents(finished_run: Path) -> None:
    results = _json(finished_run / "results.json")
    scores = results["scores"]
    assert {row["slice"] for row in scores} == {"all", "kind=k0", "kind=k1"}
    for row in scores:
        assert row.keys() >= {"split", "slice", "name", "value", "low", "high", "count"}
        assert row["low"] <= row["value"] <= row["high"]
    assert results["training"]["steps"] == 12
    plan = _json(finished_run / "plan.json")
    assert plan["format"] == 1
    assert plan["measured"].keys() == plan["predicted"].keys()
    predicted = plan["predicted"]
    assert predicted.keys() >= {"peak_bytes", "seconds", "seconds_per_step", "tokens", "steps", "samples"}
    steps = [row for row in rows(finished_run / "metrics.jsonl") if "loss" in row]
    for name in ("samples", "tokens", "supervised_tokens"):
        assert predicted[name] == plan["measured"][name] == sum(row[name] for row in steps), name
    predictions = rows(finished_run / "predictions" / "val.jsonl")
    assert len(predictions) == 8
    for row in predictions:
        assert row.keys() >= {"id", "origin", "prompt", "prediction", "references", "tags"}
    assert (finished_run / "report.html").stat().st_size > 10_000
    assert (finished_run / "log.txt").read_text().count(
        " model: trainable"
    ) == 2  # of the whole, and of its language model


def test_environment_tells_what_is_needed_to_repeat_it(finished_run: Path) -> None:
    record = _json(finished_run / "environment.json")
    assert record["format"] == 1
    assert record["seed"] == 5
    assert record["resumed"] == []
    assert record["versions"].keys() >= {"python", "torch", "transformers", "finesight"}
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["command"][0] == Path(sys.argv[0]).name
    assert record["data"]["train"]["samples"] == 32
    assert record["data"]["val"]["samples"] == 8
    assert len(record["data"]["train"]["fingerprint"]) == 32
    assert record["compute"] == {"device": "cpu", "precision": "fp32", "threads": 1}
    assert record["git"] is None or len(record["git"]["commit"]) == 40
    parts = record["parameters"]
    assert parts.keys() == {"vision_tower", "projector", "language_model"}


SECRETS = ("hf_" + "Abcdefgh12345", "sk-" + "secretsecretsecret", "hunter22", "ghp_" + "abcdefghijkl")


@pytest.mark.proof
@pytest.mark.usefixtures("no_report")
def test_a_planted_secret_is_in_no_file(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "train",
        "r.yaml",
        f"--token={SECRETS[0]}",
        "--api-key",
        SECRETS[2],
        f"log.password={SECRETS[2]}",
    ]
    words += [SECRETS[0], f"x={SECRETS[1]}", f"https://me:{SECRETS[2]}@example.org/data", SECRETS[3]]
    monkeypatch.setattr(sys, "argv", ["finesight", *words])
    monkeypatch.setenv("HF_TOKEN", SECRETS[0])
    monkeypatch.setenv("WANDB_API_KEY", SECRETS[1])
    train(tiny_recipe(tiny_data, tmp_path / "run", train={"max_steps": 2}))
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            found = [secret for secret in SECRETS if secret.encode() in path.read_bytes()]
            assert not found, path
    command = _json(tmp_path / "run" / "environment.json")["command"]
    assert command[:3] == ["finesight", "train", "r.yaml"]
    assert "https://***@example.org/data" in command


def test_what_is_no_secret_stays() -> None:
    words = ["train", "quickstart", "train.lr=1e-4", "run.name=tokens-and-keys", "--resume"]
    words += [
        "generation.max_new_tokens=8",
        "model.scratch.tokenizer.vocabulary=300",
        "data.train.path=a@b/c.csv",
    ]
    assert without_secrets(words) == words


@pytest.mark.proof
@pytest.mark.usefixtures("no_report")
def test_the_recorded_recipe_alone_gives_the_same_run(finished_run: Path, tmp_path: Path) -> None:
    again = load_recipe(
        str(finished_run / "recipe.yaml"), [f"run.dir={tmp_path / 'again'}", "run.name=again"]
    )
    train(again)
    assert essence(tmp_path / "again") == essence(finished_run)


@pytest.mark.usefixtures("no_report")
def test_another_seed_is_another_run(finished_run: Path, tmp_path: Path) -> None:
    other = load_recipe(str(finished_run / "recipe.yaml"), [f"run.dir={tmp_path / 'other'}", "run.seed=6"])
    train(other)
    assert essence(tmp_path / "other")["samples.jsonl"] != essence(finished_run)["samples.jsonl"]


def test_a_dry_run_leaves_no_trace(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    told = train(tiny_recipe(tiny_data, Path("runs/dry")), dry_run=True)
    assert told["status"] == "dry run passed"
    assert told["steps"] == 12
    assert 3 < told["loss"] < 8
    assert told["seconds_per_step"] > 0
    assert not list((tmp_path / "here").iterdir())
    assert not list((tmp_path / "temporary").iterdir())
    assert told.keys() == try_one_batch(tiny_recipe(tiny_data, Path("runs/dry"))).keys()
    assert not list((tmp_path / "here").iterdir())


def test_one_batch_can_be_learned_by_heart(overfit_run: Path) -> None:
    losses = [row["loss"] for row in rows(overfit_run / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < 0.05
    ids = [tuple(row["ids"]) for row in rows(overfit_run / "samples.jsonl")]
    assert len(set(ids)) == 1


@pytest.mark.usefixtures("no_report")
def test_a_run_that_diverges_ends_with_its_weights_unharmed(tmp_path: Path, tiny_data: Path) -> None:
    recipe = tiny_recipe(
        tiny_data, tmp_path / "run", train={"lr": 1e30, "clip": 0, "warmup": 0, "max_steps": 30}
    )
    with pytest.raises(TrainingError, match="no step can be made of it"):
        train(recipe)
    assert not (tmp_path / "run" / "results.json").exists()


def test_observers_hear_of_everything(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    watcher = Watcher()
    summary = train(tiny_recipe(tiny_data, tmp_path / "run", train={"max_steps": 5}), observer=watcher)
    assert watcher.phases == ["check data", "encode train", "encode val", "train", "answer val"]
    assert [report.step for report in watcher.steps] == [1, 2, 3, 4, 5]
    assert [report.step for report in watcher.evaluations] == [5]
    assert summary["status"] == "finished"
    assert Path(summary["model"]).is_dir()
    assert "finesight generate" in summary["next"]


def test_evaluating_a_run_again_gives_its_own_scores(finished_run: Path, tmp_path: Path) -> None:
    again = evaluate(str(finished_run), split="val", out=tmp_path / "out")
    own = _json(finished_run / "results.json")
    assert again["scores"] == own["scores"]
    assert (tmp_path / "out" / "predictions" / "val.jsonl").read_bytes() == (
        finished_run / "predictions" / "val.jsonl"
    ).read_bytes()


@pytest.mark.usefixtures("no_report")
def test_bad_rows_are_listed(tmp_path: Path, tiny_data: Path) -> None:
    text = tiny_data.read_text().splitlines(keepends=True)
    text[3] = "bm90IGEgcGljdHVyZQ==,Which colours?,red,k0\n"
    (tmp_path / "bad.csv").write_text("".join(text))
    mapping = tiny_mapping(tmp_path / "bad.csv", tmp_path / "run", train={"max_steps": 1})
    mapping["data"]["on_bad_row"] = "skip"
    train(parse_recipe(mapping))
    with open(tmp_path / "run" / "faults.csv") as stream:
        faults = list(csv.DictReader(stream))
    assert [(row["file"], row["row"]) for row in faults] == [(str(tmp_path / "bad.csv"), "3")]
    assert faults[0]["reason"]
    assert {
        "kind": "dropped",
        "text": "rows that could not be used are listed in faults.csv",
        "count": 1,
    } in _json(tmp_path / "run" / "notices.json")
