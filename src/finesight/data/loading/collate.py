"""Examples put together: B examples padded on the right to the longest, T tokens. P pictures, C channels."""

from collections.abc import Sequence

import numpy as np
import torch

from finesight.core.batch import IGNORE, Batch, Example


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """One batch; `pixel_values` stay uint8 (P, C, H, W) until they are on the device."""
    longest = max(len(example.tokens) for example in examples)
    shape = (len(examples), longest)
    tokens = np.full(shape, pad_id, dtype=np.int64)
    targets = np.full(shape, IGNORE, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        tokens[row, :length], targets[row, :length], mask[row, :length] = example.tokens, example.targets, 1
    inputs = {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}
    pictures = [picture for example in examples for picture in example.pictures]
    if pictures:
        inputs["pixel_values"] = torch.from_numpy(np.stack(pictures))
    return Batch(
        ids=tuple(example.id for example in examples),
        inputs=inputs,
        targets=torch.from_numpy(targets),
        supervised=sum(example.supervised for example in examples),
        tokens=int(mask.sum()),
    )


def collate_prompts(
    prompts: Sequence[np.ndarray], pictures: Sequence[np.ndarray], pad_id: int
) -> dict[str, torch.Tensor]:
    """Inputs of generation: prompts padded on the LEFT, so that every answer begins at the same position."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = np.full((len(prompts), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    inputs = {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}
    if pictures:
        inputs["pixel_values"] = torch.from_numpy(np.stack(pictures))
    return inputs
