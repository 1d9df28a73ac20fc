"""Checked samples of the recipe's splits, and the examples that a model sees of them."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL.Image import Image

from finesight.config.data import ByColumn, Data, Split, Transforms
from finesight.config.sources import Source
from finesight.core.batch import IGNORE, Example
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Message, Sample
from finesight.data.encode import EncodedText, encode, encode_prompt, sample_digest
from finesight.data.media import load_picture, resize
from finesight.data.samples import RowSource, open_rows
from finesight.data.splits import split_groups
from finesight.data.transforms import PictureTransform, TransformSettings
from finesight.runtime.notices import Notices

Tick = Callable[[int], None]
"""Called with the number of rows read so far."""


@dataclass(frozen=True)
class RowFault:
    """A row that cannot be used; a line of `faults.csv`."""

    file: str
    row: int
    column: str
    reason: str


class Policy:
    """What a bad row does: stop (the default), or be left out, counted and listed, up to a limit."""

    def __init__(self, data: Data) -> None:
        self._skip, self._limit = data.on_bad_row == "skip", data.bad_row_limit
        self._faults: dict[RowFault, None] = {}

    @property
    def faults(self) -> list[RowFault]:
        """The bad rows so far; one that two splits read is one."""
        return list(self._faults)

    def bad_row(self, file: str, row: int, error: DataError) -> None:
        """Record a bad row, or raise where the recipe says so."""
        self._faults[RowFault(file, row, error.column, error.faults[0].what)] = None
        if not self._skip:
            raise error
        if self._limit is not None and len(self._faults) > self._limit:
            raise DataError(
                f"more than {self._limit} rows are bad",
                self.examples(),
                "mend the rows, or raise `data.bad_row_limit`",
            )

    def examples(self) -> str:
        """The first few bad rows, for a message."""
        return "; ".join(f"{fault.file}, row {fault.row}: {fault.reason}" for fault in self.faults[:5])


@dataclass(frozen=True)
class SampleSet:
    """Checked samples of one split; each is read again from its file when asked for.

    `digests` are hashes of what each sample holds; `fingerprint` is theirs and the ids', in order.
    """

    places: tuple[tuple[RowSource, int], ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    digests: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        return self._read(index, pictures=True)

    def words(self, index: int) -> Sample:
        """Sample `index` with its pictures empty: for what needs their number alone, and not their bytes."""
        return self._read(index, pictures=False)

    def _read(self, index: int, pictures: bool) -> Sample:
        source, row = self.places[index]
        sample = source.sample(row, pictures)
        if sample is None:
            raise DataError(
                "the row changed while it was in use", _place(source, row), "put it back, and begin again"
            )
        return sample

    @property
    def fingerprint(self) -> str:
        """Changes whenever a word, a picture, a reference, an id or the order of the rows does."""
        digest = hashlib.blake2b(b"".join(self.digests), digest_size=16)
        for name in self.ids:
            digest.update(name.encode() + b"\0")
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | np.ndarray) -> "SampleSet":
        """Some of the samples, in the order given."""
        chosen = [int(index) for index in indices]
        return SampleSet(
            tuple(self.places[index] for index in chosen),
            tuple(self.ids[index] for index in chosen),
            tuple(self.groups[index] for index in chosen),
            tuple(self.digests[index] for index in chosen),
        )


def read_samples(
    sources: Source | tuple[Source, ...],
    policy: Policy,
    notices: Notices,
    purpose: str,
    tick: Tick | None = None,
) -> SampleSet:
    """Read and check every row of one or more sources: its columns, words and picture.

    Raises DataError by the policy, and where no row of a source is left.
    """
    listed = sources if isinstance(sources, tuple) else (sources,)
    places: list[tuple[RowSource, int]] = []
    seen: dict[str, tuple[RowSource, int]] = {}
    groups, digests = [], []
    for number, source in enumerate(listed):
        opened = open_rows(source, _name(source, number, len(listed)))
        _say_choices(opened, notices)
        before, bad = len(places), 0
        for row in range(len(opened.reader)):
            if source.max_samples is not None and len(places) - before >= source.max_samples:
                break
            if tick is not None:
                tick(row + 1)
            try:
                sample = _checked(opened, row, seen, notices, purpose)
            except DataError as error:
                policy.bad_row(opened.reader.file, row + 1, error)
                bad += 1
                continue
            if sample is not None:
                places.append((opened, row))
                seen[sample.id] = places[-1]
                groups.append(sample.group or sample.id)
                digests.append(sample_digest(sample))
        if len(places) == before:
            raise _nothing_left(opened, bad, purpose, policy)
    return SampleSet(tuple(places), tuple(seen), tuple(groups), tuple(digests))


def _checked(
    opened: RowSource, row: int, seen: Mapping[str, tuple[RowSource, int]], notices: Notices, purpose: str
) -> Sample | None:
    """The sample of a row once its pictures are decoded and its id is known to be new; None where it is not wanted."""
    sample = opened.sample(row)
    if sample is None:
        return None
    if sample.id in seen:
        what = f"the id `{sample.id}` is that of {_place(*seen[sample.id])} too"
        raise DataError(what, str(sample.origin), "give each sample its own id", opened.columns.id or "")
    column = opened.columns.image or ""
    for image in sample.images:
        try:
            picture = load_picture(image.data, where=f"{sample.origin}, column `{column}`")
        except DataError as error:
            error.column = column
            raise
        for note in picture.notes:
            notices.add("picture", f"{purpose}: {note.replace('_', ' ')}")
    return sample


def _nothing_left(opened: RowSource, bad: int, purpose: str, policy: Policy) -> DataError:
    why = []
    if bad:
        why.append(f"{bad} are bad ({policy.examples()})")
    if opened.source.where:
        kept = ", ".join(f"{column}: {value}" for column, value in opened.source.where.items())
        why.append(f"`where` ({kept}) keeps none of the others")
    what = f"no rows are left for `data.{purpose}`{': ' if why else ''}{'; '.join(why)}"
    return DataError(what, opened.reader.file, "check this source: its file, its columns and its `where`")


def _place(source: RowSource, row: int) -> str:
    return f"{source.reader.file}, row {row + 1}"


def _name(source: Source, number: int, sources: int) -> str:
    """Prefix of row-number ids: the file's stem, with the source's number where there are several."""
    stem = re.split(r"[/:]", source.path.rstrip("/"))[-1].split(".")[0] or "row"
    return stem if sources == 1 else f"{stem}-{number + 1}"


def _say_choices(opened: RowSource, notices: Notices) -> None:
    for role, column in opened.columns.model_dump().items():
        if column and getattr(opened.source.columns, role) is None:
            notices.add("guess", f"{opened.reader.file}: column `{column}` is taken as the {role}")
    asked, prompt = opened.source.columns.question, opened.source.prompt
    if asked and prompt is not None and f"{{{asked}}}" not in prompt:
        notices.add("unused", f"{opened.reader.file}: `prompt` is asked, not the column `{asked}`")


def read_splits(
    data: Data, seed: int, policy: Policy, notices: Notices, tick: Tick | None = None
) -> dict[str, SampleSet]:
    """The samples of `train`, `val` and `test`, those that the recipe has."""
    train = read_samples(data.train, policy, notices, "train", tick)
    splits, whole = {}, len(train)
    for purpose, asked in (("val", data.val), ("test", data.test)):
        if isinstance(asked, Split):
            taken = _taken(asked, train, whole, seed, purpose)
            if not taken.any() or taken.all():
                empty = "train" if taken.all() else purpose
                mend = f"choose another share, group or column in `data.{purpose}.split`"
                raise DataError(f"the split `{empty}` is empty", f"data.{purpose}", mend)
            splits[purpose] = train.take(np.flatnonzero(taken))
            train = train.take(np.flatnonzero(~taken))
        elif asked is not None:
            splits[purpose] = read_samples(asked, policy, notices, purpose, tick)
    known = set(train.digests)
    for purpose, samples in splits.items():
        shared = sum(digest in known for digest in samples.digests)
        if shared:
            notices.add("leak", f"samples of `{purpose}` that are also in `train`, word for word", shared)
    return {"train": train, **splits}


def _taken(split: Split, train: SampleSet, whole: int, seed: int, purpose: str) -> np.ndarray:
    """Mask over the training samples of those that this split takes out.

    A share is one of the `whole` number of samples before any split.
    """
    if isinstance(split.split, ByColumn):
        values = set(split.split.values)
        return np.array([value in values for value in _column(train, split.split.column, purpose)])
    groups: Sequence[str] = train.groups
    if split.group is not None:
        column = _column(train, split.group, purpose)
        groups = [value or name for value, name in zip(column, train.ids, strict=True)]
    return split_groups(groups, split.split * whole / len(train), seed, purpose)


def _column(samples: SampleSet, column: str, purpose: str) -> Iterator[str]:
    """The text of one column, of each sample."""
    for source, row in samples.places:
        if column not in source.reader.columns:
            have = ", ".join(f"`{name}`" for name in source.reader.columns)
            where = f"{source.reader.file}, `data.{purpose}` of the recipe"
            raise DataError(f"there is no column `{column}`", where, f"it has {have}")
        yield source.reader.row(row)[column]


class ExampleSet:
    """Samples encoded for one model. Words are encoded once; pictures are read and changed at each look.

    Index with (epoch, sample index): the transforms of a training picture are a function of (seed, epoch, sample id).
    """

    def __init__(
        self,
        samples: SampleSet,
        ports: Ports,
        policy: Policy,
        transform: PictureTransform | None = None,
        seed: int = 0,
        tick: Tick | None = None,
    ) -> None:
        encoded: list[EncodedText] = []
        kept: list[int] = []
        for index, (source, row) in enumerate(samples.places):
            if tick is not None:
                tick(index + 1)
            try:
                encoded.append(encode(samples.words(index), ports))
                kept.append(index)
            except DataError as error:
                policy.bad_row(source.reader.file, row + 1, error)
        if not kept:
            where = samples.places[0][0].reader.file
            raise DataError(f"no rows are left after encoding: {policy.examples()}", where, "mend the rows")
        self.samples = samples if len(kept) == len(samples) else samples.take(kept)
        self.ports, self._transform, self._seed = ports, transform, seed
        # one array for all, which worker processes share; objects would be copied as their reference counts change
        self._tokens = np.concatenate([text.tokens for text in encoded])
        self._targets = np.concatenate([text.targets for text in encoded])
        self._bounds = np.cumsum([0, *(len(text.tokens) for text in encoded)])

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process needs: all but the tokenizer and the template, which not every process can be sent."""
        return {**vars(self), "ports": replace(self.ports, tokenizer=None, render=_render_elsewhere)}

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        lengths: list[int] = np.diff(self._bounds).tolist()
        return lengths

    @property
    def supervised_lengths(self) -> list[int]:
        """Tokens of each example that are learned from."""
        lengths: list[int] = np.add.reduceat(
            (self._targets != IGNORE).astype(np.int64), self._bounds[:-1]
        ).tolist()
        return lengths

    @property
    def supervised(self) -> int:
        """Number of tokens that are learned from, of all examples."""
        return sum(self.supervised_lengths)

    @property
    def fingerprint(self) -> str:
        """Of the samples and of the encoder together."""
        return hashlib.sha256((self.samples.fingerprint + self.ports.fingerprint).encode()).hexdigest()[:32]

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        return self._example(index, self._transform, epoch)

    def plain(self, index: int) -> Example:
        """Example `index` without the training-time transforms."""
        return self._example(index, None, 0)

    def _example(self, index: int, transform: PictureTransform | None, epoch: int) -> Example:
        sample, place = self.samples[index], slice(*self._bounds[index : index + 2])
        pictures = prepare_pictures(sample, self.ports, transform, self._seed, epoch)
        return Example(sample.id, self._tokens[place], self._targets[place], pictures)

    def prompt(self, index: int) -> np.ndarray:
        """Tokens of the question of sample `index`, ending where the model is to answer."""
        return encode_prompt(self.samples.words(index), self.ports)


def _render_elsewhere(messages: Sequence[Message], ask: bool) -> str:
    raise RuntimeError("a worker process has no chat template")


def prepare_pictures(
    sample: Sample, ports: Ports, transform: PictureTransform | None = None, seed: int = 0, epoch: int = 0
) -> tuple[np.ndarray, ...]:
    """The one way from a sample's encoded pictures to what a model gets, for training, evaluation and answers alike."""
    port = ports.image
    prepared = []
    for number, image in enumerate(sample.images):
        assert port is not None  # encode refuses pictures for a model that takes none
        picture = load_picture(image.data, where=str(sample.origin)).image
        if transform is not None:
            picture = _nearer(picture, 2 * port.width, 2 * port.height)
            picture = transform(picture, (seed, epoch, f"{sample.id}/{number}" if number else sample.id))
        prepared.append(resize(picture, port.height, port.width, port.resample))
    return tuple(prepared)


def _nearer(picture: Image, width: int, height: int) -> Image:
    """A large picture shrunk by whole factors to no less than `width` × `height`, so that transforms cost little."""
    factors = max(1, picture.width // width), max(1, picture.height // height)
    return picture if factors == (1, 1) else picture.reduce(factors)


def transform_of(settings: Transforms) -> PictureTransform | None:
    """The recipe's picture transforms, or none where all are off."""
    if settings == Transforms():
        return None
    values = settings.model_dump(exclude={"crop"})  # not built yet
    scale, hue = values.pop("scale"), values.pop("hue")
    return PictureTransform(TransformSettings(**values, scale=(1 - scale, 1 + scale), hue=hue / 360))
