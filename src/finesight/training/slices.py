"""Checkpoints of a sliced model: torch's distributed checkpoints (DCP), with an index in JSON in place of its pickle.

Each process writes its own slices to `__<process>_<number>.distcp`; `slices.json` tells where the chunks of each tensor
are. What is read is tensors alone: no pickle but those of plain tensors is opened (`weights_only`).
"""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from finesight.core.errors import RunError
from finesight.runtime.files import write_json

INDEX = "slices.json"

Groups = Mapping[str, Mapping[str, Tensor]]


class _Writer(FileSystemWriter):
    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Called in process 0 once all have written."""
        stored = {
            (found.index.fqn, tuple(found.index.offset or ())): found.storage_data
            for some in results
            for found in some
        }
        tensors: dict[str, Any] = {}
        for key, about in metadata.state_dict_metadata.items():
            assert isinstance(about, TensorStorageMetadata)  # nothing else is saved
            chunks = []
            for chunk in about.chunks:
                place = stored.get((key, tuple(chunk.offsets))) or stored[key, ()]
                where = {"file": place.relative_path, "at": place.offset, "bytes": place.length}
                chunks.append({"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), **where})
            kind = str(about.properties.dtype).removeprefix("torch.")
            tensors[key] = {"dtype": kind, "shape": list(about.size), "chunks": chunks}
        write_json(Path(self.path) / INDEX, tensors)


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


def write_slices(folder: Path, groups: Groups) -> None:
    """Write this process's slices; all processes call it. Raises RunError where one of them could not."""
    flat = {
        f"{group}/{name}": value.detach()
        for group, tensors in groups.items()
        for name, value in tensors.items()
    }
    try:
        save(flat, storage_writer=_Writer(folder))
    except CheckpointException as error:
        rank, (why, _) = sorted(error.failures.items())[0]
        raise RunError(
            f"process {rank} could not write its slices: {type(why).__name__}: {why}",
            str(folder),
            "look at the disk; what was saved before is whole",
        ) from error


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
