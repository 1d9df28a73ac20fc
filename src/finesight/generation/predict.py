"""Answers to many samples: like lengths together, padded on the left, given back in the samples' own order.

B samples answered together, T tokens of the longest prompt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, GenerationMixin

from finesight.config.train import Generation
from finesight.core.batch import Extra
from finesight.core.errors import DataError, FinesightError
from finesight.core.ports import Ports
from finesight.core.prediction import Prediction
from finesight.core.sample import Sample
from finesight.data.dataset import ExampleSet, asked
from finesight.data.loading.collate import collate_prompts, collate_sources
from finesight.data.loading.loader import Told, tell
from finesight.models.decoding import decoding
from finesight.models.forward import float_pictures
from finesight.models.spread import answering, input_device
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.signals import StopAsked
from finesight.training.memory import measured_in_memory
from finesight.training.step import evaluating

Asked = tuple[np.ndarray, Mapping[str, Extra]]
"""A prompt's tokens (T,), and the model's other inputs."""


def answer(
    model: Any,
    ports: Ports,
    prompts: Sequence[np.ndarray],
    extras: Sequence[Mapping[str, Extra]],
    config: GenerationConfig,
) -> list[str]:
    """Answers to B prompts (token ids, each (T,)) with their other inputs, in order; without gradients.

    Of an encoder–decoder the prompts are what its encoder reads.
    """
    if ports.encoder is not None:
        inputs = collate_sources(prompts, ports.encoder.start, extras, ports.pad_id)
    else:
        inputs = collate_prompts(prompts, extras, ports.pad_id)
    device = input_device(model)
    moved = {name: tensor.to(device) for name, tensor in float_pictures(inputs, ports.image).items()}
    # a captioner's own `generate` hands its end token on, which must not stand beside a whole configuration
    settings = config.to_diff_dict() if ports.asked_ids else {"generation_config": config}
    for name in ("eos_token_id", "pad_token_id", "transformers_version") if ports.asked_ids else ():
        settings.pop(name, None)
    generate = partial(GenerationMixin.generate, model) if ports.plain_generate else model.generate
    with torch.no_grad(), answering(model):
        produced = generate(**moved, **settings)
    begun = moved["input_ids" if ports.encoder is None else "decoder_input_ids"]
    begun = begun[:, : begun.shape[1] - len(ports.asked_ids)]
    fresh = produced[:, begun.shape[1] :] if _begins_with(produced, begun) else produced
    return [text.strip() for text in ports.tokenizer.batch_decode(fresh, skip_special_tokens=True)]


def _begins_with(produced: torch.Tensor, begun: torch.Tensor) -> bool:
    """Whether `generate` gave back what it was asked, which not every model does; the first token may be its own."""
    length = begun.shape[1]
    return produced.shape[1] >= length and bool((produced[:, 1:length] == begun[:, 1:]).all())


def predict(
    model: Any,
    examples: ExampleSet,
    settings: Generation,
    batch_size: int,
    limit: int | None = None,
    tick: Callable[[int], object] | None = None,
    policy: Told | None = None,
    world: World = ALONE,
) -> list[Prediction]:
    """Answer each sample once (the first `limit` of them); each part of the model is left in the mode it was in.

    Several processes share the samples as they would be grouped in one; the first of them gets all predictions, the
    others none.

    `tick` is called with the number of finished samples, and may raise to stop. A sample that turns out to be bad has
    no prediction where `policy`, which is told of it, does not raise; without a policy it is raised.
    """
    config = decoding(settings, examples.ports)
    count = len(examples) if limit is None else min(limit, len(examples))
    order = np.argsort(examples.lengths[:count], kind="stable").tolist()
    answers: dict[int, str] = {}
    failed: Exception | None = None
    done = 0
    try:
        with evaluating(model):
            for chosen in list(_groups(order, batch_size))[world.rank :: world.size]:
                told = {index: found for index in chosen if (found := _asked(examples, index, policy))}
                with measured_in_memory(input_device(model), f"answers to {len(told)} samples"):
                    answers |= _answered(model, examples.ports, told, config)
                done += len(chosen)
                if tick is not None:
                    tick(min(count, done * world.size))
    except (FinesightError, StopAsked) as error:
        failed = error
    world.together(error=failed)
    if world.size > 1:
        shares = world.to_first(list(answers.items()))
        answers = {index: text for share in shares for index, text in share} if world.first else {}
    return [_prediction(examples, index, answers[index]) for index in sorted(answers)]


def _answered(
    model: Any, ports: Ports, told: Mapping[int, Asked], config: GenerationConfig
) -> dict[int, str]:
    """Answers to what was asked, by number."""
    answers: dict[int, str] = {}
    for some in _together(told, ports.pads):
        prompts, extras = zip(*(told[index] for index in some), strict=True)
        answers |= dict(zip(some, answer(model, ports, prompts, extras, config), strict=True))
    return answers


def answer_all(model: Any, ports: Ports, samples: Sequence[Sample], config: GenerationConfig) -> list[str]:
    """Answers to some samples, in their order; raises DataError for one that the model cannot be asked with."""
    told = {index: asked(sample, ports) for index, sample in enumerate(samples)}
    answers = _answered(model, ports, told, config)
    return [answers[index] for index in range(len(samples))]


def _together(told: Mapping[int, Asked], pads: bool) -> list[list[int]]:
    """Samples that are answered together: all, or those whose prompts are equally long."""
    if pads:
        return [list(told)] if told else []
    by_length: dict[int, list[int]] = {}
    for index, (prompt, _) in told.items():
        by_length.setdefault(len(prompt), []).append(index)
    return list(by_length.values())


def _asked(examples: ExampleSet, index: int, policy: Told | None) -> Asked | None:
    """Prompt and other inputs of a sample; None where it is bad."""
    try:
        return asked(examples.sample(index), examples.ports)
    except DataError as error:
        tell(policy, examples.samples, index, error)
        return None


def _groups(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(order), size):
        yield order[at : at + size]


def _prediction(examples: ExampleSet, index: int, text: str) -> Prediction:
    sample = examples.samples.words(index)
    return Prediction(
        id=sample.id,
        origin=str(sample.origin),
        prompt=sample.prompt,
        prediction=text,
        references=sample.references,
        tags=dict(sample.tags),
        group=sample.group,
    )
