"""Weights that need not fit, old work to begin with, code that lies beside weights, revisions."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import tiny_mapping

from finesight.config.load import parse_recipe
from finesight.core.errors import ModelError, RecipeError
from finesight.models.load import Reading, load_model
from finesight.models.old import load_weights
from finesight.runtime.notices import Notices
from finesight.workflows.prepare import prepare


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run / "model", tmp_path / "model"))


def without(folder: Path, name: str, **extra: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    tensors = {key: value for key, value in load_file(file).items() if key != name}
    save_file({**tensors, **extra}, file, {"format": "pt"})


def test_weights_that_do_not_fit_are_errors_unless_named(folder: Path) -> None:
    lacking = next(
        name for name in load_file(folder / "model.safetensors") if "projector.linear_1.weight" in name
    )
    without(folder, lacking, **{"old.head": torch.ones(2)})
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    told = caught.value.faults[0].what
    assert "missing: model.multi_modal_projector.linear_1.weight" in told and "unexpected: old.head" in told
    with pytest.raises(ModelError, match=r"unexpected: old\.head"):
        load_model(str(folder), reading=Reading(missing=("*.linear_1.*",)))
    loaded = load_model(str(folder), reading=Reading(missing=("*.linear_1.*",), unexpected=("old.*",)))
    said = [text for kind, text in loaded.ports.said if kind == "weights"]
    assert len(said) == 2 and "begin at random values" in said[0] and "old.head" in said[1]


def test_the_recipe_names_them(folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    without(folder, "", **{"old.head": torch.ones(2)})
    mapping = tiny_mapping(tiny_data, tmp_path)
    mapping["model"] = {"pretrained": str(folder), "allow": {"unexpected": ["old.head"]}}
    notices = Notices()
    prepare(parse_recipe(mapping), notices)
    assert any(row["kind"] == "weights" and "old.head" in str(row["text"]) for row in notices.rows())


@pytest.mark.parametrize("start", ["", "module.", "_orig_mod."])
def test_old_weights_are_begun_with(finished_run: Path, tiny_data: Path, tmp_path: Path, start: str) -> None:
    old = load_model(str(finished_run / "model")).model
    file = tmp_path / "old.pth"
    torch.save({start + name: value for name, value in old.state_dict().items()}, file)
    mapping = tiny_mapping(tiny_data, tmp_path)
    mapping["model"] = {**mapping["model"], "weights": str(file)}
    prepared = prepare(parse_recipe(mapping), Notices())
    known = dict(prepared.model.named_parameters())
    assert all(torch.equal(known[name], value) for name, value in old.named_parameters())


def test_old_weights_of_another_model_are_refused(finished_run: Path, tmp_path: Path) -> None:
    model = load_model(str(finished_run / "model")).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state: dict[str, Any] = dict(model.state_dict())
    name = next(key for key in state if key.endswith("linear_1.weight"))
    state["strange"], state[name] = torch.ones(1), torch.ones(3, 3)
    torch.save(state, tmp_path / "old.pth")
    with pytest.raises(ModelError, match=r"unknown: strange; of another shape"):
        load_weights(model, str(tmp_path / "old.pth"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil"),))


def test_no_pickle_is_run(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Evil()}, tmp_path / "old.pth")
    with pytest.raises(ModelError, match="cannot be read: it holds more than tensors") as caught:
        load_weights(load_model(str(finished_run / "model")).model, "old.pth")
    assert "weights_only" not in str(caught.value)  # no advice to run what is in the file
    assert not (tmp_path / "evil").exists()


CODE = """
from transformers import LlavaConfig, LlavaForConditionalGeneration

class OwnConfig(LlavaConfig):
    model_type = "own_llava"

class OwnModel(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""


def test_a_folders_own_code_is_run_only_where_it_is_asked_for(folder: Path) -> None:
    plain = load_model(str(folder)).model
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own_llava", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    with pytest.raises(ModelError):
        load_model(str(folder))
    own = load_model(str(folder), reading=Reading(trust_remote_code=True))
    assert type(own.model).__name__ == "OwnModel"
    known = dict(own.model.named_parameters())
    assert all(torch.equal(known[name], value) for name, value in plain.named_parameters())


@pytest.mark.parametrize("revision", [None, "main", "abc"])
def test_code_from_the_hub_is_pinned(revision: str | None, tiny_data: Path, tmp_path: Path) -> None:
    mapping = tiny_mapping(tiny_data, tmp_path)
    mapping["model"] = {"pretrained": "someone/model", "trust_remote_code": True, "revision": revision}
    with pytest.raises(RecipeError, match="does not pin it"):
        parse_recipe({**mapping, "model": {k: v for k, v in mapping["model"].items() if v is not None}})
    mapping["model"]["revision"] = "0" * 40
    parse_recipe(mapping)
