"""Files that are whole or not there: written under a temporary name, flushed to the disk, then renamed."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finesight.core.errors import RunError

TEMPORARY = ".partial"
"""Ending of names that are being written; what a killed process left under such a name is never read."""


_FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: Path, needed: int | None = None) -> RunError:
    """The error of a disk that has no room at `path`; sizes in bytes."""
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    wanted = f"{needed:,} bytes are needed, " if needed is not None else ""
    return RunError(
        f"the disk is full: {wanted}{free:,} bytes are free",
        str(path),
        "free some space, or choose another place by `run.dir`; what was saved before is whole",
    )


@contextlib.contextmanager
def told_when_full(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's error of a full disk into one that says where and how much."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors wraps the system's error in words: "… (os error 28)"
        full = (
            error.errno in _FULL
            if isinstance(error, OSError)
            else any(f"(os error {n})" in str(error) for n in _FULL)
        )
        if not full:
            raise
        raise disk_full(path, needed) from error


def sync_directory(path: Path) -> None:
    """Make renames in `path` last through a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush what was written to a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    with told_when_full(path, len(data)):
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file or none; a number that is not finite becomes null, which JSON knows."""
    write_text(path, to_json(value, indent=1) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: no NaN, no Infinity."""
    return json.dumps(_finite(value), ensure_ascii=False, indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a whole CSV file with a header, or none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def append_line(path: Path, line: str) -> None:
    """Add one line to a log that is read line by line; a killed process may leave its last line unfinished."""
    with told_when_full(path), open(path, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")
