"""Two stages of a composed model: its projector alone, then the projector and LoRA on the language model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_composed_runs import _losses, mapping
from tiny_runs import Watcher, picture_bytes

from finesight.config.load import parse_recipe
from finesight.core.errors import Interrupted
from finesight.models.load import load_model
from finesight.workflows.export import export
from finesight.workflows.features import why_not
from finesight.workflows.generate import generate
from finesight.workflows.train import train


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")


@pytest.fixture(scope="module")
def first(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The projector alone has learned."""
    folder = tmp_path_factory.mktemp("stages") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        train(parse_recipe(mapping(tiny_data, folder, freeze=["vision_tower", "language_model"])))
    return folder


def _second(data: Path, folder: Path, first: Path, **adapter: Any) -> dict[str, Any]:
    found = mapping(data, folder)
    found["model"] = {"pretrained": str(first)}
    found["adapter"] = {"rank": 4, "targets": "attention", "save": ["projector"], **adapter}
    return found


def test_the_second_stage_learns_resumes_answers_and_merges(
    first: Path, tiny_data: Path, tmp_path: Path
) -> None:
    whole = parse_recipe(_second(tiny_data, tmp_path / "whole", first))
    train(whole)
    losses = _losses(tmp_path / "whole")
    assert losses[-1] < losses[0]

    def stop() -> None:
        raise Interrupted("stopped", "here", "go on")

    broken = parse_recipe(_second(tiny_data, tmp_path / "broken", first))
    with pytest.raises(Interrupted):
        train(broken, observer=Watcher("step", 7, stop))
    train(broken, resume=True)
    names = ("adapter_model.safetensors", "adapter_config.json")
    for name in names:
        ours = (tmp_path / "broken" / "adapter" / name).read_bytes()
        assert ours == (tmp_path / "whole" / "adapter" / name).read_bytes()

    (tmp_path / "a.png").write_bytes(picture_bytes("red", "blue"))
    asked = ([tmp_path / "a.png"], "Which?")
    with_adapter = generate(str(tmp_path / "whole"), *asked, device="cpu")
    proof = export(str(tmp_path / "whole"), tmp_path / "merged", merge=True)
    assert proof["merged"] and (tmp_path / "merged" / "modeling_finesight.py").is_file()
    assert generate(str(tmp_path / "merged"), *asked, device="cpu")[0]["answer"] == with_adapter[0]["answer"]

    before = load_model(str(first / "model")).model.state_dict()
    after = load_model(str(tmp_path / "merged")).model.state_dict()
    for name, value in after.items():
        adapted = "language_model" in name and ".self_attn." in name
        assert torch.equal(value, before[name]) != (adapted or "projector" in name), name


def test_an_unknown_family_keeps_no_features(tiny_data: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(mapping(tiny_data, tmp_path, cache="features"))
    other = SimpleNamespace(config=SimpleNamespace(model_type="idefics3"))
    assert "not for idefics3" in str(why_not(recipe, other))
