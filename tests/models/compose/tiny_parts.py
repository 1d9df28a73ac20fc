"""Tiny parts of composed models, and what is put into them."""

from typing import Any

import numpy as np
import torch

from finesight.config.compose import Compose
from finesight.core.batch import IGNORE, Batch, Example, pixel_values
from finesight.core.ports import Ports
from finesight.data.loading.collate import collate
from finesight.models.compose.build import build_model, build_processor, open_parts
from finesight.models.load import LoadedModel
from finesight.models.ports import ports_of
from finesight.models.scratch import learn_tokenizer

WORDS = ("Which colours?", "red, green", "blue and white", "a yellow flag")

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VISION: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **_SIZES},
    "siglip": {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **_SIZES},
    "registers": {
        "model_type": "dinov2_with_registers",
        **{
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    },
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 16, 24],
        "depths": [1, 1, 1, 1],
    },
    "efficientnet": {
        "model_type": "finesight_efficientnet_lite",
        **{"stem": 8, "hidden_size": 24},
        "blocks": [[1, 3, 1, 1, 8], [2, 3, 2, 2, 8], [1, 5, 2, 2, 8], [1, 3, 2, 2, 16], [1, 3, 2, 2, 16]],
    },
}
LANGUAGE: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "max_position_embeddings": 128, **_SIZES},
    "tied": {"model_type": "llama", "max_position_embeddings": 128, "tie_word_embeddings": True, **_SIZES},
    "phi": {"model_type": "phi", "max_position_embeddings": 128, **_SIZES},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
}


def composed(vision: Any, projector: Any, language: Any, **more: Any) -> Compose:
    """A `compose` section; names stand for the tables above."""
    vision = {"config": VISION[vision]} if isinstance(vision, str) else vision
    language = {"config": LANGUAGE[language], "vocabulary": 280} if isinstance(language, str) else language
    projector = {"kind": projector} if isinstance(projector, str) else projector
    return Compose.model_validate({"vision": vision, "projector": projector, "language": language, **more})


def built(compose: Compose, seed: int = 1) -> LoadedModel:
    """The model with its processor and ports."""
    parts = open_parts(compose)
    processor = build_processor(parts, learn_tokenizer(WORDS * 9, 280))
    model = build_model(parts, processor, seed)
    return LoadedModel(model, processor, ports_of(processor, model.config))


def pictures(ports: Ports, count: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures as the model's processor would have squashed them, (C, H, W)."""
    assert ports.image is not None
    shape = (count, 3, ports.image.height, ports.image.width)
    return list(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def example(ports: Ports, shown: list[np.ndarray], question: str, answer: str, name: str = "a") -> Example:
    """A question about some pictures, with its answer."""
    image, tokenizer = ports.image, ports.tokenizer
    assert image is not None
    asked = tokenizer(f"<|user|>{image.placeholder * image.tokens_per_image * len(shown)}{question}")[
        "input_ids"
    ]
    told = tokenizer(answer)["input_ids"] + [ports.end_ids[0]]
    tokens = np.array(asked + told, dtype=np.int32)
    targets = np.full(len(tokens), IGNORE, dtype=np.int32)
    targets[len(asked) - 1 : -1] = told
    return Example(name, tokens, targets, pixel_values(shown))


def batch_of(ports: Ports) -> Batch:
    """Three examples of unequal lengths; the last one has two pictures."""
    one, two, three, four = pictures(ports, 4)
    examples = [
        example(ports, [one], "Which colours?", "red, green"),
        example(ports, [two], "Which?", "blue"),
        example(ports, [three, four], "Which colours?", "white and yellow"),
    ]
    return collate(examples, ports.pad_id)


def left_padded(rows: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Token ids and attention mask of prompts that end together."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}
