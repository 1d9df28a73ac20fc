"""Learning from streams, through the same commands: killed, stopped and continued, it is the run that was never cut."""

import base64
import io
import json
import os
import signal
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import begin, essence, finish, picture_bytes, rows, steps_made, tiny_mapping, wait_for

from finesight.config.load import parse_recipe
from finesight.core.errors import DataError, RecipeError
from finesight.runtime.notices import Notices
from finesight.workflows import train as workflow
from finesight.workflows.dry_run import try_one_batch
from finesight.workflows.evaluate import evaluate
from finesight.workflows.prepare import course_of, prepare

COUNT, STEPS = 30, 25
COLOURS = ["red", "green", "blue", "white", "yellow", "black", "orange and more"]


def _row(number: int) -> tuple[bytes, str]:
    first, second = COLOURS[number % 7], COLOURS[(3 * number + number // 7) % 7]
    return picture_bytes(first, second), f"{first}, {second}" + "!" * (number % 4)


def write_jsonl(folder: Path) -> Path:
    lines = []
    for number in range(COUNT):
        picture, answer = _row(number)
        (folder / f"{number}.png").write_bytes(picture)
        row = {
            "image": f"{number}.png",
            "question": "Which colours?",
            "answer": answer,
            "kind": f"k{number % 2}",
        }
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def write_tars(folder: Path) -> Path:
    """Two shards; the rows and the ids are those of the JSON Lines."""
    for shard in range(2):
        with tarfile.open(folder / f"rows-{shard}.tar", "w") as archive:
            for number in range(shard * COUNT // 2, (shard + 1) * COUNT // 2):
                picture, answer = _row(number)
                told = json.dumps({"question": "Which colours?", "answer": answer, "kind": f"k{number % 2}"})
                for ending, content in (("png", picture), ("json", told.encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder / "rows-{0..1}.tar"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    write_jsonl(folder)
    write_tars(folder)
    return folder


def mapping(data: Path, folder: Path, kind: str, workers: int = 0, **train: Any) -> dict[str, Any]:
    """A recipe that streams, with a source of its own for validation."""
    train = {"max_steps": STEPS, **train}
    found = tiny_mapping(data, folder, train=train, evaluation={"every": 10})
    source = {"source": "json", "path": str(data / "rows.jsonl"), "tags": ["kind"]}
    stream = {"stream": True, "buffer": 8}
    if kind == "tar":
        stream |= {"source": "tar", "path": str(data / "rows-{0..1}.tar"), "tags": ["kind"]}
    found["data"]["train"] = {**source, **stream}
    found["data"]["val"] = {**source, "max_samples": 6}
    found["data"]["workers"] = workers
    return found


def complete(found: dict[str, Any], resume: bool = False) -> Path:
    process = begin(found, resume=resume)
    folder = Path(found["run"]["dir"])
    assert finish(process) == 0, Path(f"{folder}.stderr").read_text()
    return folder


@pytest.fixture(scope="module", params=["json", "tar"])
def unbroken(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete(mapping(data, tmp_path_factory.mktemp("unbroken") / request.param, request.param))


def same(one: Path, other: Path) -> None:
    ours, theirs = essence(one), essence(other)
    for name, value in ours.items():
        assert value == theirs[name], name


def test_killed_and_stopped_it_goes_on_as_if_nothing_were(unbroken: Path, data: Path, tmp_path: Path) -> None:
    """In the first pass and in a later one, with another number of workers each time."""
    workers = 0 if unbroken.name == "json" else 2
    found = mapping(data, tmp_path / "run", unbroken.name, workers)
    for number, (step, how) in enumerate([(4, signal.SIGTERM), (13, signal.SIGKILL)]):
        process = begin(
            {**found, "data": {**found["data"], "workers": (workers + number) % 3}}, resume=number > 0
        )
        wait_for(lambda step=step: steps_made(tmp_path / "run") >= step, process)
        os.kill(process.pid, how)
        finish(process)
        assert process.exitcode in (75, -signal.SIGKILL), (tmp_path / "run.stderr").read_text()
    same(complete(found, resume=True), unbroken)


def test_each_row_is_seen_once_a_pass(unbroken: Path) -> None:
    seen = [name for row in rows(unbroken / "samples.jsonl") for name in row["ids"]]
    passes = [seen[at : at + COUNT] for at in (0, COUNT, 2 * COUNT)]
    assert Counter(passes[0]) == Counter(passes[1])
    assert sorted(int(name.rpartition("-")[2]) for name in passes[0]) == list(range(1, COUNT + 1))
    assert passes[0] != passes[1] != passes[2]


def test_what_is_recorded_of_a_stream(unbroken: Path) -> None:
    environment = json.loads((unbroken / "environment.json").read_text())
    told = environment["data"]["train"]
    assert told["stream"] is True and told["buffer"] == 8 and len(told["fingerprint"]) == 32
    assert told["samples"] == (None if unbroken.name == "tar" else COUNT)
    notices = [(row["kind"], row["text"]) for row in json.loads((unbroken / "notices.json").read_text())]
    words = " ".join(text for kind, text in notices if kind == "stream")
    assert (
        "8 rows are shuffled among each other" in words
        and "the tokenizer learns from the first 8 rows" in words
    )
    plan = json.loads((unbroken / "plan.json").read_text())
    seen = [row for row in rows(unbroken / "metrics.jsonl") if "loss" in row]
    assert plan["measured"]["samples"] == sum(row["samples"] for row in seen)
    assert plan["measured"]["tokens"] == sum(row["tokens"] for row in seen)
    assert plan["predicted"]["samples"] == STEPS * 4
    card = (unbroken / "model" / "README.md").read_text()
    assert ("a stream of samples" if unbroken.name == "tar" else f"{COUNT} samples") in card


def test_a_stream_that_changed_is_another_run(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder)
    found = mapping(folder, tmp_path / "run", "json", max_steps=400)
    process = begin(found)
    wait_for(lambda: steps_made(tmp_path / "run") >= 2, process)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 75
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write("\n")
    process = begin(found, resume=True)
    assert finish(process) == 2
    assert "the data changed since this run began" in (tmp_path / "run.stderr").read_text()


def test_a_row_that_turns_out_to_be_bad(data: Path, tmp_path: Path) -> None:
    """Left out of its batch and listed where the recipe says so, over an interruption too; else the run ends, saved."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder)
    (folder / "19.png").write_bytes(b"no picture")
    found = mapping(folder, tmp_path / "run", "json", 0)
    process = begin(found)
    assert finish(process) == 2
    told = (tmp_path / "run.stderr").read_text()
    assert "rows.jsonl, row 20" in told and "--resume goes on from there" in told
    assert (tmp_path / "run" / "checkpoints" / "last").is_file()
    found = mapping(folder, tmp_path / "skipped", "json", 2)
    found["data"]["on_bad_row"] = "skip"
    process = begin(found)
    wait_for(lambda: steps_made(tmp_path / "skipped") >= 9, process)
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    run = complete(found, resume=True)
    faults = (run / "faults.csv").read_text().splitlines()
    assert len(faults) == 2 and "rows.jsonl,20," in faults[1]
    seen = [name for row in rows(run / "samples.jsonl") for name in row["ids"]]
    assert Counter(seen)["rows-20"] == 0 and Counter(seen)["rows-21"] == 3
    assert any(row["kind"] == "dropped" for row in json.loads((run / "notices.json").read_text()))


def hub_folder(folder: Path) -> Path:
    """A folder that `datasets` streams: pictures within the rows."""
    folder.mkdir()
    lines = []
    for number in range(COUNT):
        picture, answer = _row(number)
        row = {"image": base64.b64encode(picture).decode(), "question": "Which colours?", "answer": answer}
        lines.append(json.dumps({**row, "kind": "k"}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("kind", ["tar", "address", "hub"])
def test_one_batch_of_a_stream_is_tried(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mapping(data, tmp_path / "run", "tar" if kind == "tar" else "json", workers=1)
    if kind == "address":
        memory = pytest.importorskip("fsspec").filesystem("memory")
        monkeypatch.setattr(type(memory), "store", {})
        memory.pipe("/rows.jsonl", (data / "rows.jsonl").read_bytes())
        found["data"]["train"] |= {"path": "memory://rows.jsonl", "root": str(data)}
    if kind == "hub":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        found["data"]["train"] |= {"source": "hub", "path": str(hub_folder(tmp_path / "hub"))}
    told = try_one_batch(parse_recipe(found))
    assert told["data"]["train"]["samples"] is None
    assert told["status"] == "dry run passed" and told["steps"] == STEPS
    assert not (tmp_path / "run").exists()


def test_a_stream_of_known_length_has_epochs(data: Path, tmp_path: Path) -> None:
    found = mapping(data, tmp_path / "run", "json", max_steps=None, epochs=2)
    found["evaluation"].pop("every")
    recipe = parse_recipe(found)
    course = course_of(recipe, prepare(recipe, Notices()))
    assert course.steps_per_epoch == 8


REFUSED = {
    "a share for validation": ({"val": {"split": 0.1}}, "`val` is a part of `train`"),
    "a stream for validation": ({"val": {"stream": True}}, "`val` is a stream"),
    "repeats": ({"train": {"repeat": 2}}, "`repeat` means nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_stream_cannot_have_is_told_by_the_recipe(case: str, data: Path, tmp_path: Path) -> None:
    changes, text = REFUSED[case]
    found = mapping(data, tmp_path / "run", "json")
    for key, change in changes.items():
        found["data"][key] = change if "split" in change else {**found["data"][key], **change}
    with pytest.raises(RecipeError, match=text):
        parse_recipe(found)


def test_no_batches_to_overfit_on(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`train\.overfit` sees a few batches again and again"):
        parse_recipe(mapping(data, tmp_path / "run", "json", overfit=1))


def test_all_that_needs_a_length_is_told_at_once(data: Path, tmp_path: Path) -> None:
    found = mapping(data, tmp_path / "run", "tar", max_steps=None, epochs=2)
    found["evaluation"].pop("every")
    with pytest.raises(RecipeError) as caught:
        prepare(parse_recipe(found), Notices())
    assert [fault.where for fault in caught.value.faults] == ["train.epochs", "evaluation.every"]


def test_a_stream_without_a_good_row_ends_before_step_1(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder)
    for picture in folder.glob("*.png"):
        picture.unlink()
    found = mapping(folder, tmp_path / "run", "json")
    found["data"].pop("val")
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1"):
        prepare(parse_recipe(found), Notices())
    found["data"]["on_bad_row"] = "skip"
    with pytest.raises(DataError, match="none of the first 8 rows"):
        prepare(parse_recipe(found), Notices())


def test_a_run_on_a_stream_is_evaluated_again(unbroken: Path, tmp_path: Path) -> None:
    told = evaluate(str(unbroken), split="val", out=tmp_path / "again")
    assert {score["count"] for score in told["scores"] if score["slice"] == "all"} == {6}


def test_the_report_of_a_stream(unbroken: Path) -> None:
    page = workflow.build_report(unbroken).read_text()
    assert "Traceback" not in page and "shuffled among each other" in page
