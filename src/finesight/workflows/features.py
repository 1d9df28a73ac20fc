"""Features of frozen encoders on disk: made once for all pictures of a run, where reading is faster than encoding."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finesight.config.recipe import Recipe
from finesight.core.errors import DataError
from finesight.core.events import Observer
from finesight.core.ports import Ports
from finesight.data.dataset import ExampleSet, prepare_pictures, transform_of
from finesight.models.compose.sources import COMPOSED
from finesight.models.features import encode, encoder_key, is_frozen, picture_keys, use_features
from finesight.models.forward import float_pictures
from finesight.runtime.cachedir import NoCache, find_entry, forget_entry, publish_entry
from finesight.runtime.notices import Notices
from finesight.training.precision import Precision

_log = logging.getLogger("finesight")

_KIND, _FORM, _FILE = "features", 1, "features.npy"
_CHUNK = 512
"""Pictures of one entry of the cache."""
_AT_ONCE = 32
"""Pictures that are encoded together."""

Known = dict[bytes, np.ndarray]


def why_not(recipe: Recipe, model: Any) -> str | None:
    """Why features cannot be kept, or None."""
    if model.config.model_type not in COMPOSED:
        return f"this works for models of the LLaVA architecture, and not for {model.config.model_type}"
    if not is_frozen(model):
        return "the vision encoder learns; `model.freeze: [vision_tower]` keeps it as it is"
    if transform_of(recipe.data.transforms) is not None and not recipe.train.overfit:
        return "`data.transforms` change the pictures at random"
    if recipe.data.streams:
        return "the training data are a stream"
    return None


def remember_features(
    recipe: Recipe,
    model: Any,
    splits: Mapping[str, ExampleSet],
    precision: Precision,
    notices: Notices,
    observer: Observer | None,
    tick: Callable[[int], object],
) -> None:
    """Where the recipe asks for it: encode the pictures of all splits, or read what was made before, and let the model
    use it.

    `tick` is called with the number of pictures that are done, and may raise to stop.
    """
    if recipe.model.cache != "features":
        return
    reason = why_not(recipe, model)
    if reason is not None:
        notices.add("features", f"frozen features are not kept: {reason}")
        return
    if observer is not None:
        observer.on_phase("encode pictures", 0)
    device = next(model.parameters()).device
    key = f"{encoder_key(model)} {precision.name} {device.type}"
    known: Known = {}
    done = 0
    for pixels, keys in _chunks(splits, device):
        try:
            made = _chunk(model, pixels, keys, key, precision, notices, first=not done)
        except NoCache as error:
            notices.add("features", f"frozen features are not kept: {error}")
            return
        if made is None:
            return
        known |= made
        done += len(keys)
        tick(done)
    use_features(model, known)
    _log.info("features of %s pictures are read from the cache", f"{len(known):,}")


def _chunks(
    splits: Mapping[str, ExampleSet], device: torch.device
) -> Iterator[tuple[torch.Tensor, list[bytes]]]:
    """All pictures of all splits, each once, as floats (P, C, H, W) with their hashes."""
    seen: set[bytes] = set()
    waiting: list[torch.Tensor] = []
    names: list[bytes] = []
    for examples in splits.values():
        for index in range(len(examples)):
            for picture in _pictures(examples, index, examples.ports):
                levels = {"pixel_values": torch.from_numpy(picture)[None].to(device)}
                pixels = float_pictures(levels, examples.ports.image)["pixel_values"]
                (name,) = picture_keys(pixels)
                if name not in seen:
                    seen.add(name)
                    waiting.append(pixels.cpu())
                    names.append(name)
                if len(names) == _CHUNK:
                    yield torch.cat(waiting), names
                    waiting, names = [], []
    if names:
        yield torch.cat(waiting), names


def _pictures(examples: ExampleSet, index: int, ports: Ports) -> tuple[np.ndarray, ...]:
    try:
        return prepare_pictures(examples.sample(index), ports)
    except DataError:  # told where the sample is used
        return ()


def _chunk(
    model: Any,
    pixels: torch.Tensor,
    keys: list[bytes],
    encoder: str,
    precision: Precision,
    notices: Notices,
    first: bool,
) -> Known | None:
    """Features by hash; None where encoding is faster than reading, which the first chunk tells."""
    key = f"{encoder} {b''.join(keys).hex()}"
    entry = find_entry(_KIND, key, _FORM)
    if entry is None:
        began = time.perf_counter()
        device = next(model.parameters()).device
        made = []
        for at in range(0, len(pixels), _AT_ONCE):
            with precision.autocast():
                made.append(encode(model, pixels[at : at + _AT_ONCE].to(device)).float().cpu().numpy())
        features = np.concatenate(made)
        encoding = (time.perf_counter() - began) / len(pixels)

        def write(folder: Path) -> None:
            np.save(folder / _FILE, features, allow_pickle=False)

        entry = publish_entry(_KIND, key, _FORM, write)
        if first and not _worth(entry, pixels, encoding, features.nbytes, notices):
            forget_entry(_KIND, key)
            return None
    rows = np.asarray(np.load(entry / _FILE, mmap_mode="r", allow_pickle=False))
    return dict(zip(keys, rows, strict=True))


def _worth(entry: Path, pixels: torch.Tensor, encoding: float, size: int, notices: Notices) -> bool:
    """Whether reading features is faster than making them; both times are said."""
    began = time.perf_counter()
    picture_keys(pixels)
    np.load(entry / _FILE, allow_pickle=False).sum()
    reading = (time.perf_counter() - began) / len(pixels)
    times = f"{1e3 * encoding:.2f} ms to encode a picture, {1e3 * reading:.2f} ms to read its features"
    if reading >= encoding:
        notices.add("features", f"frozen features are not kept: {times}")
        return False
    _log.info("frozen features are kept: %s, %.1f KiB each", times, size / len(pixels) / 1024)
    return True
