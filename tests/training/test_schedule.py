import math

import pytest

from finesight.config.train import Train
from finesight.training.schedule import Schedule, part_of_steps, schedule_of


def test_warmup_rises_to_the_peak_and_cosine_falls_to_the_floor() -> None:
    schedule = Schedule(2e-3, 100, 10, "cosine", 0.1)
    assert schedule.rate(1) == pytest.approx(2e-4, rel=1e-12)
    assert schedule.rate(10) == 2e-3
    for step in range(11, 101):
        share = (step - 10) / 90
        expected = 2e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
        assert schedule.rate(step) == pytest.approx(expected, rel=1e-12)
    assert schedule.rate(100) == pytest.approx(2e-4, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "middle", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)]
)
def test_kinds(kind: str, middle: float, end: float) -> None:
    schedule = Schedule(1.0, 40, 0, kind)
    assert schedule.rate(20) == pytest.approx(middle, abs=1e-12)
    assert schedule.rate(40) == pytest.approx(end, abs=1e-12)


def test_rate_depends_on_nothing_but_the_step() -> None:
    once, again = Schedule(1e-3, 50, 5, "cosine"), Schedule(1e-3, 50, 5, "cosine")
    forwards = [once.rate(step) for step in range(1, 51)]
    assert [again.rate(step) for step in range(50, 0, -1)][::-1] == forwards


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"), [(0.03, 100, 3), (0.03, 101, 4), (0.0, 9, 0), (0, 9, 0), (7, 9, 7)]
)
def test_warmup_is_a_share_or_a_number_of_steps(warmup: float, steps: int, expected: int) -> None:
    assert part_of_steps(warmup, steps) == expected


def test_a_warmup_longer_than_the_run_never_ends() -> None:
    schedule = Schedule(1.0, 5, 10, "cosine")
    assert [schedule.rate(step) for step in (1, 5)] == [0.1, 0.5]
    assert Schedule(1.0, 5, 5, "linear").rate(5) == 1.0


def test_the_power_of_what_is_left() -> None:
    schedule = Schedule(3.0, 110, 10, "polynomial", 0.1, power=2.0)
    for step in range(11, 111):
        assert schedule.rate(step) == pytest.approx(3 * (0.1 + 0.9 * (1 - (step - 10) / 100) ** 2), rel=1e-12)


def test_one_over_the_root_does_not_depend_on_the_end() -> None:
    short, long = (Schedule(2.0, steps, 16, "inverse_sqrt") for steps in (100, 5000))
    for step in range(17, 101):
        assert short.rate(step) == long.rate(step) == pytest.approx(2 * math.sqrt(16 / step), rel=1e-12)
    assert Schedule(1.0, 9, 0, "inverse_sqrt").rate(4) == 0.5


def test_warmup_stable_decay() -> None:
    schedule = Schedule(1.0, 100, 10, "wsd", 0.1, decay=20)
    assert [schedule.rate(step) for step in (10, 11, 80)] == [1.0, 1.0, 1.0]
    for step in range(81, 101):
        assert schedule.rate(step) == pytest.approx(0.1 + 0.9 * (100 - step) / 20, rel=1e-12)
    assert Schedule(1.0, 10, 8, "wsd", decay=5).rate(9) == 0.5, "what warms up does not fall"


def test_the_schedule_of_a_recipe() -> None:
    train = Train(max_steps=50, lr=2.0, schedule="wsd", warmup=0.1, min_lr=0.5)
    assert schedule_of(train, 50) == Schedule(2.0, 50, 5, "wsd", 0.5, 2.0, 10)


@pytest.mark.parametrize(("key", "value"), [("power", 2.0), ("decay", 0.1)])
def test_a_key_of_another_schedule_is_told(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{key}` is of `schedule:"):
        Train(max_steps=1, **{key: value})
