import json
import math

import pytest

from finesight.config.train import SCORES, Stop
from finesight.training.stopping import LOWER_IS_BETTER, Best, gain


def test_every_score_has_its_direction() -> None:
    names = [name for scores in SCORES.values() for name in scores]
    assert not LOWER_IS_BETTER & set(names), "of all that may decide, the loss alone is better when lower"
    assert gain("val_loss", 1.0, 2.0) > 0 > gain("val_loss", 2.0, 1.0)
    for name in names:
        assert gain(name, 2.0, 1.0) > 0 > gain(name, 1.0, 2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", ["val_loss", "cider"])
def test_no_number_never_wins(bad: float, measure: str) -> None:
    best = Best()
    assert not best.update(measure, bad, 10)
    assert best.value is None
    assert best.update(measure, 3.0, 20)
    assert not best.update(measure, bad, 30)
    assert (best.value, best.step, best.waited) == (3.0, 20, 1)


def test_an_equal_value_does_not_replace() -> None:
    best = Best()
    assert best.update("cider", 0.0, 5)
    assert not best.update("cider", 0.0, 10)
    assert best.step == 5


def test_less_than_the_threshold_is_kept_as_best_but_is_no_progress() -> None:
    best = Best()
    best.update("exact_match", 0.50, 10, threshold=0.05)
    assert best.update("exact_match", 0.52, 20, threshold=0.05)
    assert (best.value, best.waited) == (0.52, 1)
    # small gains add up: progress is measured from the last value that counted
    assert best.update("exact_match", 0.56, 30, threshold=0.05)
    assert (best.waited, best.progress) == (0, 0.56)


def test_patience_in_evaluations() -> None:
    best, stop = Best(), Stop(patience=2)
    values = [3.0, 2.0, 2.5, 2.4, 1.0]
    ended = []
    for number, value in enumerate(values, 1):
        best.update("val_loss", value, number * 10)
        ended.append(best.exhausted(stop, number * 10, 1000))
    assert ended == [False, False, False, True, False]
    assert not best.exhausted(None, 1000, 1000)


def test_patience_as_a_share_of_the_run() -> None:
    best, stop = Best(), Stop(patience=0.25)
    best.update("val_loss", 1.0, 10)
    assert not best.exhausted(stop, 34, 100)
    assert best.exhausted(stop, 35, 100)


def test_state_survives_json() -> None:
    best = Best()
    for step, value in enumerate([3.0, math.nan, 2.0, 2.0], 1):
        best.update("val_loss", value, step)
    assert Best(**json.loads(json.dumps(best.state()))) == best


def test_the_last_is_always_better() -> None:
    best = Best()
    assert [best.update("last", float(step), step) for step in (10, 20, 30)] == [True, True, True]
    assert best.step == 30
