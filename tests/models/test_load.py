"""MODEL_OR_RUN: what may be named, and what is said where it cannot be loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import Watcher, tiny_mapping, tiny_recipe
from transformers import ViTConfig

from finesight.config.load import parse_recipe
from finesight.core.errors import FinesightError, ModelError, RunError
from finesight.core.ports import ImagePort
from finesight.models.load import load_model
from finesight.runtime.notices import Notices
from finesight.training.checkpoint import load_checkpoint
from finesight.training.state import model_tensors
from finesight.workflows.places import find_model, model_place, run_of
from finesight.workflows.prepare import prepare


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished model, to be damaged."""
    return Path(shutil.copytree(finished_run / "model", tmp_path / "model"))


def _fault(error: FinesightError, place: Path | str) -> str:
    fault = error.faults[0]
    assert fault.where == str(place)
    assert fault.what
    assert fault.mend
    return fault.what


def _edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_missing_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "projector" in name)
    save_file(
        {key: value for key, value in weights.items() if key != name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "missing: " in _fault(caught.value, folder)
    assert "projector" in str(caught.value)


def test_weights_of_a_wrong_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "projector" in name and name.endswith("weight"))
    weights[name] = torch.zeros(3, 5)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    _fault(caught.value, folder)


def test_unknown_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "something.else": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "something.else" in _fault(caught.value, folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "gone"])
def test_a_damaged_file_of_weights(damage: str, folder: Path) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            {"cut": data[: len(data) // 2], "empty": b"", "header": b"\xff" * 8 + data[8:]}[damage]
        )
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    _fault(caught.value, folder)


class _Evil:
    def __reduce__(self) -> object:
        return (Path.touch, (Path("evil"),))


def test_of_a_pickle_tensors_alone_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = dict(load_model(str(folder)).model.named_parameters())
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    known = dict(load_model(str(folder)).model.named_parameters())
    assert all(torch.equal(known[name], value) for name, value in before.items())
    torch.save({**tensors, "evil": _Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_model(str(folder))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "names",
    [["processor_config.json", "preprocessor_config.json"], ["tokenizer.json", "tokenizer_config.json"]],
)
def test_no_processor(names: list[str], folder: Path) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "processor" in _fault(caught.value, folder)


def test_another_family(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "vit"))
    assert "`vit`" in _fault(caught.value, tmp_path / "vit")


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "no such"}', "{}"])
def test_a_configuration_that_is_none(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    _fault(caught.value, folder)


def test_a_processor_with_cropping(folder: Path) -> None:
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"shortest_edge": 16}
    file.write_text(json.dumps(settings))
    settings["image_processor"] |= {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    settings["image_processor"]["image_processor_type"] = "CLIPImageProcessor"
    file.write_text(json.dumps(settings))
    loaded = load_model(str(folder))
    port = loaded.ports.image
    assert port is not None and not isinstance(port, ImagePort)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 40), dtype=np.uint8)
    theirs = loaded.processor.image_processor(
        images=[Image.fromarray(pixels.transpose(1, 2, 0))], return_tensors="np"
    )
    assert (port.prepare([pixels])["pixel_values"].array == theirs["pixel_values"]).all()


def test_a_place_that_does_not_exist(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "runs/nothing", "./nothing"):
        with pytest.raises(ModelError, match="no such run or model"):
            model_place(name)


def test_an_unfinished_run_is_told(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(run / "model")
    with pytest.raises(RunError, match="no finished model"):
        find_model(str(run))


def test_a_run_its_model_and_a_checkpoint_are_found(finished_run: Path) -> None:
    best = (finished_run / "checkpoints" / "best").read_text().strip()
    checkpoint = finished_run / "checkpoints" / best
    for place in (finished_run, finished_run / "model", checkpoint):
        found = find_model(str(place))
        assert found.run is not None
        assert found.run.path == run_of(place).path == finished_run
        assert found.recipe.run.name == "tiny"
        saved = load_checkpoint(checkpoint).tensors["model"]
        own = model_tensors(found.loaded.model)
        assert own.keys() == saved.keys()
        assert all(torch.equal(value, saved[name]) for name, value in own.items()), place
    last = find_model(str(finished_run / "checkpoints" / "step-12"))
    assert last.run is not None


@pytest.mark.parametrize("inside", [".", "model", "checkpoints/step-10"])
def test_stages_chain(inside: str, finished_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    from finesight.workflows.train import train

    mapping = tiny_mapping(tiny_data, tmp_path / "second", train={"max_steps": 2})
    mapping["model"] = {"pretrained": str(finished_run / inside), "freeze": ["vision_tower"]}
    started = find_model(str(finished_run / inside)).loaded
    prepared = prepare(parse_recipe(mapping), Notices())
    assert prepared.ports.fingerprint == started.ports.fingerprint, "the first stage's tokenizer is kept"
    watcher = Watcher()
    train(parse_recipe(mapping), observer=watcher)
    second = load_model(str(tmp_path / "second" / "model")).model.state_dict()
    for name, value in started.model.state_dict().items():
        assert torch.equal(second[name], value) == ("vision_tower" in name), name


def test_a_checkpoint_of_another_shape(finished_run: Path, tmp_path: Path, tiny_data: Path) -> None:
    from finesight.training.state import restore_model

    mapping = tiny_recipe(tiny_data, tmp_path).model_dump(mode="json", exclude_none=True)
    mapping["model"]["scratch"]["decoder"]["mlp"] = 64
    other = prepare(parse_recipe(mapping), Notices()).model
    saved = load_checkpoint(finished_run / "checkpoints" / "step-12").tensors["model"]
    with pytest.raises(RunError, match="has the shape"):
        restore_model(other, saved, "there")
    with pytest.raises(RunError, match="do not fit"):
        restore_model(other, dict(list(saved.items())[1:]), "there")
