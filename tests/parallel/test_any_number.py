"""Any number of processes: the same steps in three and four, the same answers and scores in one, two and three."""

from pathlib import Path
from typing import Any

import evaluations
import pytest
import steps
import torch
from tiny_runs import tiny_mapping, write_pictures
from worlds import together

from finesight.runtime.distributed import ALONE

SIZES = (4, 7)


@pytest.fixture(scope="module")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("many")
    found = tiny_mapping(write_pictures(folder / "rows.csv", pairs=101), folder / "run")
    del found["data"]["transforms"], found["data"]["val"]
    return found


@pytest.fixture(scope="module")
def found(mapping: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    three = together(tmp_path_factory.mktemp("three"), 3, evaluations.three, mapping, SIZES)
    two = together(tmp_path_factory.mktemp("two"), 2, evaluations.evaluations, mapping, SIZES)
    return {
        1: [evaluations.evaluations(ALONE, mapping, SIZES)],
        2: two,
        3: [process["evaluations"] for process in three],
        33: [process["replicas"] for process in three],
    }


def test_answers_and_scores_of_any_number_are_equal(found: dict[int, list[Any]]) -> None:
    """T16: 101 items in batches of 4 and 7; each once; equal to the bit."""
    for size in map(str, SIZES):
        (whole,) = found[1]
        assert len({name for name, _ in whole[size]["answers"]}) == len(whole[size]["answers"]) == 101
        for number in (2, 3):
            first, *others = found[number]
            assert first[size] == whole[size]
            for other in others:
                assert other[size] == whole[size] | {"answers": []}
    assert all(process["kept"] for number in (1, 2, 3) for process in found[number])
    assert found[1][0]["4"]["loss"] == pytest.approx(found[1][0]["7"]["loss"], abs=1e-6)
    assert found[1][0]["4"]["scores"] == found[1][0]["7"]["scores"]


def test_three_and_four_processes_step_as_one(found: dict[int, list[Any]], tmp_path: Path) -> None:
    model = steps.Seeing().double()
    told = steps.run(model, None, ALONE, "mixed", torch.float64)
    four = together(tmp_path, 4, evaluations.replicas)
    for process in [*found[33], *four]:
        for one, other in zip(process["told"], told, strict=True):
            assert one == pytest.approx(other, abs=1e-10)
        for name, value in steps.values(model).items():
            assert torch.tensor(process["values"][name]).sub(torch.tensor(value)).abs().max() <= 1e-12
