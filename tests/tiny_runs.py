"""Tiny data, recipes and runs that many suites share: seconds of training, all on the CPU with one thread."""

import base64
import copy
import csv
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from finesight.config.load import parse_recipe
from finesight.config.recipe import Recipe
from finesight.core.errors import FinesightError
from finesight.core.events import EvaluationReport, StepReport

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 200), "white": (240, 240, 240),
    "yellow": (250, 210, 40), "black": (20, 20, 20), "orange and more": (250, 130, 20),
}  # fmt: skip


def picture_bytes(first: str, second: str, size: int = 12) -> bytes:
    """A PNG whose left half has one colour and whose right half another."""
    image = Image.new("RGB", (size, size), COLOURS[first])
    image.paste(COLOURS[second], (size // 2, 0, size, size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_pictures(path: Path, pairs: int = 40) -> Path:
    """A CSV of pictures in base64 with questions and answers of unequal lengths."""
    names = list(COLOURS)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "question", "answer", "kind"])
        for number in range(pairs):
            first, second = names[number % 7], names[(3 * number + number // 7) % 7]
            asked = (
                "Which colours?"
                if number % 3
                else "Which two colours does this picture have, from left to right?"
            )
            told = first if first == second else f"{first}, {second}"
            data = base64.b64encode(picture_bytes(first, second)).decode()
            rows.writerow([data, asked, told + "!" * (number % 5), f"k{number % 2}"])
    return path


def tiny_mapping(data: Path, folder: Path, /, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe over `write_pictures` data: accumulation, attention dropout, transforms, evaluations."""
    dropout = {"layers": 1, "heads": 2, "width": 32, "mlp": 48, "dropout": 0.1}
    mapping: dict[str, Any] = {
        "run": {"name": "tiny", "dir": str(folder), "seed": 5, "device": "cpu", "threads": 1},
        "model": {
            "scratch": {
                "vision": {"image_size": 16, "patch": 8, **dropout},
                "decoder": {"context": 96, **dropout},
                "tokenizer": {"vocabulary": 280},
            }
        },
        "data": {
            "train": {
                "source": "csv",
                "path": str(data),
                "columns": {"image": "image", "question": "question", "answer": "answer"},
                "tags": ["kind"],
            },
            "val": {"split": 0.2},
            "transforms": {"rotate": 15, "scale": 0.1, "brightness": 0.2},
        },
        "train": {"max_steps": 12, "batch_size": 4, "micro_batch": 2, "lr": 3e-3, "precision": "fp32"},
        "evaluation": {"every": 5, "max_samples": 3, "metrics": ["exact_match", "token_f1"], "resamples": 50},
        "generation": {"max_new_tokens": 4},
        "log": {"every": 1, "samples": True},
        "report": {"pictures": 2},
    }
    for name, values in sections.items():
        mapping[name] = {**mapping.get(name, {}), **values}
    return copy.deepcopy(mapping)


def tiny_recipe(data: Path, folder: Path, /, **sections: Mapping[str, Any]) -> Recipe:
    """`tiny_mapping`, checked."""
    return parse_recipe(tiny_mapping(data, folder, **sections))


class Watcher:
    """An observer that remembers, and that can do something at a moment of the run."""

    def __init__(self, at: str = "", step: int = 0, do: Any = None) -> None:
        self.steps: list[StepReport] = []
        self.evaluations: list[EvaluationReport] = []
        self.phases: list[str] = []
        self._at, self._step, self._do = at, step, do

    def _maybe(self, kind: str, number: int) -> None:
        if kind == self._at and number >= self._step and self._do is not None:
            do, self._do = self._do, None
            do()

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)
        self._maybe("step", report.step)

    def on_evaluation(self, report: EvaluationReport) -> None:
        self.evaluations.append(report)
        self._maybe("evaluation", report.step)

    def on_phase(self, name: str, total: int) -> None:
        self.phases.append(name)
        self._maybe(name, 0)

    def on_progress(self, done: int) -> None:
        self._maybe(f"progress {self.phases[-1]}", done)


def without_report() -> None:
    """Leave the report out: drawing takes longer than the training of a tiny run."""
    from finesight.workflows import train

    train.build_report = lambda path: path / "report.html"  # type: ignore[assignment]


def _child(mapping: dict[str, Any], resume: bool, log: str) -> None:
    from finesight.workflows.train import train

    os.setpgid(0, 0)
    multiprocessing.set_start_method(
        "fork", force=True
    )  # of loader workers: each new fork server would load torch
    with open(log, "w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    without_report()
    try:
        train(parse_recipe(mapping), resume=resume)
    except FinesightError as error:
        print(error, file=sys.stderr)
        os._exit(error.exit_status)


def begin(mapping: dict[str, Any], resume: bool = False) -> Any:
    """Train in a process (and process group) of its own; `.exitcode` as the command line's status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_runs", "finesight.workflows.train"])
    log = mapping["run"]["dir"].rstrip("/") + ".stderr"
    process = context.Process(target=_child, args=(mapping, resume, log))
    process.start()
    return process


def finish(process: Any, seconds: float = 120) -> int:
    """Wait for a process; its exit status (negative: the signal that ended it)."""
    process.join(seconds)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        raise AssertionError("the run did not end")
    return int(process.exitcode)


def steps_made(folder: Path) -> int:
    """Steps that a run has written down so far."""
    table = folder / "timing_logs.csv"
    return max(0, table.read_text().count("\n") - 1) if table.is_file() else 0


def wait_for(condition: Any, process: Any, seconds: float = 120) -> None:
    """Return once the condition holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.is_alive():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


CLOCKED = (
    "seconds",
    "sampling_seconds",
    "samples_per_second",
    "tokens_per_second",
    "supervised_tokens_per_second",
    "mfu",
    "joules",
)
"""What metrics.jsonl says of time and energy, which no two runs have in common."""


def essence(folder: Path) -> dict[str, Any]:
    """All that two runs of one recipe have in common, to the bit; clocks left out."""
    metrics = rows(folder / "metrics.jsonl")
    for row in metrics:
        for name in CLOCKED:
            row.pop(name, None)
    last = (folder / "checkpoints" / "last").read_text().strip()
    state = json.loads((folder / "checkpoints" / last / "state.json").read_text())
    state["loop"].pop("seconds"), state["loop"].pop("clocks", None)
    results = json.loads((folder / "results.json").read_text())
    results.pop("seconds"), results.pop("energy", None)
    files = [
        "losses_log.csv",
        "samples.jsonl",
        "checkpoints/best",
        "checkpoints/last",
        "predictions/val.jsonl",
    ]
    files += [f"checkpoints/{last}/{name}.safetensors" for name in ("model", "optimizer")]
    files += ["model/model.safetensors"]
    whole = {name: (folder / name).read_bytes() for name in files}
    return {"metrics": metrics, "state": state, "results": results, **whole}
