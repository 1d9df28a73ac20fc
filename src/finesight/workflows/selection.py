"""Which samples an inspection shows, and the views of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from finesight.config.recipe import Recipe
from finesight.core.batch import Example
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Sample
from finesight.core.view import View
from finesight.data.check import hashed
from finesight.data.dataset import example_of, transform_of
from finesight.data.encode import encode
from finesight.data.inspection.leaks import Twice
from finesight.data.inspection.survey import Bad
from finesight.data.inspection.surveys import Surveyed
from finesight.data.inspection.views import faulty, view
from finesight.data.lengths import Limit, without_turns
from finesight.data.loading.order import generator
from finesight.workflows.summary import kind_of, origin

MOST_FAULTY = 200
"""Faulty rows that a page shows."""
_WITHOUT = 100
"""Samples that a page shows where it may show no picture."""
_EXTREMES = 10
"""Longest and shortest samples of each split on a page."""

Place = tuple[str, int]
"""A split, and the number of a sample in it from 0."""


def asked_for(
    parts: Mapping[str, Surveyed],
    samples: Sequence[int],
    ids: Sequence[str],
    split: str | None,
    show: int,
    seed: int,
) -> list[Place]:
    """The samples that a person named, by number (from 1) or id; where none is named, `show` drawn at random."""
    if split is not None and split not in parts:
        raise DataError(f"there is no split `{split}`", "--split", f"use one of: {', '.join(parts)}")
    name = split or "train"
    found = [(name, _numbered(parts[name], name, number)) for number in samples]
    found += [_named(parts, wanted, split) for wanted in ids]
    if not samples and not ids:
        drawn = generator("inspect", seed, name).permutation(len(parts[name]))[:show]
        found = [(name, index) for index in sorted(drawn.tolist())]
    return list(dict.fromkeys(found))


def _numbered(part: Surveyed, name: str, number: int) -> int:
    if not 1 <= number <= len(part):
        what = f"`{name}` has no sample {number}"
        raise DataError(what, "--sample", f"its samples have the numbers 1 to {len(part):,}")
    return number - 1


def _named(parts: Mapping[str, Surveyed], wanted: str, split: str | None) -> Place:
    for name, part in parts.items():
        if split in (None, name):
            at = np.flatnonzero(part.survey.name == hashed(wanted))
            if len(at):
                return name, int(at[0])
    where = f"`{split}`" if split else "any split"
    raise DataError(f"no sample of {where} has the id `{wanted}`", "--id", "samples.html shows ids")


def for_page(
    parts: Mapping[str, Surveyed], twice: Sequence[Twice], asked: Sequence[Place], pictures: int, seed: int
) -> list[Place]:
    """What a page shows with so many pictures: what was asked for, what comes twice, extremes, then any others.

    Splits take turns, so that each is seen.
    """
    left, chosen = pictures or _WITHOUT, dict[Place, None]()
    for place in (*asked, *_taking_turns(parts, twice, seed)):
        if place in chosen:
            continue
        cost = int(parts[place[0]].survey.pictures[place[1]]) if pictures else 1
        if cost > left or len(chosen) >= max(pictures, _WITHOUT):
            break
        chosen[place] = None
        left -= cost
    order = list(parts)
    return sorted(chosen, key=lambda place: (order.index(place[0]), place[1]))


def _taking_turns(parts: Mapping[str, Surveyed], twice: Sequence[Twice], seed: int) -> Iterator[Place]:
    queues = [iter(_in_order(name, part, twice, seed)) for name, part in parts.items()]
    while queues:
        for queue in list(queues):
            place = next(queue, None)
            if place is None:
                queues.remove(queue)
            else:
                yield place


def _in_order(name: str, part: Surveyed, twice: Sequence[Twice], seed: int) -> list[Place]:
    """Samples of a split, the most telling ones first."""
    again = [found.samples[:_EXTREMES] for found in twice if found.one == name]
    partners = [found.partners[:_EXTREMES] for found in twice if found.other == name]
    by_length = np.argsort(part.tokens, kind="stable") if part.tokens is not None else np.arange(0)
    drawn = generator("inspect", seed, name).permutation(len(part))
    return [
        (name, int(index))
        for index in np.concatenate(
            [*again, *partners, by_length[::-1][:_EXTREMES], by_length[:_EXTREMES], drawn]
        )
    ]


def views_of(
    recipe: Recipe,
    parts: Mapping[str, Surveyed],
    places: Sequence[Place],
    ports: Ports,
    twice: Sequence[Twice] = (),
    pictures: bool = True,
    tick: Callable[[int], object] = bool,
) -> list[View]:
    """The samples as the model sees them in its first epoch: those of `train` with its random changes."""
    transform = None if recipe.train.overfit else transform_of(recipe.data.transforms)
    alike, limit = _alike(parts, twice, set(places)), limit_of(recipe)
    found = []
    for done, (name, index) in enumerate(places, 1):
        sample = parts[name].sample(index, pictures)
        changed = transform if name == "train" else None
        made = view(sample, name, index + 1, ports, limit, changed, recipe.run.seed, pictures)
        found.append(replace(made, alike=tuple(alike.get((name, index), ()))))
        tick(done)
    return found


def _alike(
    parts: Mapping[str, Surveyed], twice: Sequence[Twice], places: set[Place]
) -> dict[Place, list[str]]:
    """What the samples come twice with, in words."""
    found: dict[Place, list[str]] = {}
    for each in twice:
        words = "the same sample as" if each.kind == "sample" else "looks the same as"
        for at, partner in zip(each.samples.tolist(), each.partners.tolist(), strict=True):
            for here, split, there, other in (
                (at, each.one, partner, each.other),
                (partner, each.other, at, each.one),
            ):
                if (split, here) in places:
                    file, row = origin(parts[other], there)
                    said = f"{words} {other} {there + 1:,} ({file.split('/')[-1]}, row {row})"
                    found.setdefault((split, here), []).append(said)
    return found


def faulty_views(parts: Mapping[str, Surveyed]) -> list[View]:
    """The first faulty rows, with their words where they can be read."""
    found: dict[tuple[str, int], View] = {}
    for name, part in parts.items():
        for bad in part.bad:
            if len(found) >= MOST_FAULTY:
                return list(found.values())
            made = faulty(_words(part, bad), name, bad.file, bad.line, bad.column, bad.reason)
            found.setdefault((bad.file, bad.line), replace(made, kind=kind_of(bad.reason)))
    return list(found.values())


def examples_of(
    recipe: Recipe, parts: Mapping[str, Surveyed], places: Sequence[Place], ports: Ports
) -> list[Example]:
    """The samples as the first epoch's batch has them."""
    transform = None if recipe.train.overfit else transform_of(recipe.data.transforms)
    found = []
    for name, index in places:
        sample = parts[name].sample(index)
        changed = transform if name == "train" else None
        encoded = encode(sample, ports, limit_of(recipe))
        sample = without_turns(sample, encoded.dropped)
        found.append(example_of(sample, encoded, ports, changed, recipe.run.seed))
    return found


def limit_of(recipe: Recipe) -> Limit:
    """The longest sample, and what happens to longer ones."""
    return Limit(recipe.data.on_long, recipe.data.max_tokens)


def _words(part: Surveyed, bad: Bad) -> Sample | None:
    try:
        return part.sources[bad.source].sample(bad.row, pictures=False)
    except DataError:
        return None
