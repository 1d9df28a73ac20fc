import math

import pytest

from finesight.training.schedule import Schedule, warmup_steps


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
    assert warmup_steps(warmup, steps) == expected


def test_a_warmup_longer_than_the_run_never_ends() -> None:
    schedule = Schedule(1.0, 5, 10, "cosine")
    assert [schedule.rate(step) for step in (1, 5)] == [0.1, 0.5]
    assert Schedule(1.0, 5, 5, "linear").rate(5) == 1.0
