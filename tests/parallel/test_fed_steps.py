"""Two processes whose steps are fed from the model's own predictions, or whose loss is made in chunks, are one."""

from typing import Any

import fed_steps
import pytest
import torch
from worlds import together

from finesight.runtime.distributed import ALONE


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return together(tmp_path_factory.mktemp("fed"), 2, fed_steps.fed_steps)


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """One process, its loss as a whole."""
    return fed_steps.learned("ddp plain", ALONE)


@pytest.mark.parametrize("case", fed_steps.CASES)
def test_two_processes_are_one(found: list[dict[str, Any]], plain: dict[str, Any], case: str) -> None:
    how = case.split()[1]
    alone = plain if how == "chunked" else fed_steps.learned("ddp fed", ALONE)
    assert (how == "chunked") == (alone["told"] == plain["told"])
    for process in found:
        ours = process[case]
        for one, other in zip(ours["told"], alone["told"], strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        for name, value in alone["values"].items():
            off = torch.tensor(ours["values"][name]) - torch.tensor(value)
            assert float(off.abs().max()) <= 1e-5, name
    assert found[0][case] == found[1][case]
