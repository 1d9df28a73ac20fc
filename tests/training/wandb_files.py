"""W&B's offline files read back: records of a LevelDB log, each a protobuf message of `wandb`'s own.

The file begins with `:W&B`, a magic number and a version (7 bytes); then come blocks of 32 KiB with records of a header
(crc32 of type and data, length, type) and data; a record may be cut into a first, middle and last piece.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, struct.Struct("<IHB")


def messages(path: Path) -> Iterator[Any]:
    """The messages of a file; those of a killed process end where it was killed."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, pieces = 7, b""
    while at + _HEADER.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER.size:
            at += left
            continue
        check, length, kind = _HEADER.unpack_from(data, at)
        piece = data[at + _HEADER.size : at + _HEADER.size + length]
        if len(piece) < length or kind == 0:
            return
        assert zlib.crc32(bytes([kind]) + piece) == check
        at += _HEADER.size + length
        pieces += piece
        if kind in (1, 4):  # whole, or the last one
            record = Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def history(path: Path) -> dict[int, dict[str, float]]:
    """Values by step; a step that is there twice is an error."""
    found: dict[int, dict[str, float]] = {}
    for record in messages(path):
        if record.WhichOneof("record_type") == "history":
            row = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            step = row["_step"]
            assert step not in found, f"step {step} is there twice"
            found[step] = {name: value for name, value in row.items() if not name.startswith("_")}
    return found


def run_of(path: Path) -> Any:
    """What the file says of the run itself."""
    return next(record.run for record in messages(path) if record.WhichOneof("record_type") == "run")


def summary(path: Path) -> dict[str, Any]:
    """The summary that was set."""
    found: dict[str, Any] = {}
    for record in messages(path):
        if record.WhichOneof("record_type") == "summary":
            found |= {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.summary.update
            }
    return found
