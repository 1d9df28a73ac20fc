"""The loops that are compared learn the same; peers that are not there are left out, and told."""

from typing import Any

import pytest

from benchmarks import lacking, train_step
from benchmarks.loops import loop_of
from benchmarks.ticks import Finished
from benchmarks.train_step import PLANS, TOLERANCE, measure
from benchmarks.workloads import WORKLOADS, Sizes, frozen, small

HERE = [name for name in PLANS["small"].variants if name not in lacking.missing(PLANS["small"].variants)]


class Few:
    """Told of a few steps."""

    def __init__(self, steps: int) -> None:
        self.losses: list[float] = []
        self._steps = steps

    def step(self, loss: Any) -> None:
        self.losses.append(float(loss))
        if len(self.losses) == self._steps:
            raise Finished


def losses_of(loop: str, steps: int = 4) -> list[float]:
    told = Few(steps)
    with pytest.raises(Finished):
        loop_of(loop)(small(), told)  # type: ignore[arg-type]
    return told.losses


@pytest.fixture(scope="module")
def ours() -> list[float]:
    return losses_of("finesight")


@pytest.mark.filterwarnings(
    "ignore::FutureWarning"
)  # TRL tells `transformers` of checkpointing by its old name
@pytest.mark.parametrize("loop", [name for name in HERE if name != "finesight"])
def test_all_loops_learn_the_same(loop: str, ours: list[float]) -> None:
    assert losses_of(loop) == pytest.approx(ours, abs=TOLERANCE)
    assert ours[0] != ours[2]  # the same examples again, after an update


def test_the_frozen_stage_is_as_described() -> None:
    work = frozen()
    parameters = dict(work.model.named_parameters())
    assert sum(value.numel() for value in parameters.values()) == pytest.approx(23.5e6, rel=0.01)
    assert all(value.requires_grad != ("vision_tower" in name) for name, value in parameters.items())
    (example, *_), *_ = work.steps
    assert (len(example.tokens), example.supervised) == (196 + 64, 32)
    assert Sizes(56, 8, 192, 4).visual == 49


class Told:
    """A worker that only says so."""

    asked: list[tuple[str, int]]

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str]) -> None:
        self._name = arguments[-1]
        assert environment["OMP_NUM_THREADS"] == "1"

    def ask(self, amount: int) -> dict[str, Any]:
        cost = {"finesight": 1.0, "cached": 0.5, "bare": 0.99, "trainer": 2.5}[self._name]
        return {"cpu": cost * amount, "losses": [3.0] * amount, "peak_bytes": 2**20 * cost}

    def close(self) -> None: ...


def test_what_is_told_where_a_peer_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(package: str) -> Any:
        return None if package == "trl" else package

    monkeypatch.setattr("importlib.util.find_spec", found)
    monkeypatch.setattr(train_step, "Worker", Told)
    result, difference = measure("frozen", 3)
    assert difference == 0
    assert "`sft` is left out, since trl is not installed" in capsys.readouterr().err
    assert result.rounds.keys() == {"finesight", "cached", "bare", "trainer"}
    ratios = {name: values[0] for name, values in result.ratios().items()}
    assert ratios["trainer / finesight"] == 2.5
    assert ratios["trainer / finesight, features kept"] == 5.0
    assert ratios["finesight / bare"] == pytest.approx(1 / 0.99)
    assert result.facts["left out"] == "sft, sft_default"
    assert result.facts["peak of finesight ÷ trainer"] == pytest.approx(0.4)
    assert "sft" not in result.facts["wanted"] and "bare ≤ 1.03" in result.facts["wanted"]


def test_every_plan_has_its_workload() -> None:
    assert PLANS.keys() == WORKLOADS.keys()
