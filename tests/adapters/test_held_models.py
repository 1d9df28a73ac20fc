"""Models that answer in few bits, or spread over a CPU and the disk: as if they were loaded plainly, said, recorded."""

import gc
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapter_recipe, as_if_trained, attached_to, inputs, logits
from tiny_runs import picture_bytes, tiny_recipe

from finesight import api
from finesight.adapters.base import base_at
from finesight.adapters.merge import merge
from finesight.adapters.save import write_adapter
from finesight.cli.held import load_from
from finesight.cli.main import run as command
from finesight.config.loading import Load, load_of
from finesight.core.errors import FinesightError, ModelError, RecipeError
from finesight.data.loading.loader import in_order
from finesight.models import quantize, spread
from finesight.models.forward import SupervisedForward
from finesight.models.load import LoadedModel, Reading, load_model
from finesight.models.quantize import held_in
from finesight.models.spread import input_device, is_spread, placement
from finesight.runtime.notices import Notices
from finesight.workflows.generate import generate
from finesight.workflows.places import find_model
from finesight.workflows.prepare import prepare

ALL_ON_DISK, HALF = {"cpu": "1KB"}, {"cpu": "120KB"}
"""Of 135 kB of weights; the largest layer, which must fit beside what is on the CPU, has 50."""


def spread_over(place: Path, max_memory: Mapping[str, str] = HALF) -> LoadedModel:
    return find_model(str(place), Reading(load=load_of(None, True, max_memory))).loaded


def folders() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("finesight-offload-*"))


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture(scope="module")
def plain(finished_run: Path) -> LoadedModel:
    return load_model(str(finished_run / "model"))


@pytest.fixture(scope="module")
def adapters(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of adapters of several forms on the finished run's model."""
    folder, base = tmp_path_factory.mktemp("adapters"), finished_run / "model"
    forms: dict[str, dict[str, Any]] = {
        "all": {"targets": {"vision_tower": "attention", "language_model": "all_linear"}},
        "whole": {"save": ("projector",)},
        "dora": {"dora": True},
    }
    for name, form in forms.items():
        _, attached = attached_to(base, **form)
        as_if_trained(attached)
        (folder / name).mkdir()
        write_adapter(folder / name, attached, base_at(str(base)))
    return folder


@pytest.mark.parametrize("max_memory", [ALL_ON_DISK, HALF])
def test_spread_weights_give_the_same(
    max_memory: dict[str, str], finished_run: Path, plain: LoadedModel, tiny_data: Path, tmp_path: Path
) -> None:
    loaded = spread_over(finished_run, max_memory)
    places = placement(loaded.model)
    assert sum(places.values()) == sum(value.numel() for value in plain.model.parameters())
    assert set(places) == ({"disk"} if max_memory is ALL_ON_DISK else {"cpu", "disk"})
    assert is_spread(loaded.model) and input_device(loaded.model) == torch.device("cpu")
    assert all(value.device.type == "meta" for value in loaded.model.lm_head.parameters())
    given = inputs(plain)
    assert torch.equal(logits(loaded.model, given), logits(plain.model, given))

    splits = prepare(tiny_recipe(tiny_data, tmp_path / "none"), Notices()).splits
    batch = next(in_order(splits["train"], 5))
    with torch.no_grad():
        ours, theirs = (SupervisedForward(one.model, one.ports.image)(batch) for one in (loaded, plain))
    assert torch.equal(ours, theirs)

    (tmp_path / "a.png").write_bytes(picture_bytes("red", "blue"))
    asked = (str(finished_run), [tmp_path / "a.png"], "Which colours?")
    answers = [
        generate(*asked, device="cpu", load=load, max_new_tokens=8)
        for load in (Load(), load_of(None, True, max_memory))
    ]
    assert answers[0] == answers[1] and answers[0][0]["answer"]


def test_the_folder_for_what_is_laid_off_is_removed(
    finished_run: Path, plain: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights that are not in `.safetensors` there is another copy on the disk, as long as the model lives."""
    plain.model.config.save_pretrained(tmp_path / "old")
    plain.processor.save_pretrained(tmp_path / "old")
    torch.save(plain.model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    loaded = spread_over(tmp_path / "old", ALL_ON_DISK)
    (folder,) = folders()
    assert list(folder.iterdir())
    given = inputs(plain)
    assert torch.equal(logits(loaded.model, given), logits(plain.model, given))
    del loaded
    gc.collect()
    assert not folders()
    monkeypatch.setattr("transformers.modeling_utils.load_state_dict", _fails)
    with pytest.raises(ModelError, match="its weights cannot be read: the disk is gone"):
        spread_over(tmp_path / "old", ALL_ON_DISK)
    assert not folders()


def _fails(*_: Any, **__: Any) -> None:
    assert folders(), "it is there while weights are loaded"
    raise OSError("the disk is gone")


@pytest.mark.parametrize("form", ["all", "whole", "dora"])
def test_adapters_on_spread_weights(form: str, adapters: Path, plain: LoadedModel) -> None:
    given = inputs(plain)
    expected = logits(find_model(str(adapters / form)).loaded.model, given)
    assert not torch.allclose(expected, logits(plain.model, given), atol=1e-2)
    if form == "dora":
        with pytest.raises(ModelError, match="a `dora` adapter looks at the base's matrices themselves"):
            spread_over(adapters / form)
    else:
        found = find_model(str(adapters / form), Reading(load=load_of(None, True, HALF)))
        assert "disk" in placement(found.loaded.model)
        assert torch.allclose(logits(found.loaded.model, given), expected, rtol=0, atol=1e-6)
        with pytest.raises(ModelError, match="the base model is spread"):
            merge(found.adapted.attached)
    if form == "whole":
        with pytest.raises(ModelError, match=r"whole tensors for modules .*multi_modal_projector\.linear_1"):
            spread_over(adapters / form, ALL_ON_DISK)
    elif form == "all":
        assert torch.equal(logits(spread_over(adapters / form, ALL_ON_DISK).model, given), expected)


def test_families_whose_code_looks_past_a_layer(plain: LoadedModel, finished_run: Path) -> None:
    loaded = spread_over(finished_run, ALL_ON_DISK)
    weight = loaded.model.lm_head.weight
    with (
        pytest.raises(ModelError, match="looks at weights that are not on a device"),
        spread.answering(loaded.model),
    ):
        weight.sum().item()
    with pytest.raises(RuntimeError), spread.answering(plain.model):
        weight.sum().item()


@pytest.mark.parametrize("numbers", ["nf4", "int8"])
def test_few_bits(numbers: Any, finished_run: Path, adapters: Path, plain: LoadedModel) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = api.load_model(finished_run, quantize=numbers)
    assert (held_in(loaded.model), held_in(plain.model)) == (numbers, None)
    assert sum(placement(loaded.model).values()) == sum(placement(plain.model).values())
    given = inputs(plain)
    near = (logits(loaded.model, given) - logits(plain.model, given)).abs().max()
    assert 1e-4 < near < 0.5
    together = api.load_model(finished_run, quantize=numbers, spread=True)
    assert torch.equal(logits(together.model, given), logits(loaded.model, given)), "all of it is on the CPU"
    with pytest.raises(ModelError, match="in few bits its weights do not fit where they may lie"):
        api.load_model(finished_run, quantize=numbers, spread=True, max_memory=ALL_ON_DISK)
    assert not folders()

    found = find_model(str(adapters / "all"), Reading(load=Load(quantize=numbers)))
    assert (found.adapted.base.quantize, found.adapted.trained) == (numbers, None)
    expected = logits(find_model(str(adapters / "all")).loaded.model, given)
    assert 1e-4 < (logits(found.loaded.model, given) - expected).abs().max() < 0.5
    with pytest.raises(ModelError, match="a merge needs fp32"):
        merge(found.adapted.attached)
    if numbers == "int8":
        with pytest.raises(ModelError, match=r"`dora` adapter .* in int8"):
            api.load_model(adapters / "dora", quantize=numbers)


def test_an_evaluation_says_how_and_keeps_it(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("bitsandbytes")
    out = {name: tmp_path / name for name in ("plain", "spread", "few")}
    words = ["evaluate", str(finished_run), "--split", "val", "--json"]
    assert command([*words, "--out", str(out["plain"])]) == 0
    assert command([*words, "--out", str(out["spread"]), "--spread", "--max-memory", "cpu=120KB"]) == 0
    assert command([*words, "--out", str(out["few"]), "--quantize", "nf4"]) == 0
    kept = {name: json.loads((folder / "results.json").read_text()) for name, folder in out.items()}
    whole = kept["plain"]["loaded"]["parameters"]["cpu"]
    assert kept["plain"]["loaded"] == {"quantize": None, "spread": False, "parameters": {"cpu": whole}}
    there = kept["spread"]["loaded"]
    assert there["spread"] and set(there["parameters"]) == {"cpu", "disk"}
    assert sum(there["parameters"].values()) == whole
    assert kept["spread"]["scores"] == kept["plain"]["scores"]
    answers = [(out[name] / "predictions" / "val.jsonl").read_text() for name in ("plain", "spread")]
    assert answers[0] == answers[1]
    assert kept["few"]["loaded"] == {"quantize": "nf4", "spread": False, "parameters": {"cpu": whole}}
    said = [record.getMessage() for record in caplog.records]
    assert f"loaded: the model is held in nf4: {whole:,} parameters on cpu" in said
    assert any("held in fp32: " in text and " parameters on disk" in text for text in said)
    by_word = api.evaluate(
        finished_run, split="val", out=tmp_path / "word", model={"load": {"quantize": "nf4"}}
    )
    assert by_word["loaded"] == kept["few"]["loaded"] and by_word["scores"] == kept["few"]["scores"]
    assert load_of("nf4", False, {}).words == ['model.load.quantize="nf4"']
    capsys.readouterr()

    generating = ["generate", str(finished_run), "Which?", "--json", "--quantize"]
    assert command([*generating, "none", "--spread", "--max-memory", "cpu=1KB"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"]
    assert command([*generating, "int3"]) == 2
    table = str(out["plain"] / "predictions" / "val.jsonl")
    assert command(["evaluate", "--predictions", table, "--metrics", "exact_match", "--spread"]) == 2
    assert "a table of predictions needs no model" in capsys.readouterr().err


def test_an_adapter_of_a_quantised_base_in_other_numbers(adapters: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from finesight.workflows.held import held, say_held

    record = json.loads((adapters / "all" / "finesight.json").read_text())
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in (adapters / "all").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    record["base"]["quantize"] = "nf4"
    (folder / "finesight.json").write_text(json.dumps(record))
    told = {}
    for numbers in (None, "none"):
        notices = Notices()
        found = find_model(str(folder), Reading(load=Load(quantize=numbers)))
        facts = held(found)
        say_held(facts, notices)
        told[numbers] = (
            facts["quantize"],
            facts["trained"],
            any("trained on its base in nf4" in str(row["text"]) for row in notices.rows()),
        )
    assert told == {None: ("nf4", "nf4", False), "none": (None, "nf4", True)}


def test_what_does_not_go_together(
    finished_run: Path, plain: LoadedModel, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(FinesightError) as caught:
            api.load_model(finished_run, **options)
        return str(caught.value)

    assert "`spread` is off" in refused(max_memory={"cpu": "1GB"})
    assert "max_memory" in refused(spread=True, max_memory={"cpu": "much"})
    assert "max_memory" in refused(spread=True, max_memory={"cuda": "1GB"})
    assert "quantize" in refused(quantize="int3")
    assert "there is no gpu99" in refused(spread=True, max_memory={"gpu99": "1GB"})
    whole = find_model(str(finished_run), Reading(load=Load(spread=True), device="cpu")).loaded.model
    assert not is_spread(whole) and set(placement(whole)) == {"cpu"}, "it fits"
    last = finished_run / "checkpoints" / (finished_run / "checkpoints" / "last").read_text().strip()
    with pytest.raises(ModelError, match="a checkpoint holds a whole model"):
        api.load_model(last, spread=True)
    with pytest.raises(FinesightError, match="names no device and its size"):
        load_from(None, True, "20GB")
    assert load_of(None, True, {"gpu0": "1.5GB", "cpu": "2KiB"}).sizes == {"gpu0": 1_500_000_000, "cpu": 2048}

    for load, told in (({"spread": True}, "cannot be trained"), ({"quantize": "nf4"}, "adapter.quantize")):
        recipe = adapter_recipe(tiny_data, tmp_path / "run", finished_run, {})
        model = recipe.model.model_copy(update={"load": Load.model_validate(load)})
        with pytest.raises(RecipeError) as caught:
            prepare(recipe.model_copy(update={"model": model}), Notices())
        assert told in str(caught.value)

    for module, name, options in (
        (quantize, "bitsandbytes", {"quantize": "nf4"}),
        (spread, "accelerate", {"spread": True}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, "find_spec", {name: None}.get)
            assert f"needs {name}, which is not installed" in refused(**options)

    plain.model.config.save_pretrained(tmp_path / "few")
    plain.processor.save_pretrained(tmp_path / "few")
    config = json.loads((tmp_path / "few" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "few" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="saved in few bits already"):
        api.load_model(tmp_path / "few", quantize="int8")
