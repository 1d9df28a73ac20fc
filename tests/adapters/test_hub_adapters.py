"""Adapters by hub id, and the revision of their base: from a cache as the hub's client lays it out; no network."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapter_recipe, as_if_trained, attached_to, inputs, logits
from safetensors.torch import load_file, save_file

from finesight.adapters.base import RECORD, Base
from finesight.adapters.save import CONFIG, write_adapter
from finesight.core.errors import ModelError
from finesight.models.load import Reading
from finesight.runtime.notices import Notices
from finesight.workflows import train as workflow
from finesight.workflows.generate import generate
from finesight.workflows.places import adapter_of, find_model
from finesight.workflows.ports import found_ports
from finesight.workflows.prepare import prepare

OLD, NEW, ADAPTER = "1" * 40, "2" * 40, "a" * 40


def cached(cache: Path, name: str, commit: str, folder: Path, *, main: bool = True) -> Path:
    """A copy of a folder as a snapshot of a hub id in a cache."""
    place = cache / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    if main:
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the base `me/base` at an old commit, which is that of `main`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached(tmp_path / "hub", "me/base", OLD, finished_run / "model")
    return tmp_path / "hub"


def changed_base(cache: Path, finished_run: Path, tmp_path: Path) -> None:
    """Another commit of the base, which is that of `main` from now on."""
    folder = Path(shutil.copytree(finished_run / "model", tmp_path / "changed"))
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value + 0.1 for name, value in tensors.items()}, folder / "model.safetensors")
    cached(cache, "me/base", NEW, folder)


@pytest.fixture
def adapter(cache: Path, finished_run: Path, tmp_path: Path) -> tuple[dict[str, Any], torch.Tensor]:
    """An adapter `me/adapter` of the old base in the cache, as `peft` writes it; inputs, and its logits for them."""
    loaded, attached = attached_to(finished_run / "model")
    as_if_trained(attached)
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", attached, Base("me/base", OLD))
    (tmp_path / "adapter" / RECORD).unlink()
    (tmp_path / "adapter" / "extra").mkdir()
    (tmp_path / "adapter" / "extra" / "config.json").write_text("{}")
    cached(cache, "me/adapter", ADAPTER, tmp_path / "adapter")
    given = inputs(loaded)
    return given, logits(attached.model, given)


def test_a_hub_id_is_an_adapter(
    adapter: tuple[dict[str, Any], torch.Tensor], cache: Path, finished_run: Path, tmp_path: Path
) -> None:
    given, expected = adapter
    assert adapter_of("me/base") is None and adapter_of("me/nothing") is None
    found = find_model("me/adapter")
    assert torch.equal(logits(found.loaded.model, given), expected)
    assert (found.adapted.base.place, found.adapted.base.revision) == ("me/base", OLD)
    assert found_ports("me/adapter").image is not None
    assert generate("me/adapter", [], "What is it?", device="cpu")[0]["answer"] is not None

    changed_base(cache, finished_run, tmp_path)
    assert torch.equal(logits(find_model("me/adapter").loaded.model, given), expected), "the old revision"
    plain = logits(find_model("me/base").loaded.model, given)
    assert not torch.allclose(plain, expected, atol=1e-2)

    config = cache / "models--me--adapter" / "snapshots" / ADAPTER / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"revision": "3" * 40}))
    with pytest.raises(ModelError, match="cannot be had at the revision " + "3" * 40) as caught:
        find_model("me/adapter")
    assert caught.value.faults[0].where == "me/base"
    with pytest.raises(ModelError, match="cannot be had at the revision " + "3" * 40):
        found_ports("me/adapter")


def test_the_revision_of_an_adapter_itself(
    adapter: tuple[dict[str, Any], torch.Tensor], cache: Path, tmp_path: Path
) -> None:
    given, expected = adapter
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file({n: v * 0 for n, v in tensors.items()}, tmp_path / "adapter" / "adapter_model.safetensors")
    cached(cache, "me/adapter", "b" * 40, tmp_path / "adapter")
    assert not torch.equal(logits(find_model("me/adapter").loaded.model, given), expected)
    pinned = find_model("me/adapter", Reading(revision=ADAPTER))
    assert torch.equal(logits(pinned.loaded.model, given), expected)


def test_a_recipe_begins_with_one(
    adapter: tuple[dict[str, Any], torch.Tensor], tiny_data: Path, tmp_path: Path
) -> None:
    given, expected = adapter
    notices = Notices()
    prepared = prepare(adapter_recipe(tiny_data, tmp_path / "run", Path("me/adapter"), None), notices)
    assert torch.allclose(logits(prepared.model, given), expected, rtol=0, atol=1e-5), "merged"
    assert any(row["kind"] == "merged" for row in notices.rows())
    on = prepare(adapter_recipe(tiny_data, tmp_path / "run", Path("me/adapter"), {}), notices)
    assert torch.equal(logits(on.model, given), expected), "trained on"


def test_a_run_is_loaded_and_resumed_on_its_own_revision(
    cache: Path, tiny_data: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    run = tmp_path / "run"
    recipe = adapter_recipe(tiny_data, run, Path("me/base"), {"rank": 2}, train={"max_steps": 2})
    workflow.train(recipe)
    given = inputs(find_model(str(run)).loaded)
    expected = logits(find_model(str(run)).loaded.model, given)
    changed_base(cache, finished_run, tmp_path)
    assert torch.equal(logits(find_model(str(run)).loaded.model, given), expected)
    assert json.loads((run / "adapter" / RECORD).read_text())["base"]["revision"] == OLD

    (run / "results.json").unlink()
    shutil.rmtree(run / "adapter")
    assert workflow.train(recipe, resume=True)["status"]
    assert torch.equal(logits(find_model(str(run)).loaded.model, given), expected)

    shutil.rmtree(cache / "models--me--base" / "snapshots" / OLD)
    with pytest.raises(ModelError, match=f"cannot be had at the revision {OLD}"):
        find_model(str(run))
