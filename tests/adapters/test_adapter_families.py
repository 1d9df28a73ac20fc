"""Adapters on families that are unlike LLaVA: heads that share their matrix, encoders, matrices that lie otherwise."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))

from adapted import attached_to
from bodies import MAKERS
from matrix import Body, batch_of, body, full_logits, samples

from finesight.adapters.attach import adapted_layers
from finesight.adapters.base import base_at
from finesight.adapters.merge import merge
from finesight.adapters.save import write_adapter
from finesight.config.train import Generation
from finesight.core.errors import ModelError
from finesight.export.folder import save_adapter_folder, save_folder
from finesight.models.forward import SupervisedForward
from finesight.models.recompute import checkpoint_activations
from finesight.training.step import loss_sum
from finesight.workflows.adapting import open_adapter
from finesight.workflows.export import _made_up
from finesight.workflows.places import find_model
from finesight.workflows.sameness import drift, hear


def _logits(made: Body) -> torch.Tensor:
    made.loaded.model.eval()
    with torch.no_grad():
        return full_logits(made, batch_of(made, samples(made)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("t5", {"save": ("embeddings",), "targets": "attention"}),
        ("gpt2", {"rank": 4, "rslora": True}),
        ("vision-encoder-decoder", {"dora": True, "targets": {"vision_tower": "attention"}}),
        ("qwen2_vl", {"targets": {"vision_tower": "all_linear", "projector": "all_linear"}, "bias": "all"}),
    ],
)
def test_learned_saved_loaded_and_merged(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    assert name in MAKERS
    body(name, tmp_path / "base")
    loaded, attached = attached_to(tmp_path / "base", **settings)
    made = Body(name, tmp_path, loaded)
    checkpoint_activations(loaded.model)
    loaded.model.train()
    batch = batch_of(made, samples(made))
    forward = SupervisedForward(loaded.model, loaded.ports.image)
    optimizer = torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        loss_sum(forward(batch), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    layers = adapted_layers(loaded.model)
    assert set(layers) == set(attached.targets)
    assert all(layer.lora_B["default"].weight.abs().max() > 0 for layer in layers.values())
    ours = _logits(made)

    base = base_at(str(tmp_path / "base"))
    folder = tmp_path / "adapter"
    generation = Generation(max_new_tokens=4)
    save_adapter_folder(
        folder, lambda to: write_adapter(to, attached, base), loaded.processor, loaded.ports, generation, ""
    )
    again = open_adapter(folder)
    assert again.loaded.ports.fingerprint == loaded.ports.fingerprint
    assert torch.equal(_logits(Body(name, tmp_path, again.loaded)), ours)
    asked = _made_up(loaded.ports, 3)
    heard = hear(again.loaded.model, loaded.ports, asked, generation)
    model = merge(again.attached)
    save_folder(tmp_path / "merged", model, loaded.processor, loaded.ports, generation, "")
    plain = find_model(str(tmp_path / "merged")).loaded
    assert torch.allclose(_logits(Body(name, tmp_path, plain)), ours, rtol=1e-5, atol=1e-5)
    found = drift(heard, hear(plain.model, loaded.ports, asked, generation))
    assert found.same and found.count == 3 and found.largest > 0


def test_a_name_that_peft_would_find_elsewhere_too(tmp_path: Path) -> None:
    body("git", tmp_path / "base")  # its head is called `output`, as are parts of its layers
    with pytest.raises(ModelError, match=r"would take git\.encoder\.layer\.0\.attention\.output"):
        attached_to(tmp_path / "base", save=("embeddings",))


def test_the_second_stage_of_a_composed_model(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projector first; then it and an adapter on the language model, in one folder that loads and merges."""
    from adapted import adapter_recipe
    from tiny_runs import tiny_recipe

    from finesight.config.load import parse_recipe
    from finesight.workflows import train as workflow
    from finesight.workflows.export import export

    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    vision = {"config": {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, **sizes}}
    language = {"config": {"model_type": "llama", "max_position_embeddings": 96, **sizes}, "vocabulary": 280}
    first = tiny_recipe(tiny_data, tmp_path / "first", train={"max_steps": 4}).model_dump(
        mode="json", exclude_none=True
    )
    composed = {"vision": vision, "projector": {"kind": "resblock"}, "language": language}
    first["model"] = {"compose": composed, "freeze": ["vision_tower", "language_model"]}
    workflow.train(parse_recipe(first))
    adapter = {"save": ["projector"], "rank": 4}
    workflow.train(
        adapter_recipe(tiny_data, tmp_path / "second", tmp_path / "first", adapter, train={"max_steps": 4})
    )
    found = find_model(str(tmp_path / "second"))
    assert found.adapted.attached.saved == ("model.multi_modal_projector",)
    told = export(str(tmp_path / "second"), tmp_path / "merged", merge=True)
    assert told["proof"]["answers_equal"] == 20
    merged = find_model(str(tmp_path / "merged")).loaded.model
    assert type(merged) is type(found.loaded.model)
