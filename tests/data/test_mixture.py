"""How often an epoch sees each sample: counts, fairness, and that nothing depends on what was drawn before."""

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import csv_source, rows, tiny_ports, write_csv

from finesight.config.data import Data, Transforms
from finesight.data.dataset import ExampleSet, transform_of
from finesight.data.loading.loader import windows
from finesight.data.loading.mixture import Mixture
from finesight.data.loading.order import Order, Share
from finesight.data.policy import Policy
from finesight.data.sets import read_samples
from finesight.runtime.notices import Notices

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any)


def sources_of(sizes: list[int], shuffled: int | None = None) -> np.ndarray:
    found = np.repeat(np.arange(len(sizes)), sizes)
    return found if shuffled is None else np.random.default_rng(shuffled).permutation(found)


@given(SIZES, st.data())
def test_repeats(sizes: list[int], data: st.DataObject) -> None:
    repeats = [data.draw(st.integers(1, 4)) for _ in sizes]
    sources = sources_of(sizes, 3)
    mixture = Mixture(sources, repeats, None)
    for epoch in range(3):
        samples, looks = mixture.epoch(epoch)
        assert len(samples) == len(looks) == len(mixture)
        assert Counter(samples.tolist()) == {
            at: repeats[source] for at, source in enumerate(sources.tolist())
        }
        for at, source in enumerate(sources.tolist()):
            first = epoch * repeats[source]
            assert sorted(looks[samples == at]) == list(range(first, first + repeats[source]))


@given(SIZES, st.data(), st.integers(0, 9))
def test_weights(sizes: list[int], data: st.DataObject, seed: int) -> None:
    weights = [data.draw(st.floats(0.01, 10)) for _ in sizes]
    sources = sources_of(sizes, 4)
    mixture = Mixture(sources, [1] * len(sizes), weights, ("data", seed))
    total = sum(sizes)
    share = np.array([weight if size else 0.0 for weight, size in zip(weights, sizes, strict=True)])
    wanted = share / share.sum() * total
    assert all(count >= 1 for count, size in zip(mixture.counts, sizes, strict=True) if size)
    assert all(count == 0 for count, size in zip(mixture.counts, sizes, strict=True) if not size)
    assert all(abs(count - part) <= 1 for count, part in zip(mixture.counts, wanted, strict=True))
    assert total <= len(mixture) <= total + len(sizes)
    seen: dict[int, list[int]] = {source: [] for source in range(len(sizes))}
    for epoch in range(4):
        samples, looks = mixture.epoch(epoch)
        assert Counter(sources[samples].tolist()) == {
            source: count for source, count in enumerate(mixture.counts) if count
        }
        for sample, look in zip(samples.tolist(), looks.tolist(), strict=True):
            assert look == seen[int(sources[sample])].count(sample), (
                "the number of a look counts those before"
            )
            seen[int(sources[sample])].append(sample)
            drawn = Counter(seen[int(sources[sample])])
            size = sizes[int(sources[sample])]
            least = min(drawn.values()) if len(drawn) == size else 0
            assert max(drawn.values()) - least <= 1, "none a second time before all were seen once"


def test_passes_of_a_source_differ() -> None:
    mixture = Mixture(sources_of([20, 20]), [1, 1], [3.0, 1.0], ("data", 1))
    drawn = [mixture.epoch(epoch)[0] for epoch in range(6)]
    stream = [sample for part in drawn for sample in part.tolist() if sample < 20]
    passes = [tuple(stream[at : at + 20]) for at in range(0, 180, 20)]
    assert all(sorted(one) == list(range(20)) for one in passes)
    assert len(set(passes)) == len(passes)
    other = Mixture(sources_of([20, 20]), [1, 1], [3.0, 1.0], ("data", 2))
    assert other.epoch(0)[0].tolist() != drawn[0].tolist()


@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 5.0]])
@pytest.mark.parametrize("window", [0, 3])
def test_the_order_of_a_mixture(weights: list[float] | None, window: int) -> None:
    """Any step at any time, in any process; each epoch has the looks of its mixture."""
    sources = sources_of([13, 5, 22], 1)
    mixture = Mixture(sources, [1, 3, 2] if weights is None else [1, 1, 1], weights, ("data", 7))
    lengths = np.random.default_rng(0).integers(5, 50, len(sources))
    order = Order("data", 7, 6, lengths, window, None, mixture)
    copy = pickle.loads(pickle.dumps(order))
    steps = order.steps_per_epoch
    assert steps == -(-len(mixture) // 6)
    drawn = [order.draws(step) for step in range(3 * steps)]
    for epoch in range(3):
        part = drawn[epoch * steps : (epoch + 1) * steps]
        found = Counter(pair for indices, looks in part for pair in zip(indices, looks, strict=True))
        assert found == Counter(zip(*mixture.epoch(epoch), strict=True))
    for step in (3 * steps - 1, 0, steps + 1):
        assert all((one == two).all() for one, two in zip(copy.draws(step), drawn[step], strict=True))
    assert order.varies == (weights is not None)
    few = Order("data", 7, 6, lengths, window, 2, mixture)
    assert few.steps_per_epoch == 2
    assert all((few.draws(5)[at] == order.draws(1)[at]).all() for at in (0, 1))


def test_what_a_recipe_asks_for(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", rows(4))
    one = csv_source(file)
    sources = np.array([0, 0, 1, 1])
    assert Mixture.of(one, sources) is None
    assert Mixture.of((one, one), sources) is None
    assert Mixture.of(csv_source(file, weight=0.5), sources) is None, "the whole of an epoch"
    repeated = Mixture.of((one, csv_source(file, repeat=3)), sources)
    assert repeated is not None and repeated.counts == (2, 6)
    weighted = Mixture.of((csv_source(file, weight=3), csv_source(file, weight=1)), sources)
    assert weighted is not None and weighted.counts == (3, 1)


def test_each_look_is_changed_in_its_own_way(tmp_path: Path) -> None:
    """A sample that a step sees twice is seen as two pictures; workers and places in the run change nothing."""
    source = csv_source(write_csv(tmp_path / "t.csv", rows(6)), repeat=3)
    recipe = Data(train=source)
    samples = read_samples(source, Policy(recipe), Notices(), "train")
    transform = transform_of(Transforms(rotate=30.0, brightness=0.4))
    examples = ExampleSet(samples, tiny_ports(), Policy(recipe), transform, 7)
    mixture = Mixture.of(source, samples.sources, examples.fingerprint, 7)
    order = Order(examples.fingerprint, 7, 9, examples.lengths, 0, None, mixture)
    assert order.steps_per_epoch == 2

    def pictures(start: int, workers: int) -> list[tuple[str, bytes]]:
        return [
            (name, pixels.tobytes())
            for window in windows(examples, order, start, 4, 4, workers)
            for batch in window
            for name, pixels in zip(batch.ids, batch.inputs["pixel_values"].numpy(), strict=True)
        ]

    found = pictures(0, 0)
    assert Counter(name for name, _ in found) == dict.fromkeys(samples.ids, 6)
    assert len(set(found)) == len(found), "two epochs of three looks: six pictures of each"
    assert pictures(2, 0) == found[18:]
    assert pictures(0, 2) == found


# T15: 10,007 rows, three ranks of two workers, two epochs


def dealt(order: Order, steps: range, share: Share, workers: int) -> list[int]:
    """What a rank's workers see: each prepares every n-th step."""
    return [
        int(index)
        for worker in range(workers)
        for step in itertools.islice(steps, worker, None, workers)
        for index in share.of(order.draws(step)[0])
    ]


@pytest.mark.parametrize("looks", ["plain", "repeated", "weighted"])
@pytest.mark.parametrize("window", [0, 50])
def test_each_id_once_an_epoch_on_one_rank(looks: str, window: int) -> None:
    lengths = np.random.default_rng(1).integers(10, 60, 10_007)
    sources = sources_of([7_000, 3_007])
    mixture: Any = {
        "plain": None,
        "repeated": Mixture(sources, [1, 2], None),
        "weighted": Mixture(sources, [1, 1], [1.0, 3.0], ("x",)),
    }[looks]
    epochs = []
    for epoch in range(2):
        orders = [Order("data", 7, 64, lengths, window, None, mixture) for _ in range(3)]
        steps = range(epoch * orders[0].steps_per_epoch, (epoch + 1) * orders[0].steps_per_epoch)
        ranks = [dealt(order, steps, Share(rank, 3), 2) for rank, order in enumerate(orders)]
        whole = Counter(itertools.chain(*ranks))
        if looks == "plain":
            assert whole == dict.fromkeys(range(10_007), 1)
            assert not set(ranks[0]) & set(ranks[1]) and not set(ranks[1]) & set(ranks[2])
        else:
            assert whole == Counter(mixture.epoch(epoch)[0].tolist())
        assert max(map(len, ranks)) - min(map(len, ranks)) <= len(steps)
        epochs.append([orders[0].draws(step)[0].tolist() for step in steps])
    assert epochs[0] != epochs[1]
