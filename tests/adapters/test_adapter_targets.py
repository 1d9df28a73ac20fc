"""Which layers an adapter changes, which modules learn whole, and what is said of names that mean nothing."""

from pathlib import Path
from typing import Any

import pytest
from adapted import attached_to
from pydantic import ValidationError

from finesight.adapters.attach import adapted_layers
from finesight.config.adapter import Adapter
from finesight.config.load import parse_recipe
from finesight.core.errors import ModelError, RecipeError
from finesight.models.parts import count, own_name, part_of

LAYER = "model.language_model.layers.0"
ATTENTION = [f"{LAYER}.self_attn.{name}_proj" for name in "qkvo"]
MLP = [f"{LAYER}.mlp.{name}_proj" for name in ("gate", "up", "down")]


def _targets(run: Path, wanted: Any, **settings: Any) -> set[str]:
    _, attached = attached_to(run / "model", targets=wanted, **settings)
    assert set(adapted_layers(attached.model)) == set(attached.targets)
    return set(attached.targets)


@pytest.mark.parametrize(
    ("wanted", "layers"),
    [
        ("all_linear", ATTENTION + MLP),
        ("attention", ATTENTION),
        (("q_proj", "v_proj"), [ATTENTION[0], ATTENTION[2]]),
        ((f"{LAYER}.mlp.up_proj",), [MLP[1]]),
        (("layers.0.mlp.*",), MLP),
        ({"language_model": ("self_attn.*",)}, ATTENTION),
        (
            {"projector": "all_linear", "language_model": ("o_proj",)},
            ["model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2", ATTENTION[3]],
        ),
    ],
)
def test_words_become_exact_names(finished_run: Path, wanted: Any, layers: list[str]) -> None:
    assert _targets(finished_run, wanted) == set(layers)


def test_a_named_tower(finished_run: Path) -> None:
    found = _targets(finished_run, {"vision_tower": "attention"})
    assert len(found) == 4
    assert all(name.startswith("model.vision_tower.") and ".self_attn." in name for name in found)


def test_what_learns_whole_is_not_adapted(finished_run: Path) -> None:
    found = _targets(
        finished_run, {"projector": "all_linear", "language_model": "attention"}, save=("linear_1",)
    )
    assert found == {*ATTENTION, "model.multi_modal_projector.linear_2"}


@pytest.mark.parametrize(
    ("settings", "what", "mend"),
    [
        ({"targets": ("q_porj",)}, "`q_porj` names no layer of the language model", "did you mean `q_proj`"),
        ({"targets": ("fc1",)}, "`fc1` names layers of the vision tower alone", "{vision_tower: [fc1]}"),
        ({"targets": {"vision_tower": ("gate_proj",)}}, "names layers of the language model alone", "fc1"),
        ({"targets": {"projector": "attention"}}, "`attention` means no layer of the projector", "linear_1"),
        (
            {"targets": {"projector": ("linear_1",)}, "save": ("projector",)},
            "learn whole by `adapter.save`",
            "out",
        ),
        ({"save": ("projektor",)}, "`projektor` is no part and no module", "did you mean `projector`"),
        ({"targets": ("embed_tokens",)}, "shares its weights with `lm_head`", "embeddings"),
    ],
)
def test_names_that_mean_nothing(finished_run: Path, settings: dict[str, Any], what: str, mend: str) -> None:
    with pytest.raises(ModelError) as caught:
        attached_to(finished_run / "model", **settings)
    fault = caught.value.faults[0]
    assert what in fault.what
    assert mend in fault.mend
    assert fault.where.startswith("adapter.")


@pytest.mark.parametrize(
    ("save", "modules"),
    [
        (("projector",), {"model.multi_modal_projector"}),
        (("projector", "linear_1"), {"model.multi_modal_projector"}),
        (("linear_2",), {"model.multi_modal_projector.linear_2"}),
        # the two share one matrix: what `peft` reads must have it under both names
        (("embeddings",), {"model.language_model.embed_tokens", "lm_head"}),
        (("embed_tokens",), {"model.language_model.embed_tokens", "lm_head"}),
    ],
)
def test_what_learns_whole(finished_run: Path, save: tuple[str, ...], modules: set[str]) -> None:
    _, attached = attached_to(finished_run / "model", save=save)
    assert set(attached.saved) == modules
    for name, parameter in attached.model.named_parameters():
        whole = any(name.startswith(f"{module}.") for module in modules)
        assert parameter.requires_grad == (whole or "lora_" in name), name


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_biases(finished_run: Path, bias: str) -> None:
    wanted = {"vision_tower": "attention"}
    _, attached = attached_to(finished_run / "model", targets=wanted, bias=bias)
    learning = {n for n, p in attached.model.named_parameters() if p.requires_grad and "lora_" not in n}
    every = {
        n for n, _ in attached.model.named_parameters() if n.endswith(".bias") and "post_layernorm" not in n
    }
    adapted = {n for n in every if ".base_layer." in n}
    assert adapted
    assert learning == {"none": set(), "lora_only": adapted, "all": every}[bias]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # `peft` asks in the old way
def test_counts_of_parts_are_those_of_peft(finished_run: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from finesight.models.load import load_model

    _, attached = attached_to(finished_run / "model", rank=4)
    counts = count(attached.model)
    peft = get_peft_model(
        load_model(str(finished_run / "model")).model, LoraConfig(r=4, target_modules=list(attached.targets))
    )
    learning, total = peft.get_nb_trainable_parameters()
    assert sum(part.trainable for part in counts.values()) == learning == counts["language_model"].trainable
    assert sum(part.total for part in counts.values()) == total


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("model.x.q_proj.base_layer.weight", "model.x.q_proj.weight"),
        ("model.x.q_proj.lora_A.default.weight", "model.x.q_proj.weight"),
        ("model.x.q_proj.lora_magnitude_vector.default.weight", "model.x.q_proj.weight"),
        ("model.x.embed.lora_embedding_A.default", "model.x.embed.weight"),
        ("model.x.head.modules_to_save.default.weight", "model.x.head.weight"),
        ("model.x.head.original_module.bias", "model.x.head.bias"),
        ("model.x.lora_like.weight", "model.x.lora_like.weight"),
    ],
)
def test_names_without_the_adapter(name: str, plain: str) -> None:
    assert own_name(name) == plain


def test_the_part_of_an_adapted_layer() -> None:
    assert part_of("lm_head.base_layer.weight") == "language_model"
    assert part_of("model.vision_tower.a.lora_B.default.weight") == "vision_tower"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": {"scratch": {}}, "adapter": {}}, "knows nothing"),
        (
            {
                "model": {"compose": {"vision": {"pretrained": "x"}, "language": {"pretrained": "y"}}},
                "adapter": {},
            },
            "saved somewhere",
        ),
        (
            {"model": {"pretrained": "x", "freeze": ["projector"]}, "adapter": {"save": ["projector"]}},
            "projector",
        ),
        ({"model": {"pretrained": "x"}, "adapter": {"targets": []}}, "nothing would be adapted"),
        (
            {"model": {"pretrained": "x"}, "adapter": {"targets": {"vision_tower": []}}},
            "nothing would be adapted",
        ),
        ({"model": {"pretrained": "x"}, "adapter": {"targets": "al_linear"}}, "al_linear"),
        ({"model": {"pretrained": "x"}, "adapter": {"targets": {"vision_towr": "attention"}}}, "vision_towr"),
        ({"model": {"pretrained": "x"}, "adapter": {"targets": 3}}, "targets"),
        ({"model": {"pretrained": "x"}, "adapter": {"rank": 0}}, "rank"),
        ({"model": {"pretrained": "x"}, "adapter": {"dora": True, "quantize": "int8"}}, "do not go together"),
    ],
)
def test_recipes_that_are_refused(
    tiny_data: Path, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    from tiny_runs import tiny_mapping

    with pytest.raises(RecipeError, match=what):
        parse_recipe({**tiny_mapping(tiny_data, tmp_path), **changes})


def test_a_section_is_checked_alone() -> None:
    with pytest.raises(ValidationError, match="nothing would be adapted"):
        Adapter(targets=())
