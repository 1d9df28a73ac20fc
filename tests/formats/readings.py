"""What is read out of a folder of kept files, format by format; the working directory is a copy of it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from finesight.config.load import load_recipe, parse_recipe
from finesight.core.formats import Kind
from finesight.data.policy import Policy
from finesight.data.sets import read_splits
from finesight.models.load import LoadedModel, load_model
from finesight.reports.tables import read
from finesight.runtime.notices import Notices
from finesight.workflows import train as training
from finesight.workflows.evaluate import evaluate
from finesight.workflows.generate import generate
from finesight.workflows.inspect import inspect
from finesight.workflows.places import find_model
from finesight.workflows.score import score_table
from finesight.workflows.tensors import read_table

PLACES: dict[Kind, tuple[str, ...]] = {
    "recipe": ("recipe.yaml", "finished/recipe.yaml"),
    "run": ("finished/environment.json",),
    "checkpoint": ("interrupted/checkpoints/step-5/manifest.json",),
    "predictions": ("finished/predictions/val.jsonl",),
    "results": ("finished/results.json",),
    "plan": ("finished/plan.json",),
    "inspection": ("inspection/summary.json",),
    "tensors": ("inspection/fed.safetensors", "inspection/fed.parquet", "inspection/fed.arrow"),
    "adapter": ("adapted/adapter/finesight.json",),
    "composed": ("composed/model/config.json",),
    "shards": ("shards/tar/manifest.json", "shards/parquet/manifest.json"),
}
"""The files that carry the number of each format."""


def recipe() -> Any:
    """The resolved form, and that of a run."""
    return [load_recipe(place).model_dump(mode="json", exclude_none=True) for place in PLACES["recipe"]]


def run() -> Any:
    """A finished run answers, is evaluated, and is left as it is by another `train --resume`."""
    before = _files(Path("finished"))
    training.train(load_recipe("finished/recipe.yaml"), resume=True)
    assert _files(Path("finished")) == before
    assert "<html" in Path("finished/report.html").read_text(encoding="utf-8")
    scores = evaluate("finished", split="val", out=Path("evaluated"))
    return {"answers": _answers("finished"), "scores": scores["scores"]}


def _files(folder: Path) -> dict[str, bytes]:
    """All but what a report is made of."""
    drawn = ("report.html", "loss_curve.png", "timing_curve.png", ".lock")
    return {
        str(file): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in drawn
    }


def checkpoint() -> Any:
    """A checkpoint answers; a run that was stopped goes on from its own to the end, as it would have."""
    answers = _answers("finished/checkpoints/step-80")
    draw, training.build_report = training.build_report, lambda path: path / "report.html"
    try:
        training.train(load_recipe("interrupted/recipe.yaml"), resume=True)
    finally:
        training.build_report = draw
    lines = Path("interrupted/losses_log.csv").read_text(encoding="utf-8").splitlines()
    resumed = json.loads(Path("interrupted/environment.json").read_text(encoding="utf-8"))["resumed"]
    assert len(resumed) == 1
    losses = [[float(cell or -1) for cell in line.split(",")] for line in lines[1:]]
    return {"answers": answers, "header": lines[0], "losses": losses}


def predictions() -> Any:
    """A table that is scored again."""
    return score_table(Path("finished/predictions/val.jsonl"), ["exact_match", "token_f1"], Path("scored"))[
        "scores"
    ]


def results() -> Any:
    """Scores as the report reads them; those of the table again."""
    tables = read(Path("finished"))
    assert not tables.problems
    return [asdict(score) for score in tables.scores]


def plan() -> Any:
    """What was planned and measured, as the report reads it."""
    return read(Path("finished")).plan


def inspection() -> Any:
    """The summary that is kept, and one of today."""
    kept = json.loads(Path("inspection/summary.json").read_text(encoding="utf-8"))
    return {"kept": kept, "now": dict(inspect(load_recipe("recipe.yaml"), show=0, jobs=0).summary)}


def tensors() -> Any:
    """What the model is fed, out of each kind of file."""
    found = []
    for place in PLACES["tensors"]:
        table = read_table(Path(place))
        values = {name: tensor.reshape(-1).tolist() for name, tensor in sorted(table.tensors.items())}
        shapes = {name: list(tensor.shape) for name, tensor in sorted(table.tensors.items())}
        found.append({"ids": list(table.ids), "shapes": shapes, "values": values})
    assert found[0] == found[1] == found[2]
    return found[0]


def adapter() -> Any:
    """Logits of an adapter on its base, found beside it; of its run, and of its last checkpoint."""
    places = ("adapted", "adapted/adapter", "adapted/checkpoints/step-4")
    return {place: _logits(find_model(place).loaded) for place in places}


def composed() -> Any:
    """Logits of a composed model, with finesight's code and with that in its folder."""
    own = load_model("composed/model")
    # the auto classes would take finesight's own code even with `trust_remote_code`, since it knows the model type
    name = own.model.config.auto_map["AutoModelForImageTextToText"]
    theirs = get_class_from_dynamic_module(name, "composed/model").from_pretrained("composed/model")
    assert type(theirs).__module__.startswith("transformers_modules.")
    found = _logits(own)
    assert torch.allclose(torch.tensor(found), torch.tensor(_logits(replace(own, model=theirs))), atol=1e-6)
    return found


def shards() -> Any:
    """Every sample of both kinds of shards."""
    found = {}
    for kind in ("tar", "parquet"):
        mapping = load_recipe("recipe.yaml").model_dump(mode="json", exclude_none=True)
        columns = {"image": "image", "question": "question", "answer": "answer"}
        source = {"source": kind, "path": f"shards/{kind}", "columns": columns, "tags": ["shape"]}
        data = parse_recipe({**mapping, "data": {"train": source}}).data
        samples = read_splits(data, 0, Policy(data), Notices(), bool)["train"]
        found[kind] = [
            [
                one.id,
                one.prompt,
                *one.references,
                dict(one.tags),
                *(_sha256(part.data) for part in one.images),
            ]
            for one in samples
        ]
    assert found["tar"] and [row[1:] for row in found["tar"]] == [row[1:] for row in found["parquet"]]
    return found


READINGS: dict[Kind, Callable[[], Any]] = {
    "recipe": recipe,
    "run": run,
    "checkpoint": checkpoint,
    "predictions": predictions,
    "results": results,
    "plan": plan,
    "inspection": inspection,
    "tensors": tensors,
    "adapter": adapter,
    "composed": composed,
    "shards": shards,
}


def _answers(place: str) -> list[str]:
    return [row["answer"] for row in generate(place, [Path("picture.png")], "Which colour?", device="cpu")]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _logits(loaded: LoadedModel) -> list[list[float]]:
    """(T, V) of a picture and some words, both made up without any random draw."""
    image = loaded.ports.image
    assert image is not None
    words = 10 + torch.arange(6) * 7 % (len(loaded.ports.tokenizer) - 20)
    ids = torch.cat([torch.full((image.tokens_per_image,), image.placeholder_id), words])[None]
    count = 3 * image.height * image.width
    pixels = (torch.arange(count).reshape(1, 3, image.height, image.width) % 17) / 17 - 0.5
    with torch.no_grad():
        found = loaded.model.eval()(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels.float()
        )
    rows: list[list[float]] = found.logits[0, -3:].tolist()
    return rows
