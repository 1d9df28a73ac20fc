import random

import numpy as np
import pytest

from finesight.evaluation import intervals
from finesight.evaluation.intervals import group_numbers, interval, paired_interval, weights
from finesight.evaluation.metrics import METRICS, select

MEAN = METRICS["exact_match"]


def coins(items: int, chance: float, seed: int) -> np.ndarray:
    """Statistics of a mean: 1 with the given chance, else 0."""
    return (np.random.default_rng(seed).random((items, 1)) < chance).astype(np.float64)


def test_weights_are_draws_with_replacement() -> None:
    drawn = np.concatenate(list(weights(7, 500, seed=3)))
    assert drawn.shape == (500, 7)
    assert (drawn.sum(axis=1) == 7).all() and (drawn >= 0).all()
    # Each count is binomial (7, 1/7): mean 1, variance 6/7; 3500 of them put the mean's error below 0.07.
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)
    assert drawn.var() == pytest.approx(6 / 7, abs=0.1)
    assert (drawn == np.concatenate(list(weights(7, 500, seed=3)))).all()
    assert (drawn != np.concatenate(list(weights(7, 500, seed=4)))).any()


def test_blocks_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(weights(10, 25, seed=1)))
    monkeypatch.setattr(intervals, "_DRAWS_AT_ONCE", 100)
    blocks = list(weights(10, 25, seed=1))
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert (np.concatenate(blocks) == whole).all()
    assert [len(block) for block in weights(1000, 2, seed=1)] == [1, 1]


def test_equals_explicit_resampling(item) -> None:
    """Weighted sums of statistics = the metric of a table in which drawn groups stand as often as drawn."""
    draw = random.Random(5)
    words = ["a", "red", "cat", "sat", "on", "the", "mat"]
    table = [
        item(
            str(number),
            " ".join(draw.choices(words, k=draw.randint(0, 7))),
            [" ".join(draw.choices(words, k=6)) for _ in range(2)],
            group=f"picture {draw.randint(1, 4)}",
        )
        for number in range(12)
    ]
    metric = select(["bleu", "rouge_l", "token_f1"])
    groups = group_numbers(table)
    found = interval(metric, metric.statistics(table), groups, seed=9, resamples=40)
    values = []
    for row in np.concatenate(list(weights(len(set(groups)), 40, seed=9))):
        resampled = [one for one, group in zip(table, groups, strict=True) for _ in range(int(row[group]))]
        values.append(metric.value(metric.statistics(resampled)))
    low, high = np.quantile(np.array(values), (0.025, 0.975), axis=0)
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)
    assert found.value == pytest.approx(metric.value(metric.statistics(table)), abs=1e-12)
    assert found.groups == len(set(groups))


def test_agrees_with_the_normal_approximation() -> None:
    statistics = coins(2000, 0.3, seed=1)
    found = interval(MEAN, statistics, np.arange(2000), seed=0, resamples=2000)
    half = 1.96 * statistics.std() / np.sqrt(2000)
    # 2000 resamples put the error of a 2.5 % quantile near 5 % of the half width.
    assert found.low[0] == pytest.approx(statistics.mean() - half, abs=0.15 * half)
    assert found.high[0] == pytest.approx(statistics.mean() + half, abs=0.15 * half)


def test_covers_the_truth() -> None:
    """Of 95 % intervals over 200 tables some 190 hold the truth; fewer than 178 has a chance below 1e-4."""
    covered = 0
    for table in range(200):
        found = interval(MEAN, coins(100, 0.4, seed=table), np.arange(100), seed=table, resamples=300)
        covered += bool(found.low[0] <= 0.4 <= found.high[0])
    assert 178 <= covered <= 200


def test_few_groups_give_wider_intervals() -> None:
    """Ten equal items a group hold the information of one: the interval is √10 times as wide."""
    once = coins(60, 0.5, seed=2)
    statistics = np.repeat(once, 10, axis=0)
    single = interval(MEAN, statistics, np.arange(600), seed=0, resamples=1000)
    grouped = interval(MEAN, statistics, np.repeat(np.arange(60), 10), seed=0, resamples=1000)
    ratio = (grouped.high - grouped.low) / (single.high - single.low)
    assert ratio[0] == pytest.approx(np.sqrt(10), rel=0.2)
    assert (single.groups, grouped.groups) == (600, 60)
    assert grouped.value == single.value


def test_one_group_has_no_width() -> None:
    found = interval(MEAN, coins(10, 0.5, seed=1), np.zeros(10, dtype=np.int64), seed=0, resamples=50)
    assert found.low == found.value == found.high


def test_groups_are_numbered_by_name_and_default_to_ids(item) -> None:
    table = [item("9", "x", ["x"], group="b"), item("8", "x", ["x"]), item("7", "x", ["x"], group="b")]
    assert group_numbers(table).tolist() == [1, 0, 1]
    assert group_numbers(table[::-1]).tolist() == [1, 0, 1]


def test_pairing_narrows_the_difference() -> None:
    """Items that both find hard cancel: the paired interval is narrower than two single ones."""
    theirs = coins(300, 0.5, seed=1)
    ours = np.maximum(theirs, coins(300, 0.1, seed=2))
    groups = np.arange(300)
    paired = paired_interval(MEAN, ours, theirs, groups, seed=0, resamples=500)
    alone = interval(MEAN, ours, groups, seed=0, resamples=500)
    assert paired.value[0] == pytest.approx((ours - theirs).mean())
    assert 0 < paired.low[0] <= paired.value[0] <= paired.high[0]
    assert paired.high - paired.low < alone.high - alone.low
    same = paired_interval(MEAN, ours, ours, groups, seed=0, resamples=100)
    assert (same.low, same.value, same.high) == (0, 0, 0)
