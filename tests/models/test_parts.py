from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_recipe
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from finesight.core.errors import ModelError
from finesight.models.forward import SupervisedForward
from finesight.models.parts import check_frozen, count, freeze, frozen_lines, part_of
from finesight.runtime.notices import Notices
from finesight.training.step import loss_sum
from finesight.workflows.prepare import prepare


def _llava(vision: object, layer: int | list[int]) -> LlavaForConditionalGeneration:
    text = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=1, image_seq_length=4,
        vision_feature_layer=layer, vision_feature_select_strategy="full", tie_word_embeddings=False,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


SIZES = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 1,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip


@pytest.mark.parametrize("tower", ["siglip", "siglip with a head", "clip"])
@pytest.mark.parametrize("layer", [-1, -2, 2, [1, -2], [-1, 0]])
def test_unused_are_exactly_those_that_no_gradient_reaches(tower: str, layer: int | list[int]) -> None:
    vision = (
        CLIPVisionConfig(**SIZES)
        if tower == "clip"
        else SiglipVisionConfig(**SIZES, vision_use_head="head" in tower)
    )
    model = _llava(vision, layer)
    tokens = 5 if tower == "clip" else 4  # a class token
    ids = torch.tensor([[1] * tokens + [2, 3]])
    model(input_ids=ids, pixel_values=torch.rand(1, 3, 8, 8)).logits.sum().backward()
    unreached = sorted(name for name, parameter in model.named_parameters() if parameter.grad is None)
    assert freeze(model, ()) == unreached
    assert all(
        parameter.requires_grad == (name not in unreached) for name, parameter in model.named_parameters()
    )


def test_every_parameter_that_learns_gets_a_gradient(tiny_data: Path, tmp_path: Path) -> None:
    notices = Notices()
    prepared = prepare(tiny_recipe(tiny_data, tmp_path), notices)
    from finesight.data.loading.loader import in_order

    batch = next(in_order(prepared.splits["train"], 4))
    loss_sum(SupervisedForward(prepared.model, prepared.ports.image)(batch), batch.targets).backward()
    for name, parameter in prepared.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    told = [row["text"] for row in notices.rows() if row["kind"] == "frozen"]
    assert told == [
        "2 tensors that no output depends on: model.vision_tower.post_layernorm.bias, "
        "model.vision_tower.post_layernorm.weight"
    ]


def test_counts(tiny_data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_data, tmp_path, model={"freeze": ["vision_tower"]})
    prepared = prepare(recipe, Notices())
    counts = count(prepared.model)
    assert set(counts) == {"vision_tower", "projector", "language_model"}
    assert sum(part.total for part in counts.values()) == sum(p.numel() for p in prepared.model.parameters())
    assert counts["vision_tower"].trainable == 0
    assert counts["projector"].trainable == counts["projector"].total == 32 * 32 * 2 + 32 * 2
    assert counts["language_model"].trainable == counts["language_model"].total


def test_tied_matrices_count_once(tiny_data: Path, tmp_path: Path) -> None:
    mapping = tiny_recipe(tiny_data, tmp_path).model_dump(mode="json")
    totals = []
    for tie in (True, False):
        mapping["model"]["scratch"]["decoder"]["tie_embeddings"] = tie
        from finesight.config.load import parse_recipe

        prepared = prepare(parse_recipe(mapping), Notices())
        totals.append(count(prepared.model)["language_model"].total)
    assert totals[1] - totals[0] == len(prepared.ports.tokenizer) * 32


def test_freezing_everything_is_an_error() -> None:
    model = _llava(SiglipVisionConfig(**SIZES, vision_use_head=False), -1)
    with pytest.raises(ModelError, match="nothing can learn"):
        freeze(model, ("vision_tower", "projector", "language_model"))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lm_head.weight", "language_model"),
        ("model.visual.blocks.0.attn.qkv.weight", "vision_tower"),
        ("model.visual.merger.mlp.0.weight", "projector"),
        ("model.audio_tower.layers.0.fc1.weight", "audio_tower"),
        ("model.language_model.layers.0.self_attn.q_proj.base_layer.weight", "language_model"),
        ("base_model.model.model.vision_tower.layers.0.fc1.lora_A.default.weight", "vision_tower"),
        ("model.multi_modal_projector.modules_to_save.default.linear_1.weight", "projector"),
    ],
)
def test_parts_by_name(name: str, part: str) -> None:
    assert part_of(name) == part


def test_a_part_that_the_model_lacks_is_an_error() -> None:
    model = _llava(SiglipVisionConfig(**SIZES, vision_use_head=False), -1)
    with pytest.raises(ModelError, match="no audio_tower") as caught:
        freeze(model, ("audio_tower",))
    assert caught.value.faults[0].mend == "its parts are: language_model, projector, vision_tower"


def test_a_frozen_part_is_told(tiny_data: Path, tmp_path: Path) -> None:
    notices = Notices()
    prepare(tiny_recipe(tiny_data, tmp_path, model={"freeze": ["projector", "language_model"]}), notices)
    told = [str(row["text"]) for row in notices.rows()]
    assert any(text.startswith("the language model does not learn: ") for text in told)
    assert "the projector does not learn: 2,112 values in 4 tensors" in told


def test_patterns_and_parts_mix_and_are_counted() -> None:
    model = _llava(SiglipVisionConfig(**SIZES, vision_use_head=False), -1)
    words = ("projector", "*.self_attn.q_proj.*", "model.language_model.embed_tokens.weight")
    freeze(model, words)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    wanted = {
        name
        for name, _ in model.named_parameters()
        if "multi_modal_projector" in name or ".self_attn.q_proj." in name or "embed_tokens" in name
    }
    assert frozen - wanted == {f"model.vision_tower.post_layernorm.{end}" for end in ("weight", "bias")}
    assert wanted <= frozen
    lines = frozen_lines(model, words)
    assert lines == [
        "the projector does not learn: 144 values in 4 tensors",
        "`*.self_attn.q_proj.*` does not learn: 280 values in 7 tensors",
        "`model.language_model.embed_tokens.weight` does not learn: 160 values in 1 tensor",
    ]


@pytest.mark.parametrize(
    ("words", "told", "mend"),
    [
        (
            ("visiontower",),
            "`visiontower` is no part",
            "its parts are language_model, projector, vision_tower",
        ),
        (("*.q_porj.*",), "matches none of its parameters", "q_proj"),
        (("vision_tower", "*vision_tower*layers.0.*"), "frozen already", "take it out"),
        (("projector", "projector"), "frozen already", "take it out"),
    ],
)
def test_a_word_that_freezes_nothing_is_an_error(words: tuple[str, ...], told: str, mend: str) -> None:
    model = _llava(SiglipVisionConfig(**SIZES, vision_use_head=False), -1)
    with pytest.raises(ModelError) as caught:
        freeze(model, words)
    (fault,) = caught.value.faults
    assert told in fault.what and mend in fault.mend and fault.where == "model.freeze"
    assert all(value.requires_grad for value in model.parameters()), "nothing was frozen"


def test_a_pattern_and_an_adapter() -> None:
    """What an adapter lets learn whole cannot be frozen; what it changes beside its frozen weights can."""
    model = _llava(SiglipVisionConfig(**SIZES, vision_use_head=False), -1)
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    check_frozen(model, ("language_model", "*vision_tower*layers.0.*"))
    for words, told in (
        (("*.multi_modal_projector.linear_1.*",), "learns whole by the adapter"),
        (("*.nothing.*",), "matches none"),
    ):
        with pytest.raises(ModelError, match=told):
            check_frozen(model, words)
