"""Checkpoints of a sliced model: torch's distributed checkpoints (DCP), with an index in JSON in place of its pickle.

Each process writes its own slices to `__<process>_<number>.distcp`; `slices.json` tells where the chunks of each tensor
are. What is read is tensors alone: no pickle but those of plain tensors is opened (`weights_only`).
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load

from finesight.core.errors import RunError
from finesight.runtime.files import told_when_full, write_json
from finesight.training.copies import copied, wait_for_copies

INDEX = "slices.json"

Groups = Mapping[str, Mapping[str, Tensor]]


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the index says, as torch wants it."""
        about: dict[str, Any] = {}
        stored: dict[MetadataIndex, _StorageInfo] = {}
        index = json.loads((Path(self.path) / INDEX).read_text(encoding="utf-8"))
        for key, tensor in index.items():
            chunks = []
            for number, chunk in enumerate(tensor["chunks"]):
                offsets, sizes = torch.Size(chunk["offsets"]), torch.Size(chunk["sizes"])
                chunks.append(ChunkStorageMetadata(offsets, sizes))
                name = Path(chunk["file"]).name  # beside the index, and nowhere else
                stored[MetadataIndex(key, offsets, number)] = _StorageInfo(name, chunk["at"], chunk["bytes"])
            kind = TensorProperties(dtype=getattr(torch, tensor["dtype"]))
            about[key] = TensorStorageMetadata(kind, torch.Size(tensor["shape"]), chunks)
        return Metadata(about, storage_data=stored)


class Slices:
    """What this process writes of a checkpoint in slices; in process 0 also how the slices of all belong together."""

    def __init__(self, plan: SavePlan, values: Any, about: Metadata | None) -> None:
        self._plan, self._values, self._about = plan, values, about

    def write(self, folder: Path) -> list[dict[str, Any]]:
        """Write them, flushed to the disk, without the other processes; gives where each chunk is, as JSON.

        Raises RunError where that fails.
        """
        try:
            with told_when_full(folder):
                found = FileSystemWriter(folder).write_data(self._plan, self._values).value()
        except (OSError, RuntimeError) as error:
            raise RunError(
                f"slices could not be written: {type(error).__name__}: {error}",
                str(folder),
                "look at the disk; what was saved before is whole",
            ) from error
        return [
            {
                "key": one.index.fqn,
                "offsets": list(one.index.offset or ()),
                "file": one.storage_data.relative_path,
            }
            | {"at": one.storage_data.offset, "bytes": one.storage_data.length}
            for one in found
        ]

    def index(self, folder: Path, written: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Called in process 0 once all have `written`."""
        assert self._about is not None  # process 0 knows
        stored = {(one["key"], tuple(one["offsets"])): one for some in written for one in some}
        tensors: dict[str, Any] = {}
        for key, about in self._about.state_dict_metadata.items():
            assert isinstance(about, TensorStorageMetadata)  # nothing else is saved
            chunks = []
            for chunk in about.chunks:
                place = stored.get((key, tuple(chunk.offsets))) or stored[key, ()]
                where = {name: place[name] for name in ("file", "at", "bytes")}
                chunks.append({"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), **where})
            kind = str(about.properties.dtype).removeprefix("torch.")
            tensors[key] = {"dtype": kind, "shape": list(about.size), "chunks": chunks}
        write_json(folder / INDEX, tensors)


class _Copies:
    """The values that this process writes, as they were when this was made; stands in for a planner of torch."""

    def __init__(self, plan: SavePlan, planner: DefaultSavePlanner) -> None:
        self._values: dict[MetadataIndex, Tensor] = {}
        for item in plan.items:
            value = planner.resolve_data(item)
            assert isinstance(value, Tensor)  # nothing else is saved
            self._values[item.index] = copied(value)
        wait_for_copies()

    def resolve_data(self, item: WriteItem) -> Tensor:
        """The values of one chunk."""
        return self._values[item.index]


def plan_slices(groups: Groups, copy: bool = False) -> Slices:
    """Agree on who writes what; all processes call it. The values are those of the writing, or, as a `copy`, those of
    this call."""
    flat = {
        f"{group}/{name}": value.detach()
        for group, tensors in groups.items()
        for name, value in tensors.items()
    }
    first, size = dist.get_rank() == 0, dist.get_world_size()
    planner = DefaultSavePlanner(flatten_state_dict=False)
    planner.set_up_planner(flat, is_coordinator=first)
    of_all: list[Any] | None = [None] * size if first else None
    dist.gather_object(planner.create_local_plan(), of_all)
    plans: list[Any] | None = None
    about: Metadata | None = None
    if of_all is not None:
        plans, about = planner.create_global_plan(of_all)
        plans = FileSystemWriter("").prepare_global_plan(plans)  # which gives their files names
    own: list[Any] = [None]
    dist.scatter_object_list(own, plans)
    plan = planner.finish_plan(own[0])
    return Slices(plan, _Copies(plan, planner) if copy else planner, about)


Room = Callable[[str, str, torch.Size, torch.dtype], Tensor]
"""Gives the tensor that the values of a group's tensor of this name, shape and dtype are read into."""


def _anywhere(group: str, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def read_slices(folder: Path, room: Room = _anywhere) -> dict[str, dict[str, Tensor]]:
    """The tensors of a folder, in groups; the folder was found whole before. They are whole, unless `room` is made of
    slices: then each process reads its own alone.

    Raises RunError where it cannot be read.
    """
    reader = _Reader(folder)
    flat: dict[str, Any] = {}
    for key, about in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        group, _, name = key.partition("/")
        flat[key] = room(group, name, about.size, about.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is asked to be
        try:
            load(flat, storage_reader=reader, no_dist=True)
        except CheckpointException as error:
            why, _ = next(iter(error.failures.values()))
            first = str(why).splitlines()[0] if str(why) else ""
            raise RunError(
                f"its slices cannot be read: {type(why).__name__}: {first}",
                str(folder),
                "use another checkpoint",
            ) from error
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    return groups
