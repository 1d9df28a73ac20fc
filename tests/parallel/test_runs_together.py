"""Whole runs of two processes: what they learn, save and answer is what one process does, and nothing is lost."""

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import rows, steps_made, tiny_mapping, write_pictures
from worlds import Running, as_command, commanded, start, trained

from finesight.cli.main import run
from finesight.config.load import parse_recipe
from finesight.training.checkpoint import load_checkpoint
from finesight.workflows.train import train

STEPS = 12
SIZES = {"heads": 2, "width": 32, "mlp": 48}
MODEL = {
    "vision": {"image_size": 16, "patch": 8, "layers": 1, **SIZES},
    "decoder": {"context": 96, "layers": 2, **SIZES},
    "tokenizer": {"vocabulary": 280},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "rows.csv", pairs=32)


def mapping(data: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    """Nothing random but the order; 26 training samples in steps of 5 and a last one of 1; micro-batches of 2."""
    train = {"batch_size": 5, "micro_batch": 2, "save_every": 3, **sections.pop("train", {})}
    found = tiny_mapping(data, folder, train=train, **sections)
    found["model"] = {"scratch": MODEL}
    del found["data"]["transforms"]
    return found


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        train(parse_recipe(mapping(data, folder)))
    return folder


def logged(folder: Path) -> list[list[float]]:
    names = ("step", "loss", "lr", "grad_norm", "samples", "tokens", "supervised_tokens")
    return [[row[name] for name in names] for row in rows(folder / "metrics.jsonl") if "loss" in row]


def scores(folder: Path) -> list[tuple[Any, ...]]:
    return [(r["step"], r["name"], r["value"]) for r in rows(folder / "metrics.jsonl") if "name" in r]


def same_run(ours: Path, theirs: Path) -> None:
    """All that a run learned and said, whatever the number of its processes: T11, T13 and T16."""
    for one, other in zip(logged(ours), logged(theirs), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert (ours / "samples.jsonl").read_text() == (theirs / "samples.jsonl").read_text()
    for one, other in zip(scores(ours), scores(theirs), strict=True):
        assert one[:2] == other[:2] and one[2] == pytest.approx(other[2], abs=1e-5)
    assert (ours / "predictions" / "val.jsonl").read_text() == (
        theirs / "predictions" / "val.jsonl"
    ).read_text()
    same_tensors(ours / "model" / "model.safetensors", theirs / "model" / "model.safetensors")
    assert (ours / "model" / "config.json").read_text() == (theirs / "model" / "config.json").read_text()
    results = [json.loads((folder / "results.json").read_text())["scores"] for folder in (ours, theirs)]
    assert results[0] == results[1]


def same_tensors(ours: Path, theirs: Path) -> None:
    one, other = load_file(ours), load_file(theirs)
    assert one.keys() == other.keys()
    # a key's bias moves no output: its gradient is rounding alone, which AdamW makes as large as any other
    learned = [name for name in one if not name.endswith("k_proj.bias")]
    assert max(float((one[name] - other[name]).abs().max()) for name in learned) <= 1e-5


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in folder.rglob("*")}


def explained(folder: Path) -> float:
    """FLOPs of a position; the times of a step are told, those of waiting for the others among them."""
    with open(folder / "timing_logs.csv", encoding="utf-8") as stream:
        told = list(csv.DictReader(stream))
    for row in told[:STEPS]:
        phases = ("data", "forward", "backward", "communication", "optimizer")
        assert sum(float(row[phase]) for phase in phases) <= float(row["total"]) + 1e-4
        assert float(row["communication"]) > 0 and float(row["language_model"]) > 0
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["device"]["processes"] == 2
    return float(plan["predicted"]["flops"] / plan["predicted"]["positions"])


def test_replicas_are_one_process(data: Path, alone: Path, tmp_path: Path) -> None:
    """T9 and T11: in micro-batches of another size, too."""
    ours = trained(mapping(data, tmp_path / "run", train={"micro_batch": 1}))
    same_run(ours, alone)
    assert files(ours) == files(alone)  # one process writes
    assert explained(ours) > 0
    notices = json.loads((ours / "notices.json").read_text())
    assert "2 processes train one model; each holds all of it (ddp)" in [row["text"] for row in notices]


def test_two_processes_evaluate_as_one(alone: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(alone), "--split", "train", "--json", "--out"]
    assert run([*words, str(tmp_path / "one")]) == 0
    told, nothing = commanded(tmp_path / "logs", 2, *words, str(tmp_path / "two"))
    assert nothing == "" and json.loads(told)["results"] == str(tmp_path / "two" / "results.json")
    for name in ("predictions/train.jsonl", "results.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert files(tmp_path / "two") == files(tmp_path / "one")
    refused = Running(tmp_path / "wrong", 2, as_command, (*words, str(tmp_path / "wrong"), "--spread"))
    assert refused.end() == [2, 2] and "start one process" in refused.said()


def wait_for_steps(running: Running, folder: Path, count: int) -> None:
    end = time.monotonic() + 240
    while steps_made(folder) < count:
        assert time.monotonic() < end and all(process.is_alive() for process in running.processes), (
            running.said()
        )
        time.sleep(0.005)


def test_slices_are_stopped_by_one_process_and_go_on_in_one(data: Path, alone: Path, tmp_path: Path) -> None:
    """T5, T13: SIGTERM to one of two; both save and end; one process goes on from the slices."""
    folder = tmp_path / "run"
    wanted = mapping(data, folder, parallel={"strategy": "fsdp"})
    running = start(wanted)
    wait_for_steps(running, folder, 4)
    os.kill(running.processes[1].pid or 0, signal.SIGTERM)
    assert running.end(120) == [75, 75], running.said()
    saved = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    assert {"__0_0.distcp", "__1_0.distcp", "slices.json", "manifest.json"} <= {
        path.name for path in saved.iterdir()
    }
    assert 4 <= load_checkpoint(saved).step < STEPS
    assert not list(folder.glob("process-*.log"))  # the first process tells what all know
    assert explained(folder) > 0
    running = start(wanted, resume=True)  # each reads its own slices
    wait_for_steps(running, folder, 7)
    os.kill(running.processes[0].pid or 0, signal.SIGTERM)
    assert running.end(120) == [75, 75], running.said()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        train(parse_recipe(mapping(data, folder)), resume=True)
    same_run(folder, alone)


def test_a_killed_process_ends_the_other_and_four_go_on(data: Path, alone: Path, tmp_path: Path) -> None:
    """T13: what one process began, two replicas go on with; one is killed, the other saves and says so; four processes
    with slices end it."""
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        _stop_after(2, mapping(data, folder))
    running = start(mapping(data, folder, parallel={"timeout": 10.0}), resume=True)
    wait_for_steps(running, folder, 5)
    began = time.monotonic()
    os.kill(running.processes[1].pid or 0, signal.SIGKILL)
    assert running.end(90) == [75, -9], running.said()
    assert time.monotonic() - began < 10 + 60
    said = running.logs[0].read_text()
    assert "a process of the 2 ended" in said or "process 1 of 2 is lost" in said
    assert "--resume goes on from there" in said
    ours = trained(mapping(data, folder, parallel={"strategy": "fsdp"}), size=4, resume=True)
    same_run(ours, alone)


def test_a_process_that_stands_still_ends_the_other_in_time(data: Path, tmp_path: Path) -> None:
    """Caught in a collective, with slices: it says which process it was, and the last checkpoint stays."""
    folder = tmp_path / "run"
    running = start(mapping(data, folder, parallel={"strategy": "fsdp", "timeout": 5.0}))
    wait_for_steps(running, folder, 4)
    os.kill(running.processes[1].pid or 0, signal.SIGSTOP)
    try:
        began = time.monotonic()
        running.processes[0].join(5 + 60)
        assert running.processes[0].exitcode == 75, running.said()
        assert time.monotonic() - began < 5 + 55
    finally:
        os.kill(running.processes[1].pid or 0, signal.SIGKILL)
    running.end()
    assert "process 1 of 2 is lost: no sign of life for 5 s" in running.logs[0].read_text()
    last = (folder / "checkpoints" / "last").read_text().strip()
    assert load_checkpoint(folder / "checkpoints" / last).step == 3


def _stop_after(step: int, wanted: dict[str, Any]) -> None:
    from tiny_runs import Watcher

    from finesight.core.errors import Interrupted

    watcher = Watcher("step", step, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(parse_recipe(wanted), observer=watcher)


@pytest.mark.parametrize("numbers", [None, "nf4"])
def test_an_adapter_of_slices_is_that_of_one_process(
    data: Path, alone: Path, tmp_path: Path, numbers: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S21: the saved adapter has every process's slice; on a quantised base, too."""
    if numbers is not None:
        pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
    found = {}
    for name in ("one", "two"):
        wanted = mapping(data, tmp_path / name, parallel={"strategy": "fsdp"}, train={"max_steps": 5})
        wanted["model"] = {"pretrained": str(alone / "model")}
        wanted["adapter"] = {"rank": 3, "save": ["projector"], "quantize": numbers}
        if name == "one":
            train(parse_recipe(wanted))
            found[name] = tmp_path / name
        else:
            found[name] = trained(wanted)
    same_tensors(
        found["two"] / "adapter" / "adapter_model.safetensors",
        found["one"] / "adapter" / "adapter_model.safetensors",
    )
    for one, other in zip(logged(found["two"]), logged(found["one"]), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    last = found["two"] / "checkpoints" / "last"
    tensors = load_checkpoint(last.parent / last.read_text().strip()).tensors["model"]
    assert all("lora_" in name or "projector" in name for name in tensors)  # C5: the base is not saved
    assert torch.is_tensor(next(iter(tensors.values())))


def test_a_stream_is_dealt_to_two_and_a_bad_row_of_one_is_told_by_both(data: Path, tmp_path: Path) -> None:
    """Each row once; the row that is bad on one process is left out, listed, and missing in no other step."""
    lines = data.read_text(encoding="utf-8").splitlines()
    head, *kept = lines
    kept[5] = "bm8gcGljdHVyZQ==" + kept[5][kept[5].index(",") :]  # base64 of words
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    found = []
    for name in ("one", "two"):
        wanted = mapping(bad, tmp_path / name, train={"max_steps": None, "epochs": 1, "save_every": 20})
        wanted["data"] |= {"on_bad_row": "skip", "check": "quick"}
        wanted["data"]["train"] |= {"stream": True, "buffer": 8}
        wanted["data"]["val"] = None
        wanted["evaluation"] |= {"every": 20}
        if name == "one":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
                train(parse_recipe(wanted))
            found.append(tmp_path / name)
        else:
            found.append(trained(wanted))
    one, two = ([set(row["ids"]) for row in rows(folder / "samples.jsonl")] for folder in found)
    assert one == two and sum(map(len, one)) == len(set().union(*one)) == 31
    for ours, theirs in zip(logged(found[1]), logged(found[0]), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert (found[0] / "faults.csv").read_text() == (found[1] / "faults.csv").read_text()
    assert "bad.csv" in (found[0] / "faults.csv").read_text()
