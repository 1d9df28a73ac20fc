"""Where it computes, and with how many threads."""

from collections.abc import Iterator

import pytest
import torch

from finesight.runtime.device import choose_device
from finesight.runtime.environment import cores
from finesight.runtime.notices import Notices


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_each_worker_has_a_core_of_its_own() -> None:
    torch.set_num_threads(cores())
    choose_device("cpu", Notices(), workers=1)
    assert torch.get_num_threads() == max(1, cores() - 1)
    choose_device("cpu", Notices(), workers=1)  # again, in the same process
    assert torch.get_num_threads() == max(1, cores() - 1)
    choose_device("cpu", Notices(), workers=10_000)
    assert torch.get_num_threads() == 1


def test_a_recipe_that_names_threads_gets_them() -> None:
    choose_device("cpu", Notices(), threads=2, workers=10_000)
    assert torch.get_num_threads() == 2


def test_fewer_threads_that_were_set_before_stay() -> None:
    torch.set_num_threads(1)
    choose_device("cpu", Notices())
    assert torch.get_num_threads() == 1
