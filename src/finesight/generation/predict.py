"""Answers to many samples: like lengths together, padded on the left, given back in the samples' own order.

B samples answered together, T tokens of the longest prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from finesight.config.train import Generation
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.prediction import Prediction
from finesight.data.dataset import ExampleSet, prepare_pictures
from finesight.data.loading.collate import collate_prompts
from finesight.data.loading.loader import Told, tell
from finesight.models.decoding import decoding
from finesight.models.forward import float_pictures
from finesight.training.step import evaluating


def answer(
    model: Any,
    ports: Ports,
    prompts: Sequence[np.ndarray],
    pictures: Sequence[np.ndarray],
    config: GenerationConfig,
) -> list[str]:
    """Answers to B prompts (token ids, each (T,)) with their pictures, uint8 (C, H, W), in order; without gradients."""
    inputs = float_pictures(collate_prompts(prompts, pictures, ports.pad_id), ports.image)
    device = next(model.parameters()).device
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    with torch.no_grad():
        produced = model.generate(**moved, generation_config=config)
    fresh = produced[:, moved["input_ids"].shape[1] :]
    return [text.strip() for text in ports.tokenizer.batch_decode(fresh, skip_special_tokens=True)]


def predict(
    model: Any,
    examples: ExampleSet,
    settings: Generation,
    batch_size: int,
    limit: int | None = None,
    tick: Callable[[int], object] | None = None,
    policy: Told | None = None,
) -> list[Prediction]:
    """Answer each sample once (the first `limit` of them); each part of the model is left in the mode it was in.

    `tick` is called with the number of finished samples, and may raise to stop. A sample that turns out to be bad has
    no prediction where `policy`, which is told of it, does not raise; without a policy it is raised.
    """
    config = decoding(settings, examples.ports)
    count = len(examples) if limit is None else min(limit, len(examples))
    order = np.argsort(examples.lengths[:count], kind="stable").tolist()
    answers: dict[int, str] = {}
    done = 0
    with evaluating(model):
        for chosen in _groups(order, batch_size):
            asked = {index: found for index in chosen if (found := _asked(examples, index, policy))}
            if asked:
                prompts = [prompt for prompt, _ in asked.values()]
                pictures = [picture for _, shown in asked.values() for picture in shown]
                texts = answer(model, examples.ports, prompts, pictures, config)
                answers |= dict(zip(asked, texts, strict=True))
            done += len(chosen)
            if tick is not None:
                tick(done)
    return [_prediction(examples, index, answers[index]) for index in sorted(answers)]


def _asked(
    examples: ExampleSet, index: int, policy: Told | None
) -> tuple[np.ndarray, tuple[np.ndarray, ...]] | None:
    """Prompt and pictures of a sample; None where it is bad."""
    try:
        return examples.prompt(index), prepare_pictures(examples.sample(index), examples.ports)
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
