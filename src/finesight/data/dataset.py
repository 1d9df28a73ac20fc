"""Samples as examples: what a model sees of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL.Image import Image as PillowImage

from finesight.config.data import Transforms
from finesight.core.batch import Example, Extra, pixel_values
from finesight.core.ports import ImagePort, Ports
from finesight.core.sample import Message, Sample
from finesight.data.encode import encode_prompt
from finesight.data.encoded import encode_all
from finesight.data.lengths import EncodedText, Limit, without_turns
from finesight.data.passes.passing import Means
from finesight.data.pictures.load import Picture, load_picture, resize
from finesight.data.pictures.mirrors import mirrors_allowed
from finesight.data.pictures.transforms import PictureTransform, TransformSettings
from finesight.data.policy import Policy
from finesight.data.sets import SampleSet
from finesight.data.sounds.direct import decoded_sounds

_KEPT_BYTES = 64 << 20
"""Bytes of decoded pictures and sounds that a process keeps. For a small set, which an epoch goes through in seconds,
reading and decoding are a good part of what each look costs."""


class ExampleSet:
    """Samples encoded for one model. Words are encoded once; pictures are read and changed at each look.

    Index with (epoch, sample index): the transforms of a training picture are a function of (seed, epoch, sample id).
    Samples that cannot be used go to the policy; those longer than `limit` lose what it says. With `answering`, a
    question without an answer is a sample too: one to be answered, with nothing to learn. `name` is what messages
    call the set, `means` how its words are encoded.
    """

    def __init__(
        self,
        samples: SampleSet,
        ports: Ports,
        policy: Policy,
        transform: PictureTransform | None = None,
        seed: int = 0,
        *,
        limit: Limit | None = None,
        answering: bool = False,
        name: str = "train",
        means: Means | None = None,
    ) -> None:
        flip = transform.settings.flip if transform is not None else "none"
        self.samples, self._found = encode_all(
            samples, ports, policy, limit or Limit(), answering, name, means or Means(), flip
        )
        self.ports, self._limit, self._transform, self._seed = ports, limit or Limit(), transform, seed
        self._bounds = np.concatenate([[0], np.cumsum(self._found["written"], dtype=np.int64)])
        if ports.encoder is not None:
            self._source_bounds = np.concatenate(
                [[0], np.cumsum(self._found["source_lengths"], dtype=np.int64)]
            )
        self._kept: dict[int, _Loaded] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process needs: all but the tokenizer and the template, which not every process can be sent."""
        ports = replace(self.ports, tokenizer=None, render=_render_elsewhere)
        return {**vars(self), "ports": ports, "_kept": {}}

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example (N,)."""
        return self._found["lengths"]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Tokens of each example, and tokens that an encoder reads of it, (N, 2)."""
        written = np.asarray(self._found["written"])
        return np.stack([written, np.asarray(self._found["source_lengths"])], axis=1).astype(np.int64)

    @property
    def supervised_lengths(self) -> np.ndarray:
        """Tokens of each example that are learned from (N,)."""
        return self._found["supervised"]

    @cached_property
    def supervised(self) -> int:
        """Number of tokens that are learned from, of all examples."""
        return int(self.supervised_lengths.sum(dtype=np.int64))

    @cached_property
    def tokens(self) -> int:
        """Number of tokens of all examples."""
        return int(self.lengths.sum(dtype=np.int64))

    @cached_property
    def fingerprint(self) -> str:
        """Of the samples and of the encoder together."""
        limit = "" if self._limit == Limit() else repr(self._limit)
        told = self.samples.fingerprint + self.ports.fingerprint + limit
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        return self._example(index, self._transform, epoch)

    def plain(self, index: int) -> Example:
        """Example `index` without the training-time transforms."""
        return self._example(index, None, 0)

    def sample(self, index: int) -> Sample:
        """Sample `index` as its example has it: without the turns that were dropped, and their pictures."""
        return without_turns(self.samples[index], int(self._found["dropped"][index]))

    def _example(self, index: int, transform: PictureTransform | None, epoch: int) -> Example:
        place = slice(*self._bounds[index : index + 2])
        loaded = self._kept.get(index) or self._loaded(index)
        tokens, targets = (np.asarray(self._found[name][place]) for name in ("tokens", "targets"))
        text = EncodedText(tokens, targets, source=self._source(index))
        return example_of(
            loaded.sample, text, self.ports, transform, self._seed, epoch, loaded.pictures, loaded.sounds
        )

    def _source(self, index: int) -> np.ndarray | None:
        if self.ports.encoder is None:
            return None
        return np.asarray(self._found["sources"][slice(*self._source_bounds[index : index + 2])])

    def _loaded(self, index: int) -> "_Loaded":
        """Sample `index`, its pictures and sounds, kept where those of all samples would fit if they were as large."""
        sample = self.sample(index)
        sounds = () if self.ports.sound is None else tuple(decoded_sounds(sample, self.ports.sound))
        found = _Loaded(sample, load_pictures(sample), sounds)
        sizes = [3 * across * down for across, down in (one.size for one in found.pictures)]
        if len(self) * (sum(sizes) + sum(sound.nbytes for sound in sounds)) <= _KEPT_BYTES:
            self._kept[index] = found
        return found

    def prompt(self, index: int) -> np.ndarray:
        """Tokens of the question of sample `index`, ending where the model is to answer; what an encoder reads."""
        sample = self.samples[index] if self.ports.sized else self.samples.words(index)
        return encode_prompt(without_turns(sample, int(self._found["dropped"][index])), self.ports)


@dataclass(frozen=True)
class _Loaded:
    """A sample with its decoded pictures and, for a model that hears, sounds."""

    sample: Sample
    pictures: tuple[Picture, ...]
    sounds: tuple[np.ndarray, ...]


def _render_elsewhere(messages: Sequence[Message], ask: bool) -> str:
    raise RuntimeError("a worker process has no chat template")


def load_pictures(sample: Sample) -> tuple[Picture, ...]:
    """The pictures of a sample, decoded."""
    return tuple(load_picture(image.data, where=str(sample.origin)) for image in sample.images)


def prepare_pictures(
    sample: Sample,
    ports: Ports,
    transform: PictureTransform | None = None,
    seed: int = 0,
    epoch: int = 0,
    loaded: Sequence[Picture] | None = None,
) -> tuple[np.ndarray, ...]:
    """The one way from a sample's encoded pictures to pixels, uint8 (C, H, W), in training, evaluation and answers.

    They have the size that the model's port squashes to, or their own where a processor of the model comes after.
    `loaded`: the same pictures, where they are decoded already.
    """
    port = ports.image
    prepared = []
    for number, decoded in enumerate(load_pictures(sample) if loaded is None else loaded):
        assert port is not None  # encode refuses pictures for a model that takes none
        squashed = isinstance(port, ImagePort)
        width, height = (port.width, port.height) if isinstance(port, ImagePort) else decoded.size
        picture: Picture | PillowImage = decoded
        if transform is not None:
            key = seed, epoch, f"{sample.id}/{number}" if number else sample.id
            enough = (2 * width, 2 * height) if squashed else (width, height)
            picture = transform(decoded.image, key, enough, mirrors_allowed(sample, transform.settings.flip))
        if isinstance(port, ImagePort):
            prepared.append(resize(picture, height, width, port.resample))
        elif picture.size != (width, height):  # its tokens were counted for the size that it came with
            prepared.append(resize(picture, height, width, "bicubic"))
        else:
            pixels = picture.pixels if isinstance(picture, Picture) else np.asarray(picture)
            prepared.append(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return tuple(prepared)


def example_of(
    sample: Sample,
    text: EncodedText,
    ports: Ports,
    transform: PictureTransform | None = None,
    seed: int = 0,
    epoch: int = 0,
    loaded: Sequence[Picture] | None = None,
    decoded: Sequence[np.ndarray] | None = None,
) -> Example:
    """The example of a sample, without the turns that `text` has dropped; pictures as `prepare_pictures` makes them.

    `loaded` and `decoded`: its pictures and sounds, where they are decoded already.
    """
    pictures = prepare_pictures(sample, ports, transform, seed, epoch, loaded)
    extras = {**extras_of(pictures, ports, text.tokens, text.targets), **sounds_of(sample, ports, decoded)}
    return Example(sample.id, text.tokens, text.targets, extras, text.source)


def extras_of(
    pictures: Sequence[np.ndarray], ports: Ports, tokens: np.ndarray, targets: np.ndarray | None = None
) -> Mapping[str, Extra]:
    """The model's inputs beside the tokens (T,) of a sample, from its pictures; without `targets` it is asked."""
    port = ports.image
    if port is None:
        return {}
    if isinstance(port, ImagePort):
        return pixel_values(pictures)
    extras = port.prepare(pictures) if pictures else {}
    return {**extras, **port.along(tokens, targets, extras)}


def asked(sample: Sample, ports: Ports) -> tuple[np.ndarray, Mapping[str, Extra]]:
    """What the model is asked with: the tokens of the sample's prompt, and its other inputs."""
    tokens = encode_prompt(sample, ports)
    return tokens, {**extras_of(prepare_pictures(sample, ports), ports, tokens), **sounds_of(sample, ports)}


def sounds_of(
    sample: Sample, ports: Ports, decoded: Sequence[np.ndarray] | None = None
) -> Mapping[str, Extra]:
    """The model's inputs for the sounds of a sample, of a model that hears; those of others were transcribed."""
    if ports.sound is None or not sample.sounds:
        return {}
    return ports.sound.prepare(decoded_sounds(sample, ports.sound) if decoded is None else decoded)


def transform_of(settings: Transforms) -> PictureTransform | None:
    """The recipe's picture transforms, or none where all are off."""
    if settings == Transforms():
        return None
    values = settings.model_dump()
    scale, hue = values.pop("scale"), values.pop("hue")
    return PictureTransform(TransformSettings(**values, scale=(1 - scale, 1 + scale), hue=hue / 360))
