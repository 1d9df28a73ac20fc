"""Finer phases of a step, memory by part and energy, as the report has them; tables of before stay as they were."""

from typing import Any

import pytest

from finesight.reports import costs, phases, words

OLD = {"step": 1.0, "data": 0.1, "forward": 0.4, "backward": 0.3, "optimizer": 0.1, "total": 0.95}
NEW = {
    **OLD,
    "inputs": 0.05,
    "vision": 0.1,
    "language_model": 0.2,
    "head": 0.05,
    "audio": None,
    "communication": None,
}


def test_a_step_without_finer_columns_has_its_four_phases() -> None:
    assert phases.shown([OLD]) == ["data", "forward", "backward", "optimizer"]
    assert {phase: value for phase, value in phases.split(OLD).items() if value} == {
        name: OLD[name] for name in ("data", "forward", "backward", "optimizer")
    }


def test_parts_stand_in_place_of_the_forward_pass() -> None:
    assert phases.shown([NEW]) == [
        "data",
        "inputs",
        "vision",
        "language_model",
        "head",
        "backward",
        "optimizer",
    ]
    assert sum(phases.split(NEW).values()) == pytest.approx(0.9)
    assert phases.split({**NEW, "head": None})["forward"] == pytest.approx(0.05), "what is told of no part"


def test_a_run_of_both_has_both() -> None:
    whole = phases.totals([OLD, NEW])
    assert (whole["forward"], whole["vision"], whole["data"]) == pytest.approx((0.4, 0.1, 0.2))
    assert phases.shown([OLD, NEW])[1:6] == ["inputs", "vision", "language_model", "head", "forward"]
    assert phases.shown([]) == phases.shown([OLD])


MEMORY = {
    "weights": {"vision_tower": 1000, "adapter": 500},
    "activations": {"head": 2_000_000},
    "logits": 4000,
}


def test_memory_by_part_prefers_what_was_measured() -> None:
    measured = {"weights": {"vision_tower": 3000, "adapter": 500}}
    head, rows, told = costs.memory_table({"predicted": {"memory": MEMORY}, "measured": {"memory": measured}})
    plain = [(part, [size.replace(words.SPACE, " ") for size in sizes]) for part, sizes in rows]
    assert head == ["weights", "activations"]
    assert plain == [
        ("vision tower", ["3 kB", "–"]),
        ("adapter", ["500 B", "–"]),
        ("head and loss", ["–", "2 MB"]),
        ("in all", ["3.50 kB", "2 MB"]),
    ]
    assert told.replace(words.SPACE, " ") == "The logits of a micro-batch are 4 kB."


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"predicted": None},
        {"predicted": {"memory": 3}},
        {"predicted": {"memory": {"weights": [1], "logits": "x"}}},
    ],
)
def test_a_plan_without_memory_has_no_table(plan: Any) -> None:
    assert costs.memory_table(plan) == ([], [], "")


@pytest.mark.parametrize(
    ("joules", "text"), [(0.5, "0.500 J"), (250, "250 J"), (7200, "2 Wh"), (9e6, "2.50 kWh")]
)
def test_energy(joules: float, text: str) -> None:
    assert words.energy(joules).replace(words.SPACE, " ") == text


def test_operations() -> None:
    assert [costs.flops(value) for value in (3e5, 2.5e9, 9.89e14)] == [
        "300,000 FLOP",
        "2.50 GFLOP",
        "989 TFLOP",
    ]
