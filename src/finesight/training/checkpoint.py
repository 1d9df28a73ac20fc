"""Checkpoints that are whole or not there.

A checkpoint is a directory `step-N` below the run's `checkpoints/`. It is written under a temporary name, each file is
flushed to the disk, a manifest with their sha256 comes last, then one rename makes it visible; only then do `last` and
`best` move, and only then are older ones removed. A directory without a whole, matching manifest does not exist.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from finesight.core.errors import RunError
from finesight.core.formats import FORMATS, check_format
from finesight.runtime.files import (
    TEMPORARY,
    disk_full,
    sync_directory,
    sync_file,
    told_when_full,
    write_json,
    write_text,
)
from finesight.runtime.notices import Notices
from finesight.training.slices import INDEX, Room, read_slices

_MANIFEST = "manifest.json"
BESIDE = 3
"""Checkpoints that may be on the disk beside the newest ones: the best, the one that the run was continued from, and
the one that is written."""

_SPARE = 2**20
"""Bytes beside the tensors that a checkpoint may need."""

_STATE = "state.json"
_BROKEN = ".broken"
"""Ending of a damaged checkpoint's name, once it was found: it is set aside, for a person to look at."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run is continued from. `tensors` are named groups of named tensors (`model`, `optimizer`)."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_tensors(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    for group, named in tensors.items():
        file = folder / f"{group}.safetensors"
        save_file({key: value.contiguous() for key, value in named.items()}, file)
        sync_file(file)


def bytes_needed(tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Bytes of a checkpoint of these tensors on the disk."""
    return sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values()) + _SPARE


class Checkpoints:
    """The checkpoints of one run, below `folder`: the `keep` newest, the best, and the one it was continued from."""

    def __init__(self, folder: Path, notices: Notices, keep: int = 2) -> None:
        self._folder, self._notices, self._keep = folder, notices, keep
        self._source: str | None = None
        """Name of the one that the run was continued from: it stays as long as this process trains."""

    def clean(self) -> None:
        """Remove what a killed save left behind."""
        if self._folder.is_dir():
            for leftover in self._folder.glob(f"*{TEMPORARY}"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def check_space(self, needed: int) -> None:
        """Raise RunError where the disk has no room for so many bytes more."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free < needed:
            raise disk_full(self._folder, needed)

    def save(self, checkpoint: Checkpoint, best: bool, write: Callable[[Path], object] | None = None) -> None:
        """Write a checkpoint, point `last` (and `best`) to it, and remove those that neither names.

        A step that is saved already is not written again: its files are what they would be. `write` writes the tensors
        into a folder in its own way, such as in slices.
        """
        self.close(self.open(checkpoint), checkpoint, best, write)

    def open(self, checkpoint: Checkpoint) -> Path | None:
        """An empty folder under a temporary name for a checkpoint; None where its step is saved already.

        Raises RunError where the disk has no room for it.
        """
        name = f"step-{checkpoint.step}"
        if (self._folder / name).is_dir():
            return None
        self.check_space(bytes_needed(checkpoint.tensors))
        temporary = self._folder / (name + TEMPORARY)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        return temporary

    def close(
        self,
        folder: Path | None,
        checkpoint: Checkpoint,
        best: bool,
        write: Callable[[Path], object] | None = None,
    ) -> None:
        """Write a checkpoint into the folder that was opened for it, and give that its name; once all of this is on the
        disk, point to it and remove what neither `last` nor `best` names. May be called in another thread."""
        name = f"step-{checkpoint.step}"
        if folder is not None:
            self._write(
                folder, name, checkpoint, write or partial(_write_tensors, tensors=checkpoint.tensors)
            )
        write_text(self._folder / "last", name + "\n")
        if best:
            write_text(self._folder / "best", name + "\n")
        saved = self._saved()
        newest = (path.name for path in saved[: self._keep])
        kept = {self.named("last"), self.named("best"), self._source, *newest}
        for path in saved:
            if path.name not in kept:
                shutil.rmtree(path)

    def point(self, pointer: str, step: int | None) -> None:
        """Make `best` or `last` name the checkpoint of `step`, or nothing where there is none."""
        name = f"step-{step}"
        if step is not None and (self._folder / name).is_dir():
            write_text(self._folder / pointer, name + "\n")
        else:
            (self._folder / pointer).unlink(missing_ok=True)

    def best_or_last(self) -> Path:
        """The best checkpoint; the last where nothing was measured, or where the best is damaged, which is told."""
        for pointer in ("best", "last"):
            name = self.named(pointer)
            broken = _fault_of(self._folder / name) if name else None
            if name and broken is None:
                return self._folder / name
            if broken:
                self._notices.add(
                    "broken", f"the {pointer} checkpoint {self._folder / (name or '')} is not used: {broken}"
                )
        raise RunError("no checkpoint is whole", str(self._folder), "resume the run, or train it again")

    def _write(
        self, temporary: Path, name: str, checkpoint: Checkpoint, write: Callable[[Path], object]
    ) -> None:
        needed = bytes_needed(checkpoint.tensors)
        try:
            with told_when_full(self._folder, needed):
                write(temporary)
                write_json(temporary / _STATE, {"step": checkpoint.step, **checkpoint.state})
                written = sorted(temporary.iterdir())
                files = {
                    path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in written
                }
                manifest = {"format": FORMATS["checkpoint"], "step": checkpoint.step, "files": files}
                write_json(temporary / _MANIFEST, manifest)
                sync_directory(temporary)
                os.replace(temporary, self._folder / name)
                sync_directory(self._folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _saved(self) -> list[Path]:
        """Directories of checkpoints, whole or not, the newest first."""
        found = [path for path in self._folder.glob("step-*") if path.name[5:].isdigit()]
        return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)

    def named(self, pointer: str) -> str | None:
        """The name of the directory that `last` or `best` names."""
        path = self._folder / pointer
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def newest(self) -> Path | None:
        """The newest whole checkpoint, to continue the run from. Each broken one above it is told by name and set
        aside: the run, continued from below, will come to its step again."""
        for path in self._saved():
            broken = _fault_of(path)
            if broken is None:
                self._source = path.name
                return path
            aside = path.with_name(path.name + _BROKEN)
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
            self._notices.add("broken", f"checkpoint {path} is not used: {broken}; it is now {aside.name}")
        return None


def _fault_of(path: Path) -> str | None:
    """Why a checkpoint directory is not whole, or None where it is.

    Raises RunError for one of a newer finesight, which is not damaged: it is not to be set aside.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files, written = manifest["files"], manifest["format"]
        check_format("checkpoint", written, str(path / _MANIFEST), RunError)
        if _STATE not in files:
            return f"its manifest lacks {_STATE}"
        for name, facts in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {facts['bytes']}"
            if _sha256(file) != facts["sha256"]:
                return f"{name} is damaged (its sha256 differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return None


def load_checkpoint(path: Path, room: Room | None = None) -> Checkpoint:
    """Read a checkpoint directory; raises RunError where it is not whole. Slices are read into a given `room`."""
    broken = _fault_of(path)
    if broken is not None:
        raise RunError(f"the checkpoint is not whole: {broken}", str(path), "use another checkpoint")
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    names = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["files"]
    if INDEX in names:
        tensors = read_slices(path) if room is None else read_slices(path, room)
        return Checkpoint(int(state.pop("step")), tensors, state)
    tensors = {Path(name).stem: load_file(path / name) for name in names if name.endswith(".safetensors")}
    return Checkpoint(int(state.pop("step")), tensors, state)
