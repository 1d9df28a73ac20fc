"""What comes twice, against a search that compares everything."""

import numpy as np
import pytest

from finesight.data.inspection.leaks import find_twice
from finesight.data.inspection.survey import Survey, joined, spread
from finesight.data.pictures.phash import nearest


def survey(digests: list[int], structures: list[list[int]]) -> Survey:
    count = len(digests)
    flat = np.array([hash_ for sample in structures for hash_ in sample], np.uint64)
    return Survey(
        source=np.zeros(count, np.int32),
        row=np.arange(count),
        name=np.arange(count, dtype=np.uint64),
        group=np.arange(count, dtype=np.uint64),
        digest=np.array(digests, np.uint64),
        pictures=np.array([len(sample) for sample in structures], np.int32),
        widths=np.full(len(flat), 8, np.int32),
        heights=np.full(len(flat), 8, np.int32),
        structures=flat,
        colours=np.zeros(len(flat), np.uint64),
    )


def found(splits: dict[str, Survey], kind: str) -> dict[str, list[tuple[int, int]]]:
    return {
        each.where: list(zip(each.samples.tolist(), each.partners.tolist(), strict=True))
        for each in find_twice(splits)
        if each.kind == kind
    }


def test_samples_within_and_across() -> None:
    splits = {
        "train": survey([5, 6, 5, 7, 5], [[]] * 5),
        "val": survey([8, 6, 8], [[]] * 3),
        "test": survey([9, 8], [[]] * 2),
    }
    assert found(splits, "sample") == {
        "train": [(2, 0), (4, 0)],
        "val": [(2, 0)],
        "val/train": [(1, 1)],
        "test": [],
        "test/train": [],
        "test/val": [(1, 0)],
    }


def test_pictures_belong_to_their_samples() -> None:
    far = 0x0F0F_0F0F_0F0F_0F0F
    splits = {
        "train": survey([1, 2, 3], [[0x3333_3333_3333_3333, 0x5555_5555_5555_5555], [0xFF, far], [0xFE]]),
        "val": survey([4, 5], [[0xFFFF_0000], [1 << 60, far ^ 3]]),
    }
    assert found(splits, "picture") == {"train": [(2, 1)], "val": [], "val/train": [(1, 1)]}


@pytest.mark.parametrize("seed", range(5))
def test_pictures_as_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)

    def some(count: int) -> Survey:
        each = [random.integers(0, 4) for _ in range(count)]
        centres = random.integers(0, 2**63, 3, np.uint64)
        flat = [
            [int(centres[random.integers(3)]) ^ (1 << int(random.integers(64))) for _ in range(n)]
            for n in each
        ]
        return survey(list(range(count)), flat)

    one, two = some(30), some(20)
    result = found({"train": one, "val": two}, "picture")

    def count(splits: Survey, others: Survey, before: bool) -> int:
        total = 0
        for at in range(len(splits.structures)):
            known = others.signatures[:at] if before else others.signatures
            total += int(nearest(splits.signatures[at : at + 1], known)[0][0] >= 0)
        return total

    assert len(result["train"]) == count(one, one, before=True)
    assert len(result["val"]) == count(two, two, before=True)
    assert len(result["val/train"]) == count(two, one, before=False)


def test_nothing_is_in_nothing() -> None:
    empty = joined([])
    assert all(not len(each) for each in find_twice({"train": empty, "val": empty}))
    assert all(not len(each) for each in find_twice({"train": survey([1], [[3]]), "val": empty}))


def test_taking_some_takes_their_pictures() -> None:
    whole = survey([1, 2, 3], [[10, 11], [], [12]])
    some = whole.take(np.array([False, True, True]))
    assert some.digest.tolist() == [2, 3]
    assert some.structures.tolist() == [12]
    assert some.owner.tolist() == [1]
    assert joined([whole, some]).owner.tolist() == [0, 0, 2, 4]


@pytest.mark.parametrize(("total", "most"), [(10, 3), (10, None), (10, 10), (10, 99), (0, 3), (7, 1)])
def test_rows_are_evenly_spread(total: int, most: int | None) -> None:
    rows = spread(total, most).tolist()
    assert len(rows) == min(total, most or total)
    assert rows == sorted(set(rows)) and all(0 <= row < total for row in rows)
    gaps = np.diff(rows)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
