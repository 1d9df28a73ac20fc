"""Examples put together: B examples padded on the right to the longest, T tokens.

P pictures, C channels, S tokens of the longest text of an encoder.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from finesight.core.batch import IGNORE, Batch, Example, Extra


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """One batch; pictures of our own preparation stay uint8 (P, C, H, W) until they are on the device."""
    tokens, mask = _padded([example.tokens for example in examples], pad_id)
    targets, _ = _padded([example.targets for example in examples], IGNORE)
    inputs, read = {"input_ids": tokens, "attention_mask": mask}, 0
    if examples[0].source is not None:
        sources = [example.source for example in examples if example.source is not None]
        inputs = {**_read(sources, pad_id), "decoder_input_ids": tokens}
        read = sum(map(len, sources))
    inputs |= _extras([example.extras for example in examples], tokens.shape[1])
    return Batch(
        ids=tuple(example.id for example in examples),
        inputs=_tensors(inputs),
        targets=torch.from_numpy(targets),
        supervised=sum(example.supervised for example in examples),
        tokens=int(mask.sum()) + read,
    )


def collate_packed(examples: Sequence[Example]) -> Batch:
    """One batch of one row (1, T) in which the examples lie one after another, without padding.

    Position ids begin at 0 for each. Inputs that have a row a sample (its pictures) become those of one sample that has
    all of them in turn. Not for encoder–decoders.
    """
    lengths = [len(example.tokens) for example in examples]
    inputs = {
        "input_ids": np.concatenate([example.tokens for example in examples]).astype(np.int64)[None],
        "position_ids": np.concatenate([np.arange(length) for length in lengths])[None],
    }
    targets = np.concatenate([example.targets for example in examples]).astype(np.int64)[None]
    inputs |= _packed_extras([example.extras for example in examples])
    return Batch(
        ids=tuple(example.id for example in examples),
        inputs=_tensors(inputs),
        targets=torch.from_numpy(targets),
        supervised=sum(example.supervised for example in examples),
        tokens=sum(lengths),
        segments=tuple(lengths),
    )


def _packed_extras(examples: Sequence[Mapping[str, Extra]]) -> dict[str, np.ndarray]:
    """The extras of all examples by name, as if one example had them all."""
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for extras in examples for name in extras):
        there = [extras[name] for extras in examples if name in extras]
        joined = np.concatenate(_alike([one.array for one in there], there[0].fill, keep=1))
        found[name] = joined if there[0].counts == "items" else joined[None]
    return found


def collate_prompts(
    prompts: Sequence[np.ndarray], extras: Sequence[Mapping[str, Extra]], pad_id: int
) -> dict[str, torch.Tensor]:
    """Inputs of generation: prompts padded on the LEFT, so that every answer begins at the same position."""
    tokens, mask = _padded(prompts, pad_id, left=True)
    inputs = {"input_ids": tokens, "attention_mask": mask}
    return _tensors({**inputs, **_extras(extras, tokens.shape[1], left=True)})


def collate_sources(
    sources: Sequence[np.ndarray],
    start: Sequence[int],
    extras: Sequence[Mapping[str, Extra]],
    pad_id: int,
) -> dict[str, torch.Tensor]:
    """Inputs of an encoder–decoder's generation: what the encoder reads, and how the answers begin."""
    begun = np.tile(np.array(start, dtype=np.int64), (len(sources), 1))
    inputs = {**_read(sources, pad_id), "decoder_input_ids": begun}
    return _tensors({**inputs, **_extras(extras, begun.shape[1])})


def _read(sources: Sequence[np.ndarray], pad_id: int) -> dict[str, np.ndarray]:
    """What an encoder reads of text; nothing where it reads none."""
    if not any(map(len, sources)):
        return {}
    tokens, mask = _padded(sources, pad_id)
    return {"input_ids": tokens, "attention_mask": mask}


def _padded(rows: Sequence[np.ndarray], fill: int, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows as one array (B, T) of int64, and the mask of what is not padding."""
    longest = max(map(len, rows))
    filled = np.full((len(rows), longest), fill, dtype=np.int64)
    mask = np.zeros_like(filled)
    for at, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        filled[at, place], mask[at, place] = row, 1
    return filled, mask


def _extras(
    examples: Sequence[Mapping[str, Extra]], longest: int, left: bool = False
) -> dict[str, np.ndarray]:
    """The extras of all examples by name; one that an example lacks is filled where it has a row."""
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for extras in examples for name in extras):
        known = next(extras[name] for extras in examples if name in extras)
        arrays = [extras[name].array for extras in examples if name in extras]
        if known.counts == "items":
            found[name] = np.concatenate(_alike(arrays, known.fill, keep=1))
            continue
        none = np.full((0,) * known.array.ndim, known.fill, dtype=known.array.dtype)
        rows = [extras[name].array if name in extras else none for extras in examples]
        if known.counts == "tokens":
            rows = [_lengthened(row, longest, known.fill, left) for row in rows]
        found[name] = np.stack(_alike(rows, known.fill))
    return found


def _lengthened(row: np.ndarray, longest: int, fill: float, left: bool) -> np.ndarray:
    room = longest - len(row)
    around = [(room, 0) if left else (0, room), *((0, 0) for _ in row.shape[1:])]
    return np.pad(row, around, constant_values=fill)


def _alike(arrays: Sequence[np.ndarray], fill: float, keep: int = 0) -> list[np.ndarray]:
    """Arrays filled up at their ends to one shape, but for their first `keep` dimensions."""
    shapes = [array.shape[keep:] for array in arrays]
    if len(set(shapes)) == 1:
        return list(arrays)
    most = [max(sizes) for sizes in zip(*shapes, strict=True)]
    none = [(0, 0)] * keep
    return [
        np.pad(array, none + [(0, m - n) for m, n in zip(most, shape, strict=True)], constant_values=fill)
        for array, shape in zip(arrays, shapes, strict=True)
    ]


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
