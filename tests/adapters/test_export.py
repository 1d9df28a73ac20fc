"""`finesight export`: plain folders, and merges that are proved before they are there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapter_recipe, inputs, logits

import finesight as fs
from finesight.adapters import merge as merging
from finesight.cli.main import run
from finesight.core.errors import ModelError, RunError
from finesight.models.load import load_model
from finesight.workflows import train as workflow
from finesight.workflows.places import find_model
from finesight.workflows.sameness import drift, hear


@pytest.fixture(scope="module")
def dora_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, finished_run: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dora"
    adapter = {"dora": True, "rslora": True, "save": ["projector", "embeddings"], "dropout": 0.1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        workflow.train(
            adapter_recipe(tiny_data, folder, finished_run, adapter, train={"max_steps": 8, "lr": 0.02})
        )
    return folder


def test_a_merged_run_is_a_plain_model(
    dora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "merged"
    assert run(["export", str(dora_run), str(out), "--merge", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "model"
    assert told["proof"]["answers"] == told["proof"]["answers_equal"] == 20
    assert told["proof"]["logits_difference"] <= 1e-5
    assert told["samples"] == {"real": 2, "made_up": 18}
    assert told["drift"] is None
    assert [path.name for path in out.parent.iterdir()] == ["merged"], "nothing else is left"

    found = find_model(str(dora_run)).loaded
    plain = load_model(str(out))
    given = inputs(found)
    assert torch.allclose(logits(plain.model, given), logits(found.model, given), rtol=0, atol=1e-5)
    card = (out / "README.md").read_text()
    total = sum(value.numel() for value in plain.model.parameters())
    assert f"{total:,} parameters" in card
    assert "merged into its base" in card


def test_what_is_printed(dora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(dora_run), str(tmp_path / "merged"), "--merge"]) == 0
    line, place = capsys.readouterr().out.splitlines()
    assert line.startswith("merged: logits differ by ")
    assert "20 of 20 answers are equal (2 real samples, 18 made up)" in line
    assert place == str(tmp_path / "merged")


def test_without_a_merge_an_adapter_stays_one(dora_run: Path, finished_run: Path, tmp_path: Path) -> None:
    best = (dora_run / "checkpoints" / "best").read_text().strip()
    for name, place in (("run", dora_run), ("checkpoint", dora_run / "checkpoints" / best)):
        told = fs.export_model(place, tmp_path / name)
        assert (told["kind"], told["merged"]) == ("adapter", False)
        file = "adapter_model.safetensors"
        assert (tmp_path / name / file).read_bytes() == (dora_run / "adapter" / file).read_bytes()
    told = fs.export_model(finished_run, tmp_path / "whole")
    assert told["kind"] == "model"
    file = "model.safetensors"
    assert (tmp_path / "whole" / file).read_bytes() == (finished_run / "model" / file).read_bytes()


def test_nothing_is_overwritten(dora_run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(RunError, match="something already"):
        fs.export_model(dora_run, tmp_path / "there", merge=True)
    with pytest.raises(RunError, match="something already"):
        fs.export_model(dora_run, tmp_path / "there" / "file")
    assert (tmp_path / "there" / "file").read_text() == "mine"


def test_a_whole_model_has_nothing_to_merge(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter to merge"):
        fs.export_model(finished_run, tmp_path / "out", merge=True)


def test_a_merge_that_is_not_the_same_is_not_kept(
    dora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = merging.merge

    def wrong(attached: Any) -> Any:
        model = whole(attached)
        with torch.no_grad():
            model.model.language_model.layers[0].mlp.up_proj.weight.mul_(1.01)
        return model

    monkeypatch.setattr(merging, "merge", wrong)
    with pytest.raises(ModelError, match="the merged model is not the same: its logits differ by"):
        fs.export_model(dora_run, tmp_path / "out", merge=True)
    assert list(tmp_path.iterdir()) == []


def test_drift_counts_up_to_where_answers_part(finished_run: Path, dora_run: Path) -> None:
    from finesight.config.train import Generation
    from finesight.workflows.export import _made_up

    one, other = (find_model(str(place)).loaded for place in (finished_run, dora_run))
    settings = Generation(max_new_tokens=3)
    samples = _made_up(one.ports, 5)
    heard = [hear(found.model, found.ports, samples, settings) for found in (one, one, other)]
    same, apart = drift(heard[0], heard[1]), drift(heard[0], heard[2])
    assert (same.difference, same.equal, same.count, same.same) == (0.0, 5, 5, True)
    assert not apart.same
    assert apart.difference > 0.01
    given = max(float(group[0].abs().max()) for group in heard[0].groups)
    assert same.largest >= given
