"""Checked samples of the recipe's splits, and the examples that a model sees of them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finesight.config.data import ByColumn, CsvSource, Data, FolderSource, Split, Transforms
from finesight.core.batch import IGNORE, Example
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Sample
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
        self.faults: list[RowFault] = []

    def bad_row(self, file: str, row: int, error: DataError) -> None:
        """Record a bad row, or raise where the recipe says so."""
        self.faults.append(RowFault(file, row, error.column, error.faults[0].what))
        if not self._skip:
            raise error
        if self._limit is not None and len(self.faults) > self._limit:
            first = "; ".join(f"{fault.file}, row {fault.row}: {fault.reason}" for fault in self.faults[:5])
            raise DataError(
                f"more than {self._limit} rows are bad",
                first,
                "mend the rows, or raise `data.bad_row_limit`",
            )


@dataclass(frozen=True)
class SampleSet:
    """Checked samples of one split; each is read again from its file when asked for.

    `digests` are hashes of what each sample holds; `fingerprint` is theirs, in order.
    """

    places: tuple[tuple[RowSource, int], ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    digests: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        source, row = self.places[index]
        return source.sample(row)

    @property
    def fingerprint(self) -> str:
        """Changes whenever a word, a picture, a reference or the order of the rows does."""
        return hashlib.blake2b(b"".join(self.digests), digest_size=16).hexdigest()

    def take(self, indices: Sequence[int] | np.ndarray) -> "SampleSet":
        """Some of the samples, in the order given."""
        chosen = [int(index) for index in indices]
        return SampleSet(
            tuple(self.places[index] for index in chosen),
            tuple(self.ids[index] for index in chosen),
            tuple(self.groups[index] for index in chosen),
            tuple(self.digests[index] for index in chosen),
        )


def _as_list(sources: object) -> list[CsvSource | FolderSource]:
    return list(sources) if isinstance(sources, tuple) else [sources]  # type: ignore[list-item]


def read_samples(
    sources: object, policy: Policy, notices: Notices, purpose: str, group: str | None = None, tick: Tick | None = None
) -> SampleSet:
    """Read and check every row of one or more sources: its columns, words and picture.

    `group` is a column that overrides the sources' own. Raises DataError by the policy, and where no row is left.
    """
    places, ids, groups, digests = [], [], [], []
    listed = _as_list(sources)
    for number, source in enumerate(listed):
        opened = open_rows(source.model_copy(update={"group": group or source.group}), _name(listed, number))
        _say_guesses(opened, notices)
        before, left_out = len(places), 0
        for row in range(len(opened.reader)):
            if source.max_samples is not None and len(places) - before >= source.max_samples:
                break
            if tick is not None:
                tick(row + 1)
            try:
                if not opened.wanted(opened.values(row)):
                    left_out += 1
                    continue
                sample = opened.sample(row)
                for image in sample.images:
                    picture = load_picture(image.data, where=str(sample.origin))
                    for note in picture.notes:
                        notices.add("picture", f"{purpose}: {note.replace('_', ' ')}")
            except DataError as error:
                policy.bad_row(opened.reader.file, row + 1, error)
                continue
            places.append((opened, row))
            ids.append(sample.id)
            groups.append(sample.group or sample.id)
            digests.append(sample_digest(sample))
        if len(places) == before:
            kept = f"; `where` kept none of {left_out} rows" if left_out else ""
            raise DataError(f"no rows are left for `data.{purpose}`{kept}", opened.reader.file, "check the source")
    _refuse_twins(ids, places)
    return SampleSet(tuple(places), tuple(ids), tuple(groups), tuple(digests))


def _name(sources: Sequence[CsvSource | FolderSource], number: int) -> str:
    """Prefix of row-number ids: the file's stem, with the source's number where there are several."""
    stem = sources[number].path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
    return stem if len(sources) == 1 else f"{stem}-{number + 1}"


def _say_guesses(opened: RowSource, notices: Notices) -> None:
    for role, column in opened.columns.model_dump().items():
        if column and getattr(opened.source.columns, role) is None:
            notices.add("guess", f"{opened.reader.file}: column `{column}` is taken as the {role}")


def _refuse_twins(ids: list[str], places: list[tuple[RowSource, int]]) -> None:
    seen: dict[str, int] = {}
    for index, name in enumerate(ids):
        if name in seen:
            first, second = (f"{places[at][0].reader.file}, row {places[at][1] + 1}" for at in (seen[name], index))
            raise DataError(f"two samples have the id `{name}`", f"{first}; {second}", "give each its own id")
        seen[name] = index


def read_splits(data: Data, seed: int, policy: Policy, notices: Notices, tick: Tick | None = None) -> dict[str, SampleSet]:
    """The samples of `train`, `val` and `test`, those that the recipe has."""
    train = read_samples(data.train, policy, notices, "train", tick=tick)
    splits = {}
    for purpose in ("val", "test"):
        asked = getattr(data, purpose)
        if isinstance(asked, Split):
            taken = _taken(data, asked, train, seed, purpose, policy, notices)
            splits[purpose] = train.take(np.flatnonzero(taken))
            train = train.take(np.flatnonzero(~taken))
        elif asked is not None:
            splits[purpose] = read_samples(asked, policy, notices, purpose, tick=tick)
    for purpose, samples in {"train": train, **splits}.items():
        if not len(samples):
            raise DataError(f"the split `{purpose}` is empty", f"data.{purpose}", "choose another share, group or column")
    return {"train": train, **splits}


def _taken(
    data: Data, split: Split, train: SampleSet, seed: int, purpose: str, policy: Policy, notices: Notices
) -> np.ndarray:
    """Mask over the training samples of those that this split takes out."""
    if isinstance(split.split, ByColumn):
        column, values = split.split.column, set(split.split.values)
        return np.array([_value(source, row, column, purpose) in values for source, row in train.places])
    groups = train.groups
    if split.group is not None:
        groups = tuple(_value(source, row, split.group, purpose) for source, row in train.places)
    return split_groups(groups, split.split, seed, purpose)


def _value(source: RowSource, row: int, column: str, purpose: str) -> str:
    if column not in source.reader.columns:
        have = ", ".join(f"`{name}`" for name in source.reader.columns)
        raise DataError(f"there is no column `{column}`", f"{source.reader.file}, data.{purpose}.split", f"it has {have}")
    return source.values(row)[column]


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
                encoded.append(encode(samples[index], ports))
                kept.append(index)
            except DataError as error:
                policy.bad_row(source.reader.file, row + 1, error)
        if not kept:
            raise DataError("no rows are left after encoding", str(samples[0].origin.file), "see `faults.csv`")
        self.samples = samples if len(kept) == len(samples) else samples.take(kept)
        self.ports, self._encoded, self._transform, self._seed = ports, encoded, transform, seed

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(text.tokens) for text in self._encoded]

    @property
    def supervised(self) -> int:
        """Number of tokens that are learned from, of all examples."""
        return sum(int((text.targets != IGNORE).sum()) for text in self._encoded)

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
        sample, text = self.samples[index], self._encoded[index]
        pictures = prepare_pictures(sample, self.ports, transform, self._seed, epoch)
        return Example(sample.id, text.tokens, text.targets, pictures)

    def prompt(self, index: int) -> np.ndarray:
        """Tokens of the question of sample `index`, ending where the model is to answer."""
        return encode_prompt(self.samples[index], self.ports)


def prepare_pictures(
    sample: Sample, ports: Ports, transform: PictureTransform | None = None, seed: int = 0, epoch: int = 0
) -> tuple[np.ndarray, ...]:
    """The one way from a sample's encoded pictures to what a model gets, for training, evaluation and answering alike."""
    prepared = []
    for number, image in enumerate(sample.images):
        assert ports.image is not None
        picture = load_picture(image.data, where=str(sample.origin)).image
        if transform is not None:
            picture = transform(picture, (seed, epoch, f"{sample.id}/{number}" if number else sample.id))
        prepared.append(resize(picture, ports.image.height, ports.image.width, ports.image.resample))
    return tuple(prepared)


def transform_of(settings: Transforms) -> PictureTransform | None:
    """The recipe's picture transforms, or none where all are off."""
    if settings == Transforms():
        return None
    values = settings.model_dump()
    scale, hue = values.pop("scale"), values.pop("hue")
    return PictureTransform(TransformSettings(**values, scale=(1 - scale, 1 + scale), hue=hue / 360))
