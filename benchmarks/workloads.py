"""What the training benchmarks train: a model, the examples of each step, and how they are learned from."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from finesight.config.load import load_recipe
from finesight.config.train import Train
from finesight.core.batch import IGNORE, Example, pixel_values
from finesight.core.ports import ImagePort
from finesight.data.loading.layout import Layout
from finesight.data.loading.order import Order
from finesight.models.parts import freeze
from finesight.runtime.device import choose_device
from finesight.runtime.notices import Notices
from finesight.training.schedule import Schedule, part_of_steps
from finesight.workflows.prepare import prepare

SEED = 7


WHOLE = Layout(sys.maxsize)
"""A step is one batch, padded."""


@dataclass(frozen=True)
class Workload:
    """The model is on the CPU; the loops go round `steps`, each its examples, decoded and transformed.

    finesight puts a step's examples together by `layout`, `Trainer` pads them: to the longest, or to `pad_to` (what is
    read, what is written).
    """

    model: Any
    image: ImagePort | None
    pad_id: int
    steps: list[list[Example]]
    train: Train
    schedule: Schedule
    layout: Layout = WHOLE
    pad_to: tuple[int, int] | None = None

    @property
    def batch_size(self) -> int:
        return len(self.steps[0])


def quickstart(count: int = 24) -> Workload:
    """The shipped recipe, with the pictures and transforms of its first `count` steps."""
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


def vocabulary(count: int = 8) -> Workload:
    """A 13 M body with a vocabulary of 32,000, 49 visual tokens and 64 words, of which the last half is learned."""
    choose_device("cpu", Notices(), threads=1)
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            image_size=56, patch_size=8, num_hidden_layers=4, num_attention_heads=4, hidden_size=192,
            intermediate_size=768, vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=_VOCABULARY, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
            hidden_size=256, intermediate_size=704, max_position_embeddings=256, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=2, pad_token_id=_PAD,
        ),
        image_token_index=_IMAGE, image_seq_length=49, vision_feature_select_strategy="full",
        vision_feature_layer=-1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(SEED)
    model = LlavaForConditionalGeneration(config)
    freeze(model, ())
    image = ImagePort(56, 56, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "<image>", _IMAGE, 49)
    train = Train(max_steps=1000, batch_size=_BATCH, lr=2e-4, warmup=50)
    schedule = Schedule(train.lr, 1000, 50, "cosine")
    draw = np.random.default_rng(SEED)
    steps = [[_made_up(draw, f"{step}-{row}") for row in range(_BATCH)] for step in range(count)]
    return Workload(model, image, _PAD, steps, train, schedule)


def _made_up(draw: np.random.Generator, name: str) -> Example:
    """49 visual tokens, then random words; the second half of the words is learned."""
    tokens = np.concatenate([np.full(49, _IMAGE), draw.integers(3, _VOCABULARY, _WORDS)]).astype(np.int32)
    targets = np.full(len(tokens), IGNORE, dtype=np.int32)
    first = len(tokens) - _WORDS // 2
    targets[first - 1 : -1] = tokens[first:]
    picture = draw.integers(0, 256, (3, 56, 56), dtype=np.uint8)
    return Example(name, tokens, targets, pixel_values([picture]))


WORKLOADS: dict[str, Callable[[], Workload]] = {"quickstart": quickstart, "vocabulary": vocabulary}
