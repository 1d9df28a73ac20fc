"""Keep one small file of each format, as finesight writes it today, for the tests to read for ever.

    python tools/keep_formats.py 2    # writes tests/formats/kept/2

Only where a format's number rises (docs/formats.md): what is kept already is never written again, or removed. Real
commands write all of it, at tiny sizes. `expected.json` holds what tests/formats/readings.py reads out of the files.
"""

import base64
import csv
import io
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import finesight
from finesight.config.load import load_recipe, parse_recipe
from finesight.config.yaml import write
from finesight.core.errors import Interrupted
from finesight.core.formats import FORMATS
from finesight.workflows.convert import convert
from finesight.workflows.inspect import inspect
from finesight.workflows.train import train

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "formats" / "kept"
MOST_BYTES = 1_000_000

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 200), "white": (240, 240, 240)}
SHAPES = ("square", "circle")
LAYERS = {"layers": 1, "heads": 2, "width": 16, "mlp": 24}
RECIPE: dict[str, Any] = {
    "description": "A recipe that is kept.",
    "run": {"name": "finished", "dir": "finished", "seed": 5, "device": "cpu", "threads": 1},
    "model": {
        "scratch": {
            "vision": {"image_size": 8, "patch": 4, **LAYERS},
            "decoder": {"context": 64, **LAYERS},
            "tokenizer": {"vocabulary": 280},
        }
    },
    "data": {
        "train": {
            "source": "csv",
            "path": "data.csv",
            "columns": {"image": "image", "question": "question", "answer": "answer"},
            "tags": ["shape"],
        },
        "val": {"split": 0.25},
    },
    "train": {"max_steps": 80, "batch_size": 4, "lr": 2e-2, "precision": "fp32"},
    "evaluation": {"every": 80, "metrics": ["exact_match", "token_f1"], "resamples": 50},
    "generation": {"max_new_tokens": 6},
    "log": {"every": 8},
    "report": {"pictures": 1},
}
COMPOSE = {
    "vision": {
        "config": {
            "model_type": "finesight_efficientnet_lite",
            "stem": 4,
            "hidden_size": 8,
            "patch_size": 8,  # strides of 2 in the stem and in both stages
            "blocks": [[1, 3, 2, 1, 8], [1, 3, 2, 2, 8]],
        },
        "image_size": 16,
    },
    "projector": {"kind": "resblock"},
    "language": {
        "config": {
            "model_type": "llama",
            "max_position_embeddings": 64,
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
        },
        "vocabulary": 264,
    },
}


def picture(colour: str, shape: str) -> bytes:
    """A PNG of 12 × 12 pixels: a shape on black."""
    image = Image.new("RGB", (12, 12))
    draw = ImageDraw.Draw(image)
    (draw.rectangle if shape == "square" else draw.ellipse)((2, 2, 9, 9), fill=COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_data() -> None:
    with open("data.csv", "w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["image", "question", "answer", "shape"])
        for number in range(16):
            colour, shape = list(COLOURS)[number % 4], SHAPES[number // 4 % 2]
            data = base64.b64encode(picture(colour, shape)).decode()
            rows.writerow([data, "Which colour?", colour, shape])
    Path("picture.png").write_bytes(picture("blue", "circle"))


class StopAfter:
    """An observer that asks the run to stop after a step, as `kill` does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, report: Any) -> None:
        if report.step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_evaluation(self, report: Any) -> None: ...

    def on_phase(self, name: str, total: int) -> None: ...

    def on_progress(self, done: int) -> None: ...


def run(name: str, stop: int | None = None, **sections: Any) -> None:
    """Train a variant of the recipe in a folder of its own; stopped after a step where that is given."""
    mapping = {**RECIPE, **sections, "run": {**RECIPE["run"], "name": name, "dir": name}}
    try:
        train(parse_recipe(mapping), observer=None if stop is None else StopAfter(stop))
    except Interrupted:
        assert stop is not None


def write_all() -> None:
    """One of each format into the working directory."""
    write_data()
    Path("recipe.yaml").write_text(write({"format": FORMATS["recipe"], **RECIPE}), encoding="utf-8")
    recipe = load_recipe("recipe.yaml")
    run("finished")
    wordy = {"every": 1, "samples": True}
    run("interrupted", stop=5, train={**RECIPE["train"], "max_steps": 10}, log=wordy)
    short = {**RECIPE["train"], "max_steps": 4}
    run("adapted", train=short, model={"pretrained": "finished/model"}, adapter={"rank": 2})
    run("composed", train=short, model={"compose": COMPOSE})
    inspect(recipe, out=Path("inspection"), pictures=0, jobs=0)
    for suffix in ("safetensors", "parquet", "arrow"):
        inspect(recipe, tensors=Path(f"inspection/fed.{suffix}"), show=2, jobs=0)
    for to in ("tar", "parquet"):
        convert(recipe, Path("shards") / to, to=to, shard_rows=10, jobs=0)


def prune() -> None:
    """Take away what is drawn anew, or is a copy of what is kept elsewhere."""
    for name in ("report.html", "loss_curve.png", "timing_curve.png", ".lock"):
        for file in Path().rglob(name):
            file.unlink()
    Path("inspection/samples.html").unlink()
    for file in list(Path("composed").iterdir()):
        if file.name != "model":
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def rounded(value: Any) -> Any:
    """With the digits that the tests compare."""
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def main() -> None:
    number = sys.argv[1]
    if not number.isdecimal() or (KEPT / number).exists():
        raise SystemExit(
            f"{KEPT / number} is there already, or no number: what is kept is never written again"
        )
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "tests" / "formats"))
    from readings import READINGS

    place = Path(tempfile.mkdtemp(prefix="finesight-formats-"))
    os.environ["FINESIGHT_CACHE"] = str(place / "cache")
    made, read = place / "made", place / "read"
    made.mkdir()
    os.chdir(made)
    write_all()
    prune()
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    assert size < MOST_BYTES, size
    shutil.copytree(made, read)
    os.chdir(read)
    found = {kind: reading() for kind, reading in READINGS.items()}
    lines = [f"{json.dumps(kind)}: {json.dumps(rounded(read))}" for kind, read in found.items()]
    text = (
        f'{{"finesight": "{finesight.__version__}",\n"formats": {json.dumps(FORMATS)},\n"readings": {{\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )
    (made / "expected.json").write_text(text, encoding="utf-8")
    shutil.copytree(made, KEPT / number)
    os.chdir(ROOT)
    shutil.rmtree(place)
    print(f"{KEPT / number}: {size + len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
