"""Checkpoints that are whole or not there: rotation, damage, full disks, leftovers."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tiny_runs import tiny_recipe

from finesight.core.errors import RunError
from finesight.runtime import files
from finesight.runtime.notices import Notices
from finesight.training import checkpoint as module
from finesight.training.checkpoint import Checkpoint, Checkpoints, bytes_needed, load_checkpoint
from finesight.training.stopping import Best


def _checkpoint(step: int, size: int = 10) -> Checkpoint:
    values = torch.arange(size, dtype=torch.float32) + step
    tensors = {
        "model": {"a": values, "b": (values + 1).view(-1, 2).t()},
        "optimizer": {"a/exp_avg": values * 2},
    }
    return Checkpoint(step, tensors, {"loop": {"evaluated": step}})


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", Notices())


def _steps(tmp_path: Path) -> list[int]:
    return sorted(
        int(path.name[5:]) for path in (tmp_path / "checkpoints").glob("step-*") if path.name[5:].isdigit()
    )


def test_what_is_read_is_what_was_saved(store: Checkpoints, tmp_path: Path) -> None:
    store.save(_checkpoint(3), best=True)
    read, wrote = load_checkpoint(tmp_path / "checkpoints" / "step-3"), _checkpoint(3)
    assert (read.step, dict(read.state)) == (3, dict(wrote.state))
    for group, tensors in wrote.tensors.items():
        assert tensors.keys() == read.tensors[group].keys()
        assert all(torch.equal(value, read.tensors[group][name]) for name, value in tensors.items())
    manifest = json.loads((tmp_path / "checkpoints" / "step-3" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["files"].keys() == {"model.safetensors", "optimizer.safetensors", "state.json"}


def test_no_tensors_at_all(store: Checkpoints, tmp_path: Path) -> None:
    store.save(Checkpoint(0, {"model": {"a": torch.ones(1)}, "optimizer": {}}, {}), best=False)
    assert load_checkpoint(tmp_path / "checkpoints" / "step-0").tensors["optimizer"] == {}


@pytest.mark.proof
@pytest.mark.parametrize(
    ("values", "best", "kept"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 1, [1, 4, 5]),  # the best is the oldest
        ([5.0, 4.0, 3.0, 2.0, 1.0], 5, [4, 5]),
        ([3.0, float("nan"), 2.0, float("nan"), float("nan")], 3, [3, 4, 5]),
        ([float("nan")] * 5, None, [4, 5]),
        ([2.0, 2.0, 2.0, 2.0, 2.0], 1, [1, 4, 5]),  # an equal one does not replace it
        ([3.0, 1.0, 2.0, 1.0, 4.0], 2, [2, 4, 5]),
    ],
)
def test_rotation_keeps_the_newest_two_and_the_best(
    values: list[float], best: int | None, kept: list[int], store: Checkpoints, tmp_path: Path
) -> None:
    state = Best()
    for step, value in enumerate(values, 1):
        store.save(_checkpoint(step), best=state.update("val_loss", value, step))
        assert store.named("last") == f"step-{step}"
    assert _steps(tmp_path) == kept
    assert store.named("best") == (f"step-{best}" if best else None)
    newest = store.newest()
    assert newest is not None
    assert newest.name == "step-5"
    assert store.best_or_last().name == f"step-{best or 5}"


def test_what_a_run_was_continued_from_stays(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path / "checkpoints", Notices(), keep=1)
    for step in (1, 2):
        first.save(_checkpoint(step), best=False)
    assert _steps(tmp_path) == [2]
    resumed = Checkpoints(tmp_path / "checkpoints", Notices(), keep=1)
    assert resumed.newest() is not None
    for step in (3, 4):
        resumed.save(_checkpoint(step), best=False)
    assert _steps(tmp_path) == [2, 4]
    again = Checkpoints(tmp_path / "checkpoints", Notices(), keep=1)
    assert again.newest() is not None
    again.save(_checkpoint(5), best=False)
    assert _steps(tmp_path) == [4, 5]


def test_a_saved_step_is_not_written_again(store: Checkpoints, tmp_path: Path) -> None:
    store.save(_checkpoint(1), best=False)
    file = tmp_path / "checkpoints" / "step-1" / "state.json"
    before = file.stat().st_mtime_ns
    store.save(_checkpoint(1), best=True)
    assert file.stat().st_mtime_ns == before
    assert store.named("best") == "step-1"


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.proof
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_damage_is_noticed_by_name_and_the_one_before_is_used(
    name: str, damage: str, store: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        store.save(_checkpoint(step), best=False)
    file = tmp_path / "checkpoints" / "step-2" / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        at = data.index(b"sha256") + 12 if name == "manifest.json" else len(data) - 3
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(RunError, match="not whole"):
        load_checkpoint(file.parent)
    newest = store.newest()
    assert newest is not None
    assert newest.name == "step-1"
    assert "step-2 is not used" in caplog.text
    assert "manifest" in caplog.text or name in caplog.text or damage == "flipped"
    # the continued run comes to step 2 again, and finds its place free
    store.save(_checkpoint(2), best=True)
    assert store.newest() == tmp_path / "checkpoints" / "step-2"
    assert load_checkpoint(store.best_or_last()).step == 2


def test_nothing_is_whole(store: Checkpoints, tmp_path: Path) -> None:
    assert store.newest() is None
    store.save(_checkpoint(1), best=False)
    (tmp_path / "checkpoints" / "step-1" / "manifest.json").unlink()
    with pytest.raises(RunError, match="no checkpoint is whole"):
        store.best_or_last()
    assert store.newest() is None


def test_a_damaged_best_is_told_and_the_last_taken(
    store: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(_checkpoint(1), best=True)
    store.save(_checkpoint(2), best=False)
    (tmp_path / "checkpoints" / "step-1" / "model.safetensors").write_bytes(b"")
    assert store.best_or_last().name == "step-2"
    assert "best checkpoint" in caplog.text


def test_a_file_that_the_manifest_does_not_name_is_not_read(store: Checkpoints, tmp_path: Path) -> None:
    store.save(_checkpoint(1), best=False)
    folder = tmp_path / "checkpoints" / "step-1"
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    assert load_checkpoint(folder).tensors.keys() == {"model", "optimizer"}


def test_a_newer_format_is_not_guessed_at(store: Checkpoints, tmp_path: Path) -> None:
    store.save(_checkpoint(1), best=False)
    manifest = tmp_path / "checkpoints" / "step-1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    for read in (lambda: load_checkpoint(manifest.parent), store.newest, store.best_or_last):
        with pytest.raises(RunError, match=r"this is format 99 of `checkpoint`[^$]*newer finesight: update"):
            read()
    assert manifest.is_file(), "it is not damaged, and not set aside as if it were"


def test_leftovers_of_a_killed_save_are_cleaned(store: Checkpoints, tmp_path: Path) -> None:
    store.save(_checkpoint(1), best=False)
    left = tmp_path / "checkpoints" / "step-2.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoints" / "last.partial").write_text("st")
    assert store.newest() == tmp_path / "checkpoints" / "step-1"
    store.save(_checkpoint(2), best=False)  # even where nobody cleaned
    left.mkdir()
    store.clean()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last", "step-1", "step-2"]


def test_a_step_zero_is_never_the_best_by_default(store: Checkpoints) -> None:
    store.save(_checkpoint(0), best=False)
    store.point("best", None)
    assert store.named("best") is None
    store.point("best", 0)
    assert store.named("best") == "step-0"
    store.point("best", 7)
    assert store.named("best") is None


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_seen_before_anything_is_written(
    store: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(_checkpoint(1), best=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 1234))
    with pytest.raises(RunError) as caught:
        store.save(_checkpoint(2), best=False)
    told = str(caught.value)
    assert f"{bytes_needed(_checkpoint(2).tensors):,} bytes are needed" in told
    assert "1,234 bytes are free" in told
    assert _steps(tmp_path) == [1]
    assert load_checkpoint(tmp_path / "checkpoints" / "step-1").step == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("place", ["save_file", "write_json"])
def test_a_disk_that_fills_up_while_saving(
    error: Exception, place: str, store: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(_checkpoint(1), best=False)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, place, fail)
        with pytest.raises(RunError, match=r"the disk is full: .* bytes are needed, .* bytes are free"):
            store.save(_checkpoint(2), best=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last", "step-1"]
    assert store.named("last") == "step-1"
    assert load_checkpoint(store.best_or_last()).step == 1


def test_another_error_while_saving_stays_what_it_is(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "save_file", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(PermissionError):
        store.save(_checkpoint(2), best=True)


def test_the_disk_is_checked_before_the_first_step(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finesight.workflows.train import train

    asked: list[int] = []
    plain = Checkpoints.check_space
    monkeypatch.setattr(
        Checkpoints, "check_space", lambda self, needed: (asked.append(needed), plain(self, needed))
    )
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(10**9, 0, 2_000_000))
    with pytest.raises(RunError, match="the disk is full"):
        train(tiny_recipe(tiny_data, tmp_path / "run"))
    assert len(asked) == 1
    assert not (tmp_path / "run" / "checkpoints" / "last").exists()
    # weights, and twice as much for the two averages, for each of the checkpoints that are there at once
    parameters = json.loads((tmp_path / "run" / "environment.json").read_text())["parameters"]
    values = sum(part["total"] for part in parameters.values())
    assert asked[0] >= 4 * values * (1 + 3 * 3)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small file system")
def test_a_small_disk(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = Checkpoints(folder / "checkpoints", Notices())
        store.save(_checkpoint(1, 50_000), best=True)  # 600 kB
        (folder / "ballast").write_bytes(b"x" * 2_000_000)
        for free_check in (True, False):
            if not free_check:  # somebody else fills the disk after it was looked at
                store.check_space = lambda needed: None  # type: ignore[method-assign]
            with pytest.raises(
                RunError, match=r"the disk is full: [\d,]+ bytes are needed, [\d,]+ bytes are free"
            ):
                store.save(_checkpoint(2, 50_000), best=True)
            assert load_checkpoint(store.best_or_last()).step == 1
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best", "last", "step-1"]
        with pytest.raises(RunError, match="the disk is full"):
            files.write_text(folder / "large", "x" * 2_000_000)
        assert not list(folder.glob("large*"))
        (folder / "ballast").unlink()
        del store.check_space
        store.save(_checkpoint(2, 50_000), best=True)
        assert store.best_or_last().name == "step-2"
    finally:
        subprocess.run(["umount", str(folder)], check=True)
