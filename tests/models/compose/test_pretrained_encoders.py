"""A vision encoder out of a folder: alone, a part of a larger model, with and without what lies behind it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_parts import VISION, built, composed
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from finesight.core.errors import ModelError

MEAN, STD = [0.4, 0.45, 0.5], [0.2, 0.25, 0.3]


def _kept(name: str) -> dict[str, Any]:
    return {key: value for key, value in VISION[name].items() if key != "model_type"}


def _saved(model: Any, folder: Path) -> Path:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=MEAN, image_std=STD, size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


def _clip() -> CLIPConfig:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return CLIPConfig(vision_config=_kept("clip"), text_config={**text, "vocab_size": 20}, projection_dim=8)


MODELS = {
    "vision alone": lambda: CLIPVisionModel(_clip().vision_config),
    "text beside it": lambda: CLIPModel(_clip()),
    "siglip with a head": lambda: SiglipVisionModel(SiglipVisionModel.config_class(**_kept("siglip"))),
    "classifier": lambda: ViTForImageClassification(ViTConfig(**_kept("clip"), num_labels=3)),
}


def _tower(model: Any) -> Any:
    return {"CLIPModel": "vision_model", "ViTForImageClassification": "vit"}.get(type(model).__name__)


@pytest.mark.parametrize("name", MODELS)
def test_its_weights_and_its_picture_settings_are_taken(tmp_path: Path, name: str) -> None:
    reference = MODELS[name]()
    place = _saved(reference, tmp_path)
    loaded = built(composed({"pretrained": str(place), "layer": -2}, "mlp", "llama"))
    image = loaded.ports.image
    assert image is not None
    assert (image.mean, image.std, image.height) == (tuple(MEAN), tuple(STD), 32)
    assert loaded.model.config.model_type == "llava"
    inner = getattr(reference, _tower(reference)) if _tower(reference) else reference
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = inner.eval()(pixels, output_hidden_states=True).hidden_states[-2]
        ours = loaded.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    assert float((ours - theirs).abs().max()) <= 1e-5


def test_missing_and_wrong_shaped_weights_are_errors(tmp_path: Path) -> None:
    place = _saved(MODELS["vision alone"](), tmp_path)
    file = place / "model.safetensors"
    state = load_file(file)
    name = next(key for key in state if key.endswith("layers.1.mlp.fc1.weight"))
    save_file({key: value for key, value in state.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="missing_keys"):
        built(composed({"pretrained": str(place)}, "mlp", "llama"))
    save_file({**state, name: torch.zeros(3, 3)}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"cannot be read|mismatched_keys"):
        built(composed({"pretrained": str(place)}, "mlp", "llama"))


def test_a_folder_without_picture_settings_is_told(tmp_path: Path) -> None:
    MODELS["vision alone"]().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="how its pictures are prepared"):
        built(composed({"pretrained": str(tmp_path)}, "mlp", "llama"))


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    place = _saved(MODELS["vision alone"](), tmp_path)
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="contains custom code"):
        built(composed({"pretrained": str(place)}, "mlp", "llama"))
