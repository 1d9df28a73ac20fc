"""Models of several families through the commands: inspected, trained, measured, saved, asked."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import picture_bytes, tiny_mapping
from transformers import set_seed

sys.path.insert(0, str(Path(__file__).parent))

from bodies import MAKERS
from matrix import sound

import finesight as fs
from finesight.models.kinds import auto_class

pytestmark = pytest.mark.usefixtures("no_report")


def folder_of(name: str, folder: Path) -> Path:
    config, processor = MAKERS[name]()
    set_seed(0)
    auto_class(config).from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def recipe(model: Path, data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    mapping = tiny_mapping(data, folder / "run", **more)
    mapping["model"] = {"pretrained": str(model)}
    mapping["train"] |= {"max_steps": 3, "batch_size": 8, "micro_batch": 4, "precision": "fp32"}
    mapping["evaluation"] = {"every": 3, "max_samples": 4, "metrics": ["token_f1"]}
    mapping["run"]["threads"] = 1
    return mapping


@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm", "mllama", "gemma3", "git", "vision-encoder-decoder"])
def test_pictures(name: str, tiny_data: Path, tmp_path: Path) -> None:
    mapping = recipe(folder_of(name, tmp_path / "model"), tiny_data, tmp_path)
    seen = fs.inspect(mapping, show=1)
    assert seen["faults"] == 0, seen["fault_kinds"]
    assert not seen["stops"] and seen["samples"] > 0
    run = Path(fs.train(mapping)["run"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses and all(0 < loss < 50 for loss in losses)
    picture = tmp_path / "a.png"
    picture.write_bytes(picture_bytes("red", "blue", 40))
    question = None if name in ("git", "vision-encoder-decoder") else "Which colours?"
    (answer,) = fs.generate(str(run), picture, question)
    assert isinstance(answer["answer"], str)
    card = (run / "model" / "README.md").read_text()
    assert (f"`{name}`" in card and "pipeline_tag: image-to-text" in card) or question


@pytest.mark.parametrize(("name", "stops"), [("qwen2_vl", 1), ("bart", 1)])
def test_a_resumed_run_is_the_unbroken_one(name: str, stops: int, tiny_data: Path, tmp_path: Path) -> None:
    model = folder_of(name, tmp_path / "model")
    whole, broken = (recipe(model, tiny_data, tmp_path / part) for part in ("whole", "broken"))
    if name == "bart":
        for mapping in (whole, broken):
            mapping["data"] = pairs(tmp_path)

    class Stop(Exception):
        pass

    class Breaks:
        def on_step(self, report: Any) -> None:
            if report.step == stops:
                raise Stop

        def __getattr__(self, _: str) -> Any:
            return lambda *_: None

    whole["train"]["save_every"] = broken["train"]["save_every"] = 1
    first = Path(fs.train(whole)["run"])
    with pytest.raises(Stop):
        fs.train(broken, observer=Breaks())
    second = Path(fs.train(broken, resume=True)["run"])
    one, other = (dict(fs.load_model(run).model.named_parameters()) for run in (first, second))
    assert all(torch.equal(one[key], other[key]) for key in one)


def pairs(folder: Path) -> dict[str, Any]:
    rows = [{"input": f"say {number}", "output": f"it is {number % 3}"} for number in range(24)]
    (folder / "pairs.json").write_text(json.dumps(rows))
    return {"train": {"source": "pairs", "path": str(folder / "pairs.json")}, "val": {"split": 0.2}}


def test_a_model_that_hears(tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        (tmp_path / f"{number}.wav").write_bytes(sound(number % 3).data)
        rows.append({"audio": f"{number}.wav", "answer": ("low", "middle", "high")[number % 3]})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    mapping = recipe(folder_of("whisper", tmp_path / "model"), tmp_path / "rows.json", tmp_path)
    mapping["data"] = {"train": {"source": "json", "path": str(tmp_path / "rows.json")}}
    mapping["evaluation"] = {"metrics": ["token_f1"]}
    mapping["train"] |= {"batch_size": 6, "micro_batch": "auto"}
    run = Path(fs.train(mapping)["run"])
    (answer,) = fs.generate(str(run), [], audio=tmp_path / "0.wav")
    assert isinstance(answer["answer"], str)
