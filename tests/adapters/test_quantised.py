"""Adapters on a base in 4 or 8 bits, on the CPU: what is quantised, what learns, and what a merge says of the drift."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapter_recipe, inputs, logits
from safetensors.torch import load_file

from finesight.adapters.attach import adapted_layers
from finesight.adapters.merge import merge
from finesight.core.errors import ModelError
from finesight.models.load import load_model
from finesight.models.parts import count
from finesight.runtime.notices import Notices
from finesight.workflows import train as workflow
from finesight.workflows.export import export
from finesight.workflows.places import find_model
from finesight.workflows.prepare import prepare

pytest.importorskip("bitsandbytes")
QUANTISED = {"nf4": torch.uint8, "int8": torch.int8}


@pytest.fixture(scope="module", params=QUANTISED)
def run(request: pytest.FixtureRequest, tmp_path_factory: Any, tiny_data: Path, finished_run: Path) -> Path:
    """A finished run of an adapter on a quantised base."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    adapter = {"quantize": request.param, "save": ["projector"], "dora": request.param == "nf4"}
    train = {"max_steps": 8, "lr": 0.01, "overfit": 1, "gradient_checkpointing": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        workflow.train(adapter_recipe(tiny_data, folder, finished_run, adapter, train=train))
    return Path(folder)


def test_what_is_quantised_and_what_learns(run: Path, finished_run: Path) -> None:
    found = find_model(str(run))
    numbers = QUANTISED[run.name]
    layers = adapted_layers(found.loaded.model)
    assert len(layers) == 7
    for layer in layers.values():
        assert layer.get_base_layer().weight.dtype == numbers
        assert layer.lora_B["default"].weight.abs().max() > 0
    for name, value in found.loaded.model.named_parameters():
        packed = name.endswith("base_layer.weight") and "language_model.layers" in name
        assert value.dtype == (numbers if packed else torch.float32), name
    assert {n: part.total for n, part in count(found.loaded.model).items()} == {
        name: part["total"]
        for name, part in json.loads((run / "environment.json").read_text())["parameters"].items()
    }
    plain = count(load_model(str(finished_run / "model")).model)
    learned = count(found.loaded.model)
    assert learned["vision_tower"].total == plain["vision_tower"].total
    assert (
        learned["language_model"].total - learned["language_model"].trainable == plain["language_model"].total
    )


def test_files_of_a_quantised_run(run: Path) -> None:
    record = json.loads((run / "adapter" / "finesight.json").read_text())
    assert (record["base"]["quantize"], record["base"]["compute"]) == (run.name, "fp32")
    last = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    for file in (
        run / "adapter" / "adapter_model.safetensors",
        last / "model.safetensors",
        last / "optimizer.safetensors",
    ):
        tensors = load_file(file)
        assert tensors and {value.dtype for value in tensors.values()} == {torch.float32}
    assert "base_layer" not in "".join(load_file(last / "model.safetensors"))
    losses = [
        float(line.split(",")[2])
        for line in (run / "losses_log.csv").read_text().splitlines()[1:]
        if line.split(",")[2]
    ]
    assert losses[-1] < losses[0]


def test_the_base_is_loaded_as_in_training(run: Path, tmp_path: Path) -> None:
    from finesight.workflows.evaluate import evaluate

    evaluate(str(run), split="val", out=tmp_path / "again")
    again = (tmp_path / "again" / "predictions" / "val.jsonl").read_text()
    assert again == (run / "predictions" / "val.jsonl").read_text()


def test_a_merge_into_few_bits_is_refused(run: Path) -> None:
    with pytest.raises(ModelError, match="a merge needs fp32"):
        merge(find_model(str(run)).adapted.attached)


def test_the_drift_of_a_merge_is_told(run: Path, tmp_path: Path) -> None:
    told = export(str(run), tmp_path / "merged", merge=True)
    assert told["proof"]["answers_equal"] == 20
    assert told["proof"]["logits_difference"] <= 1e-5
    assert told["drift"]["quantize"] == run.name
    assert 1e-5 < told["drift"]["logits_difference"] < 1
    plain = load_model(str(tmp_path / "merged"))
    assert {value.dtype for value in plain.model.parameters()} == {torch.float32}
    drift = (
        (logits(plain.model, inputs(plain)) - logits(find_model(str(run)).loaded.model, inputs(plain)))
        .abs()
        .max()
    )
    assert 1e-5 < drift < 1


def test_start_weights_say_that_they_drifted(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    notices = Notices()
    prepare(adapter_recipe(tiny_data, tmp_path / "run", run, None), notices)
    told = next(str(row["text"]) for row in notices.rows() if row["kind"] == "merged")
    assert f"trained on the base in {run.name}" in told


def test_bitsandbytes_is_missing(
    tiny_data: Path, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finesight.models import quantize

    def gone(name: str) -> Any:
        return None if name == "bitsandbytes" else importlib.util.find_spec(name)

    monkeypatch.setattr(quantize, "find_spec", gone)
    with pytest.raises(ModelError) as caught:
        prepare(adapter_recipe(tiny_data, tmp_path / "run", finished_run, {"quantize": "nf4"}), Notices())
    assert "needs bitsandbytes, which is not installed" in caught.value.faults[0].what
    assert "finesight[quant]" in caught.value.faults[0].mend
