"""An adapter's folder: `peft` reads it to the same bits, what does not fit is listed, and merging changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import as_if_trained, attached_to, copied, inputs, logits
from safetensors.torch import load_file, save_file

from finesight.adapters.attach import Attached
from finesight.adapters.base import base_at
from finesight.adapters.load import attach_as, load_values, read_config
from finesight.adapters.merge import merge
from finesight.adapters.save import WEIGHTS, write_adapter
from finesight.core.errors import ModelError
from finesight.models.load import LoadedModel, load_model
from finesight.models.parts import freeze
from finesight.models.scratch import build_model
from finesight.workflows.adapting import open_adapter

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # `peft` asks in the old way
)

FORMS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4},
    "rslora": {"rslora": True, "targets": ("q_proj", "down_proj")},
    "dora": {"dora": True, "targets": {"language_model": "attention", "projector": "all_linear"}},
    "biases": {"bias": "all", "targets": {"vision_tower": "attention", "language_model": "all_linear"}},
    "own biases": {"bias": "lora_only", "targets": {"vision_tower": ("q_proj", "fc1", "patch_embedding")}},
    "whole projector": {"save": ("projector",), "dropout": 0.1},
    "whole embeddings": {"save": ("embeddings", "projector"), "dora": True},
}
"""Tied embeddings in each."""


def _saved(base: Path, folder: Path, **settings: Any) -> tuple[LoadedModel, Attached]:
    loaded, attached = attached_to(base, **settings)
    as_if_trained(attached)
    folder.mkdir()
    write_adapter(folder, attached, base_at(str(base)))
    return loaded, attached


def _by_peft(base: Path, folder: Path) -> Any:
    """What `peft` alone makes of an adapter's folder.

    Trainable, as ours is: for inputs that are not contiguous torch's matrix product takes another way, which rounds
    otherwise, where the matrix needs a gradient.
    """
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(str(base)).model, str(folder), is_trainable=True)


@pytest.mark.parametrize("form", FORMS)
def test_saved_loaded_and_merged(form: str, finished_run: Path, tmp_path: Path) -> None:
    base, folder = finished_run / "model", tmp_path / "adapter"
    loaded, attached = _saved(base, folder, **FORMS[form])
    given = inputs(loaded)
    ours = logits(attached.model, given)
    assert not torch.allclose(ours, logits(load_model(str(base)).model, given), atol=1e-2), (
        "it does something"
    )

    assert torch.equal(logits(_by_peft(base, folder), given), ours)
    again = open_adapter(folder)
    assert torch.equal(logits(again.loaded.model, given), ours)
    learned = {n for n, p in attached.model.named_parameters() if p.requires_grad}
    assert {n for n, p in again.loaded.model.named_parameters() if p.requires_grad} == learned

    merged = merge(again.attached)
    assert torch.allclose(logits(merged, given), ours, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded.processor.save_pretrained(tmp_path / "merged")
    reloaded = load_model(str(tmp_path / "merged")).model
    assert torch.equal(logits(reloaded, given), logits(merged, given))
    assert reloaded.lm_head.weight is reloaded.model.language_model.embed_tokens.weight, "still tied"
    assert set(reloaded.state_dict()) == set(load_model(str(base)).model.state_dict())


def _untied_with_new_tokens(finished_run: Path, folder: Path, tie: bool) -> Path:
    """A base whose tokenizer has two more tokens than it was made with, and the embeddings of them."""
    from finesight.config.load import load_recipe

    loaded = load_model(str(finished_run / "model"))
    scratch = load_recipe(str(finished_run / "recipe.yaml")).model.scratch
    assert scratch is not None
    decoder = scratch.decoder.model_copy(update={"tie_embeddings": tie})
    model = build_model(scratch.model_copy(update={"decoder": decoder}), loaded.processor, 3)
    loaded.processor.tokenizer.add_tokens(["<begin>", "<end>"], special_tokens=True)
    model.resize_token_embeddings(len(loaded.processor.tokenizer))
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tie", [True, False])
def test_new_tokens_survive(tie: bool, finished_run: Path, tmp_path: Path) -> None:
    base = _untied_with_new_tokens(finished_run, tmp_path / "base", tie)
    loaded, attached = _saved(base, tmp_path / "adapter", save=("embeddings",), targets="attention")
    given = inputs(loaded)
    last = len(loaded.ports.tokenizer) - 1
    given["input_ids"][:, -1] = last
    ours = logits(attached.model, given)
    assert ours.shape[-1] == last + 1
    assert torch.equal(logits(_by_peft(base, tmp_path / "adapter"), given), ours)
    merged = merge(open_adapter(tmp_path / "adapter").attached)
    merged.save_pretrained(tmp_path / "merged")
    loaded.processor.save_pretrained(tmp_path / "merged")
    again = load_model(str(tmp_path / "merged"))
    assert torch.allclose(logits(again.model, given), ours, rtol=0, atol=1e-5)
    assert (again.model.lm_head.weight is again.model.model.language_model.embed_tokens.weight) == tie
    assert again.ports.tokenizer.convert_tokens_to_ids("<end>") == last


def test_an_adapted_head_that_is_not_tied(finished_run: Path, tmp_path: Path) -> None:
    base = _untied_with_new_tokens(finished_run, tmp_path / "base", tie=False)
    loaded, attached = _saved(base, tmp_path / "adapter", targets=("lm_head", "embed_tokens", "q_proj"))
    given = inputs(loaded)
    ours = logits(attached.model, given)
    again = open_adapter(tmp_path / "adapter")
    assert torch.equal(logits(again.loaded.model, given), ours)
    assert torch.allclose(logits(merge(again.attached), given), ours, rtol=0, atol=1e-5)


def test_files_that_peft_wrote(finished_run: Path, tmp_path: Path) -> None:
    """Work from elsewhere: short names of targets, wrappers around what learns whole, no record of finesight's."""
    from peft import LoraConfig, get_peft_model

    base = finished_run / "model"
    config = LoraConfig(r=3, target_modules=["q_proj", "v_proj"], modules_to_save=["multi_modal_projector"])
    made = get_peft_model(load_model(str(base)).model, config)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03)
    made.save_pretrained(tmp_path / "theirs")
    again = open_adapter(tmp_path / "theirs")
    given = inputs(again.loaded)
    assert torch.equal(logits(again.loaded.model, given), logits(made, given))
    assert again.attached.saved == ("model.multi_modal_projector",)


def _damaged(folder: Path, change: str) -> Path:
    tensors = load_file(folder / WEIGHTS)
    name = next(key for key in tensors if key.endswith("layers.0.self_attn.v_proj.lora_B.weight"))
    if change == "renamed":
        tensors[name.replace("v_proj", "w_proj")] = tensors.pop(name)
    elif change == "missing":
        del tensors[name]
    elif change == "not in the model":
        tensors["base_model.model.model.other.lora_A.weight"] = torch.zeros(2, 2)
    else:
        tensors[name] = torch.zeros(7, 7)
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("renamed", "w_proj.lora_B.weight for "),
        ("missing", "v_proj.lora_B.weight"),
        ("not in the model", "base_model.model.model.other.lora_A.weight"),
        ("of another shape", "v_proj.lora_B.weight is (7, 7), not (32, 8)"),
    ],
)
def test_weights_that_do_not_fit(change: str, told: str, finished_run: Path, tmp_path: Path) -> None:
    _saved(finished_run / "model", tmp_path / "adapter")
    folder = _damaged(tmp_path / "adapter", change)
    loaded = load_model(str(finished_run / "model"))
    attached = attach_as(loaded.model, read_config(folder), freeze(loaded.model, ()), "here")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_values(attached, folder)
    fault = caught.value.faults[0]
    assert f"{change}: " in fault.what
    assert told in fault.what
    assert fault.where == str(folder / WEIGHTS)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items()), (
        "unchanged"
    )


def test_folders_that_are_no_adapter(finished_run: Path, tmp_path: Path) -> None:
    _saved(finished_run / "model", tmp_path / "adapter")

    def told(**changes: Any) -> str:
        folder = copied(tmp_path / "adapter", tmp_path / f"copy {len(list(tmp_path.iterdir()))}")
        document = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(document | changes))
        with pytest.raises(ModelError) as caught:
            open_adapter(folder)
        return caught.value.faults[0].what

    assert "of the kind" in told(peft_type="IA3")
    assert "does not fit this base model" in told(target_modules=["nothing_like_it"])
    assert "trainable_token_indices" in told(trainable_token_indices=[1])
    assert "cannot be read: Unexpected keyword arguments ['new_in_2031']" in told(new_in_2031=True)
    (tmp_path / "adapter" / WEIGHTS).write_bytes(b"none")
    with pytest.raises(ModelError, match="weights cannot be read"):
        open_adapter(tmp_path / "adapter")


def test_a_base_that_is_gone_or_changed(finished_run: Path, tmp_path: Path) -> None:
    base = copied(finished_run / "model", tmp_path / "here" / "base")
    (tmp_path / "here" / "runs").mkdir()
    loaded, attached = _saved(base, tmp_path / "here" / "runs" / "adapter")
    ours = logits(attached.model, inputs(loaded))
    moved = tmp_path / "there"
    (tmp_path / "here").rename(moved)
    again = open_adapter(moved / "runs" / "adapter")
    assert torch.equal(logits(again.loaded.model, inputs(loaded)), ours), "moved together"

    tensors = load_file(moved / "base" / "model.safetensors")
    next(iter(tensors.values())).add_(1)
    save_file(tensors, moved / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the base model changed"):
        open_adapter(moved / "runs" / "adapter")
    (moved / "base").rename(moved / "elsewhere")
    with pytest.raises(ModelError, match="the base model of this adapter is gone"):
        open_adapter(moved / "runs" / "adapter")


def test_a_merge_needs_full_precision(finished_run: Path) -> None:
    _, attached = attached_to(finished_run / "model")
    attached.model.model.language_model.embed_tokens.to(torch.bfloat16)
    with pytest.raises(ModelError, match="needs fp32"):
        merge(attached)


def test_files_are_written_alike(finished_run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        _saved(finished_run / "model", tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
