"""What comes twice: samples word for word, and pictures that look the same; within a split and across splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finesight.data.inspection.survey import Survey, first_places
from finesight.data.pictures.phash import nearest, nearest_before


@dataclass(frozen=True)
class Twice:
    """Samples, or pictures, of split `one` that split `other` has too; where both are one, that stand there before.

    `samples` (K,) and `partners` (K,) are places of samples in `one` and in `other`, an entry for each sample or
    picture. Samples are the same word for word and byte for byte; pictures are those that look the same.
    """

    kind: Literal["sample", "picture"]
    one: str
    other: str
    samples: np.ndarray
    partners: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def where(self) -> str:
        """`train`, or `val/train`."""
        return self.one if self.one == self.other else f"{self.one}/{self.other}"


def find_twice(splits: Mapping[str, Survey]) -> list[Twice]:
    """All that comes twice, in each split and in each two; empty entries too."""
    found, before = [], list[str]()
    for one, survey in splits.items():
        found += [_samples_within(one, survey), _pictures_within(one, survey)]
        for other in before:
            found += _across(one, survey, other, splits[other])
        before.append(one)
    return found


def _samples_within(name: str, survey: Survey) -> Twice:
    first = first_places(survey.digest)
    again = np.flatnonzero(first != np.arange(len(first)))
    return Twice("sample", name, name, again, first[again])


def _pictures_within(name: str, survey: Survey) -> Twice:
    partners, _ = nearest_before(survey.signatures)
    again = np.flatnonzero(partners >= 0)
    owner = survey.owner
    return Twice("picture", name, name, owner[again], owner[partners[again]])


def _across(one: str, survey: Survey, other: str, others: Survey) -> Sequence[Twice]:
    place = _places(survey.digest, others.digest)
    same = np.flatnonzero(place >= 0)
    partners, _ = nearest(survey.signatures, others.signatures)
    near = np.flatnonzero(partners >= 0)
    return [
        Twice("sample", one, other, same, place[same]),
        Twice("picture", one, other, survey.owner[near], others.owner[partners[near]]),
    ]


def _places(asked: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For each key the first place of it among the known ones, or −1."""
    if not len(known):
        return np.full(len(asked), -1)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], asked), len(known) - 1)
    places: np.ndarray = np.where(known[order[at]] == asked, order[at], -1)
    return places
