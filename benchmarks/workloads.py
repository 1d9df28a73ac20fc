"""What the training benchmarks train: a model, the examples of each step, and how they are learned from."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from finesight.config.train import Train
from finesight.core.batch import IGNORE, Example, pixel_values
from finesight.core.ports import ImagePort
from finesight.data.loading.layout import Layout
from finesight.models.parts import freeze
from finesight.runtime.device import choose_device
from finesight.runtime.notices import Notices
from finesight.training.schedule import Schedule, part_of_steps

SEED = 7


WHOLE = Layout(sys.maxsize)
"""A step is one batch, padded."""


@dataclass(frozen=True)
class Workload:
    """The loops go round `steps`, each its examples, decoded and transformed.

    finesight puts a step's examples together by `layout`, `Trainer` pads them: to the longest, or to `pad_to` (what is
    read, what is written). All compute on `device` in these numbers; `settings` are told to `Trainer` and its kin
    beside what all of them are told.
    """

    model: Any
    image: ImagePort | None
    pad_id: int
    steps: list[list[Example]]
    train: Train
    schedule: Schedule
    layout: Layout = WHOLE
    pad_to: tuple[int, int] | None = None
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        return len(self.steps[0])


def quickstart(count: int = 24) -> Workload:
    """The shipped recipe, with the pictures and transforms of its first `count` steps."""
    from finesight.config.load import (
        load_recipe,
    )  # imported here: what other workloads do without costs memory
    from finesight.data.loading.order import Order
    from finesight.workflows.prepare import prepare

    recipe = load_recipe("quickstart", ["run.device=cpu", "run.threads=1", f"run.seed={SEED}"])
    prepared = prepare(recipe, Notices())
    examples, train = prepared.splits["train"], recipe.train
    order = Order(examples.fingerprint, SEED, train.batch_size, examples.lengths, train.length_window)
    steps = []
    for step in range(count):
        epoch, indices = order.batch(step)
        steps.append([examples[epoch, int(index)] for index in indices])
    image = prepared.ports.image
    assert image is not None
    total = train.max_steps or order.steps_per_epoch * (train.epochs or 1)
    schedule = Schedule(train.lr, total, part_of_steps(train.warmup, total), train.schedule, train.min_lr)
    whole = [step for step in steps if len(step) == train.batch_size]
    return Workload(prepared.model, image, prepared.ports.pad_id, whole, train, schedule)


_VOCABULARY, _WORDS, _BATCH = 32_000, 64, 4
_PAD, _IMAGE = 0, 1


@dataclass(frozen=True)
class Sizes:
    """Of a LLaVA made up: a square picture's side, its patches' side, widths of the two halves, and layers."""

    side: int
    patch: int
    seeing: int
    seeing_layers: int
    width: int = 256
    layers: int = 4
    vocabulary: int = _VOCABULARY
    tied: bool = True

    @property
    def visual(self) -> int:
        """Visual tokens of a picture."""
        return (self.side // self.patch) ** 2


def llava(sizes: Sizes) -> LlavaForConditionalGeneration:
    """SigLIP's encoder and a Llama, with random weights that depend on the seed alone."""
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            image_size=sizes.side, patch_size=sizes.patch, num_hidden_layers=sizes.seeing_layers,
            num_attention_heads=4, hidden_size=sizes.seeing, intermediate_size=4 * sizes.seeing, vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=sizes.vocabulary, num_hidden_layers=sizes.layers, num_attention_heads=4, num_key_value_heads=4,
            hidden_size=sizes.width, intermediate_size=int(2.75 * sizes.width), max_position_embeddings=512,
            tie_word_embeddings=sizes.tied, bos_token_id=None, eos_token_id=2, pad_token_id=_PAD,
        ),
        image_token_index=_IMAGE, image_seq_length=sizes.visual, vision_feature_select_strategy="full",
        vision_feature_layer=-1, tie_word_embeddings=sizes.tied,
    )  # fmt: skip
    torch.manual_seed(SEED)
    return LlavaForConditionalGeneration(config)


def half_learned(sizes: Sizes, frozen: tuple[str, ...], count: int = 8) -> Workload:
    """Steps of four samples: a picture and 64 words, of which the last half is learned."""
    choose_device("cpu", Notices(), threads=1)
    model = llava(sizes)
    freeze(model, frozen)
    same = (0.5, 0.5, 0.5)
    image = ImagePort(sizes.side, sizes.side, same, same, "bicubic", "<image>", _IMAGE, sizes.visual)
    train = Train(max_steps=1000, batch_size=_BATCH, lr=2e-4, warmup=50)
    schedule = Schedule(train.lr, 1000, 50, "cosine")
    draw = np.random.default_rng(SEED)
    steps = [[_made_up(draw, f"{step}-{row}", sizes) for row in range(_BATCH)] for step in range(count)]
    return Workload(model, image, _PAD, steps, train, schedule)


def _made_up(draw: np.random.Generator, name: str, sizes: Sizes) -> Example:
    words = draw.integers(3, sizes.vocabulary, _WORDS)
    tokens = np.concatenate([np.full(sizes.visual, _IMAGE), words]).astype(np.int32)
    targets = np.full(len(tokens), IGNORE, dtype=np.int32)
    first = len(tokens) - _WORDS // 2
    targets[first - 1 : -1] = tokens[first:]
    picture = draw.integers(0, 256, (3, sizes.side, sizes.side), dtype=np.uint8)
    return Example(name, tokens, targets, pixel_values([picture]))


def vocabulary() -> Workload:
    """Full fine-tuning of a 13 M body with a vocabulary of 32,000, which has 49 visual tokens a picture."""
    return half_learned(Sizes(56, 8, 192, 4), ())


def frozen() -> Workload:
    """A body of 23.5 M whose encoder, of eight layers and 196 visual tokens a picture, does not learn."""
    return half_learned(Sizes(224, 16, 192, 8, tied=False), ("vision_tower",))


def small() -> Workload:
    """The same in so small that it only shows that it runs."""
    return half_learned(Sizes(16, 8, 32, 2, 32, 2, 64, tied=False), ("vision_tower",), count=2)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "quickstart": quickstart,
    "vocabulary": vocabulary,
    "frozen": frozen,
    "small": small,
}
