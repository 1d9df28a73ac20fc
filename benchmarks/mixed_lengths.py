"""What the packing benchmark trains: samples of unlike lengths, and the steps in which each variant sees them.

All variants go through the same samples in one pass. The learning rate is next to nothing, so that the weights stay and
the mean loss of a pass is the same whatever its order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.workloads import SEED, Workload
from finesight.config.train import Train
from finesight.core.batch import IGNORE, Example, pixel_values
from finesight.core.ports import ImagePort
from finesight.data.loading.layout import Budget, Layout, sizes_of
from finesight.models.parts import freeze
from finesight.runtime.device import choose_device
from finesight.runtime.notices import Notices
from finesight.training.schedule import Schedule

PAD, IMAGE, TOGETHER = 0, 1, 8
"""Ids of padding and of pictures; samples of a step."""
_STILL = 1e-12
"""A learning rate that moves no weight."""
_ENDLESS = 10**9
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Size:
    """How large a workload is: samples of a pass and of a step, tokens of the longest, width, layers and heads of its
    model, its vocabulary, sides of pictures and of their patches."""

    samples: int = 128
    width: int = 256
    layers: int = 4
    longest: int = 1024
    heads: int = 4
    vocabulary: int = 8000
    together: int = TOGETHER
    side: int = 56
    patch: int = 8

    @property
    def visual(self) -> int:
        """Visual tokens of a picture."""
        return (self.side // self.patch) ** 2


SMALL = Size(16, 32, 1, 64)
"""For a test that it runs."""


def _lengths(draw: np.random.Generator, median: float, longest: int, count: int, spread: float = 0.9) -> Any:
    return np.clip(np.exp(np.log(median) + spread * draw.normal(size=count)), 4, longest).astype(np.int64)


def _workload(model: Any, image: ImagePort | None, examples: Sequence[Example], together: int) -> Workload:
    """Steps of `together` samples as they come."""
    freeze(model, ())
    train = Train(max_steps=_ENDLESS, batch_size=together, lr=_STILL)
    steps = [list(examples[at : at + together]) for at in range(0, len(examples), together)]
    return Workload(model, image, PAD, steps, train, Schedule(_STILL, _ENDLESS, 1, "constant"))


def _llama(size: Size) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size.vocabulary, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.heads, hidden_size=size.width, intermediate_size=int(2.75 * size.width),
        max_position_embeddings=2 * size.longest,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=2, pad_token_id=PAD,
    )  # fmt: skip


def text(size: Size) -> Workload:
    """A decoder, and texts of a median length of 150 (0.15 of the longest), of which every token is learned."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(_llama(size))
    draw = np.random.default_rng(SEED)
    examples = []
    for number, length in enumerate(_lengths(draw, size.longest * 0.15, size.longest, size.samples)):
        tokens = draw.integers(3, size.vocabulary, length).astype(np.int32)
        examples.append(Example(str(number), tokens, np.append(tokens[1:], IGNORE).astype(np.int32)))
    return _workload(model, None, examples, size.together)


def pictures(size: Size) -> Workload:
    """A picture and a text of a median length of 100 (0.1 of the longest), of which the last half is learned."""
    side = {"image_size": size.side, "patch_size": size.patch, "num_hidden_layers": size.layers}
    vision = SiglipVisionConfig(
        **side,
        num_attention_heads=size.heads,
        hidden_size=3 * size.width // 4,
        intermediate_size=3 * size.width,
        vision_use_head=False,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=_llama(size), image_token_index=IMAGE, image_seq_length=size.visual,
        vision_feature_select_strategy="full", vision_feature_layer=-1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(SEED)
    model = LlavaForConditionalGeneration(config)
    image = ImagePort(size.side, size.side, _HALF, _HALF, "bicubic", "<image>", IMAGE, size.visual)
    draw = np.random.default_rng(SEED)
    examples = []
    for number, length in enumerate(_lengths(draw, size.longest * 0.1, size.longest, size.samples, 1.0)):
        words = draw.integers(3, size.vocabulary, length)
        tokens = np.append(np.full(size.visual, IMAGE), words).astype(np.int32)
        targets = np.full(len(tokens), IGNORE, dtype=np.int32)
        targets[-length // 2 - 1 : -1] = tokens[-length // 2 :]
        pixels = pixel_values([draw.integers(0, 256, (3, size.side, size.side), dtype=np.uint8)])
        examples.append(Example(str(number), tokens, targets, pixels))
    return _workload(model, image, examples, size.together)


def seq2seq(size: Size) -> Workload:
    """A T5 that reads texts of a median length of 67 (512 at most) and writes such of 33 (128 at most)."""
    torch.manual_seed(SEED)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=8000, d_model=size.width, d_kv=size.width // 4, d_ff=4 * size.width, num_layers=size.layers,
            num_heads=4, dropout_rate=0.0, decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=2,
        )
    )  # fmt: skip
    draw = np.random.default_rng(SEED)
    base = draw.normal(size=size.samples)

    def like(median: float, most: int) -> Any:
        """Long sources have long targets, more or less."""
        mixed = 0.8 * base + 0.6 * draw.normal(size=size.samples)
        return np.clip(np.exp(np.log(median) + 0.9 * mixed), 4, most).astype(np.int64)

    read, written = (
        like(size.longest * 0.065, size.longest // 2),
        like(size.longest * 0.033, size.longest // 8),
    )
    examples = []
    for number in range(size.samples):
        source = draw.integers(3, 8000, read[number]).astype(np.int32)
        targets = draw.integers(3, 8000, written[number]).astype(np.int32)
        tokens = np.append(PAD, targets[:-1]).astype(np.int32)
        examples.append(Example(str(number), tokens, targets, source=source))
    return replace(
        _workload(model, None, examples, size.together), pad_to=(size.longest // 2, size.longest // 8)
    )


def _all(work: Workload) -> list[Example]:
    return [example for step in work.steps for example in step]


def packed(work: Workload) -> Workload:
    """The steps as they come, each in one row."""
    return replace(work, layout=Layout(work.batch_size, None, True), pad_to=None)


def padded(work: Workload) -> Workload:
    """The steps as they come, each padded to its longest."""
    return replace(work, pad_to=None)


def grouped(work: Workload) -> Workload:
    """The steps that `Trainer` makes with `group_by_length`."""
    examples = _all(work)
    lengths = [len(example.tokens) for example in examples]
    generator, together = torch.Generator().manual_seed(SEED), work.batch_size
    order = get_length_grouped_indices(lengths, together, generator=generator)
    steps = [
        [examples[at] for at in order[start : start + together]] for start in range(0, len(order), together)
    ]
    return replace(work, steps=steps, pad_to=None)


def budget(work: Workload) -> Workload:
    """Steps of so many tokens that there are as many steps as of `TOGETHER` samples."""
    examples = _all(work)
    sizes = sizes_of(examples)
    wanted, tokens = len(work.steps), int(sizes.sum(axis=1).max())
    while True:
        places, bounds = Budget(tokens, False, sizes, len(examples)).steps(np.arange(len(examples)))
        if len(bounds) - 1 <= wanted:
            break
        tokens += 16
    chosen = [places[begin:end].tolist() for begin, end in pairwise(bounds)]
    return replace(work, steps=[[examples[at] for at in step] for step in chosen], pad_to=None)


def fixed(work: Workload) -> Workload:
    """The steps as they come, padded to the longest that there may be."""
    return work


Arrange = Callable[[Workload], Workload]


@dataclass(frozen=True)
class Variant:
    """A loop of `benchmarks.loops`, and how the samples are arranged for it."""

    loop: str
    arrange: Arrange


@dataclass(frozen=True)
class Plan:
    """A workload, its variants, the ratios of interest, and the least that is wanted of each."""

    make: Callable[[Size], Workload]
    variants: dict[str, Variant]
    wanted: dict[str, tuple[str, str, float]]
    rounds: int = 5


_TRAINER = "trainer"
PLANS = {
    "text": Plan(
        text,
        {
            "finesight": Variant("finesight", packed),
            "padded": Variant(_TRAINER, padded),
            "grouped": Variant(_TRAINER, grouped),
        },
        {
            "trainer, padded / finesight": ("padded", "finesight", 2.8),
            "trainer, group_by_length / finesight": ("grouped", "finesight", 1.25),
        },
    ),
    "pictures": Plan(
        pictures,
        {"finesight": Variant("finesight", packed), "padded": Variant(_TRAINER, padded)},
        {"trainer, padded / finesight": ("padded", "finesight", 2.2)},
    ),
    "seq2seq": Plan(
        seq2seq,
        {
            "finesight": Variant("finesight", budget),
            "padded": Variant(_TRAINER, padded),
            "fixed": Variant(_TRAINER, fixed),
        },
        {
            "trainer, padded / finesight": ("padded", "finesight", 1.8),
            "trainer, max_length / finesight": ("fixed", "finesight", 7.0),
        },
    ),
}


def arranged(name: str, variant: str, size: Size) -> Workload:
    """A workload as one variant sees it, on one thread."""
    choose_device("cpu", Notices(), threads=1)
    plan = PLANS[name]
    return plan.variants[variant].arrange(plan.make(size))


def weights(work: Workload) -> list[int]:
    """Tokens that each step of a pass learns from."""
    return [sum(example.supervised for example in step) for step in work.steps]
