"""Two processes that step together do what one does: DDP and FSDP2, rows with and without pictures, epoch tails."""

import json
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import steps
import torch
from worlds import together

from finesight.core.errors import RunError
from finesight.runtime.distributed import ALONE
from finesight.training.slices import read_slices


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("steps")
    return together(folder, 2, steps.steps, str(folder))


def distance(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    assert list(ours) == list(theirs)
    return max(
        float((torch.tensor(ours[name]).double() - torch.tensor(theirs[name]).double()).abs().max())
        for name in ours
    )


@pytest.mark.parametrize(("strategy", "kind", "name"), steps.CASES)
def test_two_processes_are_one(found: list[dict[str, Any]], strategy: str, kind: str, name: str) -> None:
    """30 AdamW steps with clipping and decay, unlike tokens, samples and pictures per process, some with none."""
    dtype = getattr(torch, name)
    model = steps.Seeing().to(dtype)
    told = steps.run(model, None, ALONE, kind, dtype)
    # RELIABILITY's measured 2.4e-7 and 2.9e-15; a step that no process reaches a tower in must not decay it either
    bound = 1e-5 if name == "float32" else 1e-12
    for process in found:
        case = process[f"{strategy} {kind} {name}"]
        assert distance(case["values"], steps.values(model)) <= bound
        for ours, theirs in zip(case["told"], told, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5 if name == "float32" else 1e-10)
    assert found[0][f"{strategy} {kind} {name}"] == found[1][f"{strategy} {kind} {name}"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_loss_that_is_no_number_on_one_process_stops_both(
    found: list[dict[str, Any]], strategy: str
) -> None:
    for process in found:
        case = process[f"nan {strategy}"]
        assert "nan: no step can be made of it" in case["said"] and "step 3, samples s0, s1" in case["said"]
        assert case["same"]
        expected = steps.summed(steps.Seeing())
        assert all(math.isclose(value, expected, abs_tol=1e-5) for value in case["sums"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gradients_are_audited_as_in_one_process(found: list[dict[str, Any]], strategy: str) -> None:
    """Pictures are in the second step, on process 1 alone; `unseen` is reached by nothing, and told once."""
    alone = steps.audited(ALONE, strategy)
    assert [row["step"] for row in alone["groups"] if row["learns"]] == [2, 2]
    assert alone["told"] == [
        "no gradient reached 1 of the 10 tensors of the language model, which are to learn: unseen"
    ]
    learned = math.hypot(*(row["norm"] for row in alone["groups"]))
    assert learned == pytest.approx(alone["norms"][1], rel=1e-6)
    for process in found:
        case = process[f"audit {strategy}"]
        assert case["norms"] == pytest.approx(alone["norms"], abs=1e-5)
        for ours, theirs in zip(case["groups"], alone["groups"], strict=True):
            assert ours["norm"] == pytest.approx(theirs["norm"], abs=1e-5)
            assert {**ours, "norm": 0} == {**theirs, "norm": 0}
        assert (case["told"], case["waiting"], case["zero"]) == (alone["told"], [], {})


def test_slices_are_the_whole(found: list[dict[str, Any]]) -> None:
    for process in found:
        case = process["slices"]
        assert case["equal"] and all(case["names"].values())
        assert case["files"] == ["__0_0.distcp", "__1_0.distcp", "slices.json"]


class Hostile:
    """What runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(os.environ["FINESIGHT_TRAP"]),))


def test_no_pickle_is_opened(
    found: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H3: neither a `.metadata` beside the slices nor a slice that is a pickle runs what it holds."""
    folder = shutil.copytree(found[0]["slices"]["folder"], tmp_path / "slices")
    trap = tmp_path / "sprung"
    monkeypatch.setenv("FINESIGHT_TRAP", str(trap))
    pickle.loads(pickle.dumps(Hostile()))
    assert trap.exists()  # it works
    trap.unlink()
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile()))
    assert read_slices(folder)["model"]
    torch.save(Hostile(), folder / "__1_0.distcp")
    index = json.loads((folder / "slices.json").read_text(encoding="utf-8"))
    for tensor in index.values():
        for chunk in tensor["chunks"]:
            if chunk["file"].startswith("__1"):
                chunk |= {"at": 0, "bytes": (folder / "__1_0.distcp").stat().st_size}
    (folder / "slices.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(RunError, match="its slices cannot be read: UnpicklingError"):
        read_slices(folder)
    assert not trap.exists()
