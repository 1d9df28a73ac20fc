"""Pictures as a model's own processor prepares them: what they become in the text and among the model's inputs.

P pictures of a sample, T its tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from finesight.core.batch import IGNORE, Extra
from finesight.core.errors import ModelError
from finesight.core.ports import ImagePort, Resample, Size
from finesight.models.families import Along

_RESAMPLE: dict[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of its filters."""

_PROBES: tuple[Size, ...] = ((64, 64), (640, 480), (210, 1000), (1600, 330))
"""Sizes by which it is seen whether the text of a picture depends on its size."""

_KNOWN = 4096
"""Sizes of pictures whose words are remembered."""


@dataclass(frozen=True, eq=False)
class ProcessorPort:
    """The port of a model whose image processor does more than to squash. `names` are the inputs that the model takes,
    `by_sample` those that have a row a sample; the others have a row a picture, or a part of one.
    """

    image_processor: Any
    settings: Mapping[str, Any]
    placeholder: str
    placeholder_id: int
    visual_ids: tuple[int, ...]
    names: frozenset[str]
    by_sample: frozenset[str] = frozenset()
    fixed: tuple[str, ...] = ()
    most: int | None = None
    kind: Along = "none"
    write: Callable[[Mapping[str, Any], int], str] | None = None
    known: dict[tuple[Size, ...], tuple[str, ...]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: words are written in this one."""
        return {**vars(self), "write": None, "known": {}}

    @property
    def sized(self) -> bool:
        """Whether `words` depends on the sizes."""
        return bool(self.placeholder) and not self.fixed

    def words(self, sizes: Sequence[Size]) -> tuple[str, ...]:
        """What the processor writes in place of each placeholder, for pictures of these sizes."""
        if self.fixed:
            return self.fixed * len(sizes)
        asked = tuple(sizes)
        if asked not in self.known and asked:
            assert self.write is not None  # other processes do not ask for words
            blank = [Image.new("RGB", size, (127, 127, 127)) for size in sizes]
            found = self.image_processor(images=[blank], return_tensors="np", **self.settings)
            if len(self.known) >= _KNOWN:
                self.known.clear()
            self.known[asked] = tuple(self.write(found, at) for at in range(len(sizes)))
        return self.known[asked] if asked else ()

    def prepare(self, pictures: Sequence[np.ndarray]) -> Mapping[str, Extra]:
        """Inputs of the model for the pictures of one sample, each uint8 (C, H, W)."""
        images = [Image.fromarray(np.ascontiguousarray(one.transpose(1, 2, 0))) for one in pictures]
        found = self._processed(images)
        return {
            name: Extra(found[name][0], "sample") if name in self.by_sample else Extra(found[name])
            for name in found
            if not self.names or name in self.names or (name == "num_tiles" and self.kind == "cross")
        }

    def _processed(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        found = self.image_processor(images=[list(images)], return_tensors="np", **self.settings)
        return {name: _array(value) for name, value in found.items()}

    def along(
        self, tokens: np.ndarray, targets: np.ndarray | None, extras: Mapping[str, Extra]
    ) -> Mapping[str, Extra]:
        """Inputs that have a value for each token (T,) of one sample; without `targets` the model is asked."""
        return _ALONG[self.kind](self, tokens, targets, extras)


def _array(value: Any) -> np.ndarray:
    found = np.asarray(value)
    return found.astype(np.int64) if found.dtype == np.int32 else found


def _none(*_: Any) -> Mapping[str, Extra]:
    return {}


def _kinds(port: ProcessorPort, tokens: np.ndarray, *_: Any) -> Mapping[str, Extra]:
    return {"mm_token_type_ids": Extra(np.isin(tokens, port.visual_ids).astype(np.int64), "tokens")}


def _types(port: ProcessorPort, tokens: np.ndarray, *_: Any) -> Mapping[str, Extra]:
    return {"token_type_ids": Extra(np.isin(tokens, port.visual_ids).astype(np.int64), "tokens")}


def _prefix(
    port: ProcessorPort, tokens: np.ndarray, targets: np.ndarray | None, _: Mapping[str, Extra]
) -> Mapping[str, Extra]:
    """1 from the first token of the answer on; what stands before is read in both directions."""
    kinds = np.zeros(len(tokens), dtype=np.int64)
    if targets is not None and (targets != IGNORE).any():
        kinds[int(np.flatnonzero(targets != IGNORE)[0]) + 1 :] = 1
    return {"token_type_ids": Extra(kinds, "tokens", fill=1)}


def _cross(
    port: ProcessorPort, tokens: np.ndarray, _: np.ndarray | None, extras: Mapping[str, Extra]
) -> Mapping[str, Extra]:
    """Which tiles of which pictures each token sees (T, P, tiles), as `transformers` makes it for Llama 3.2."""
    if "pixel_values" not in extras:
        return {}
    seen = get_cross_attention_token_mask(tokens.tolist(), port.placeholder_id)
    tiles = extras["num_tiles"].array.tolist()
    most = port.image_processor.max_image_tiles
    mask = convert_sparse_cross_attention_mask_to_dense([seen], [tiles], most, len(tokens))[0]
    return {"cross_attention_mask": Extra(mask, "tokens")}


_ALONG: Mapping[Along, Callable[..., Mapping[str, Extra]]] = {
    "none": _none,
    "kinds": _kinds,
    "types": _types,
    "prefix": _prefix,
    "cross": _cross,
}


def squashed(image_processor: Any) -> ImagePort | None:
    """The port of a processor that squashes to one size and normalises, and does nothing else: found by trying it.

    Its words are still to be filled in.
    """
    noise = np.random.default_rng(0).integers(0, 256, (47, 61, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    try:
        found = dict(image_processor(images=[picture], return_tensors="np"))
        mean, std = tuple(image_processor.image_mean), tuple(image_processor.image_std)
        resample = _RESAMPLE[int(image_processor.resample)]
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    if set(found) != {"pixel_values"} or np.ndim(found["pixel_values"]) != 4:
        return None
    theirs = np.asarray(found["pixel_values"])[0]
    _, height, width = theirs.shape
    small = np.asarray(picture.resize((width, height), int(image_processor.resample)), dtype=np.float32)
    ours = ((small / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    if theirs.shape != ours.shape or np.abs(theirs - ours).max() > 1e-4:
        return None
    return ImagePort(height, width, mean, std, resample, "", -1, 0)


def probed(port: ProcessorPort, where: str) -> ProcessorPort:
    """The port with what trying its processor shows: which inputs have a row a sample, how many pictures it takes, and
    whether what it writes depends on their sizes.
    """
    blank = [Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64))]
    try:
        found, most = port._processed(blank), port.most
    except Exception:  # each processor refuses a second picture in a way of its own
        try:
            found, most = port._processed(blank[:1]), 1
        except Exception as error:
            what = f"its processor cannot prepare a picture ({type(error).__name__}: {error})"
            raise ModelError(what, where, "use a model of another family") from error
    rows = frozenset(name for name, value in found.items() if most != 1 and value.ndim and len(value) == 1)
    port = replace(port, by_sample=rows, most=most, known={})
    if not port.placeholder:
        return port
    written = {port.words([size]) for size in _PROBES}
    if most != 1:
        written |= {port.words([size, size])[:1] for size in _PROBES[:2]}
    return replace(port, fixed=written.pop(), known={}) if len(written) == 1 else port
