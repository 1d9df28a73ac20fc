"""The files of a source that may be several: a file, a folder, a pattern or a range, here or at an address.

Files stand in the order of their names. Bytes are read by place and never by a shared position, so that processes and
threads may read at once.
"""

import contextlib
import glob
import hashlib
import itertools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from xxhash import xxh3_128

from finesight.config.place import SHIPPED, is_address, resolve_path
from finesight.core.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILD = re.compile(r"[*?\[]")
_MOST_FILES = 100_000
_MOST_OPEN = 64
"""Local files that a process keeps open at once."""


@dataclass(frozen=True)
class Shard:
    """One file: its path or address, its size in bytes, and what changes when it is written anew."""

    name: str
    size: int
    stamp: str

    @property
    def identity(self) -> str:
        """Name, size and stamp as one text."""
        return f"{self.name} {self.size} {self.stamp}"


def find_shards(path: str, suffixes: Sequence[str]) -> list[Shard]:
    """The files that `path` names, in the order of their names; those of a folder by their `suffixes`.

    Raises DataError where a file is missing, or there is none.
    """
    if path.lower().startswith("pipe:"):
        raise DataError(
            "`pipe:` would run a program of the recipe's choice", path, "give the files themselves in `path`"
        )
    listed = [name for pattern in _expanded(path) for name in _matching(pattern, suffixes)]
    if len(listed) > _MOST_FILES:
        raise DataError(f"these are more than {_MOST_FILES:,} files", path, "write fewer and larger shards")
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        raise DataError(f"the file {twice} is named twice", path, "name each file once")
    return [_there(name) for name in listed]


def _expanded(path: str) -> list[str]:
    """The patterns that braces stand for: `{00..12}` numbers of equal width, `{a,b}` these words."""
    parts: list[list[str]] = []
    rest = 0
    count = 1
    for found in _BRACES.finditer(path):
        span = _RANGE.fullmatch(found[1])
        if span is None and "," not in found[1]:
            continue  # braces that stand for themselves
        if span is not None:
            first, last = int(span[1][:18]), int(span[2][:18])
            size = abs(last - first) + 1
        else:
            size = found[1].count(",") + 1
        count *= size
        if count > _MOST_FILES:
            raise DataError(
                f"the braces name more than {_MOST_FILES:,} files", path, "write fewer and larger shards"
            )
        parts += [[path[rest : found.start()]], _words(found[1], span)]
        rest = found.end()
    return ["".join(words) for words in itertools.product(*parts, [path[rest:]])]


def _words(inside: str, span: re.Match[str] | None) -> list[str]:
    if span is None:
        return inside.split(",")
    first, last = int(span[1]), int(span[2])
    width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _matching(pattern: str, suffixes: Sequence[str]) -> list[str]:
    if is_address(pattern):
        return _remote_matching(pattern, suffixes)
    if not pattern.startswith(SHIPPED) and _WILD.search(pattern) and not Path(pattern).expanduser().exists():
        place = str(Path(pattern).expanduser())
        every = sorted(name for name in glob.glob(place, recursive=True) if os.path.isfile(name))
        names = [name for name in every if _meant(name, pattern)]
        if not names:
            raise DataError(
                f"no file fits the pattern `{pattern}`",
                f"path, seen from {Path.cwd()}",
                "correct the pattern, or give the folder",
            )
        return names
    found = resolve_path(pattern)
    if found.is_dir():
        names = [item.name for item in os.scandir(found) if item.is_file() and _wanted(item.name, suffixes)]
        if not names:
            raise _none_in(str(found), suffixes)
        return [str(found / name) for name in sorted(names)]
    if not found.is_file():  # a pipe or a device would wait, or never end
        raise DataError("this is not a file", str(found), "give a file, a folder of files, or a pattern")
    return [str(found)]


def _remote_matching(pattern: str, suffixes: Sequence[str]) -> list[str]:
    files, path = _elsewhere(pattern)
    with _told(pattern):
        if _WILD.search(path):
            every = sorted(found for found in files.glob(path) if files.isfile(found))
            names: list[str] = [name for name in every if _meant(name, path)]
            if not names:
                raise DataError(f"no file fits the pattern `{pattern}`", pattern, "correct the pattern")
        elif files.isdir(path):
            every = files.ls(path, detail=True)
            names = sorted(
                item["name"]
                for item in every
                if item["type"] == "file" and _wanted(item["name"].rsplit("/", 1)[-1], suffixes)
            )
            if not names:
                raise _none_in(pattern, suffixes)
        elif files.isfile(path):
            names = [path]
        else:
            raise DataError(f"`{pattern}` does not exist", pattern, "correct `path` of this source")
        return [files.unstrip_protocol(name) for name in names]


def _meant(name: str, pattern: str) -> bool:
    """Whether a pattern means a file that it fits: not those of other programs (`_metadata`), unless it says so."""
    return not _last(name).startswith("_") or _last(pattern).startswith("_")


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _wanted(name: str, suffixes: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(suffixes)) and not name.startswith((".", "_"))


def _none_in(folder: str, suffixes: Sequence[str]) -> DataError:
    return DataError(
        f"no file in this folder ends in {' or '.join(suffixes)}",
        folder,
        f"give the files by a pattern, such as {folder.rstrip('/')}/**/*{suffixes[0]}",
    )


def _there(name: str) -> Shard:
    found = stat_shard(name)
    if found is None:
        raise DataError("the file went away while it was looked at", name, "begin again")
    return found


def stat_shard(name: str) -> Shard | None:
    """Size and stamp of a file; None where it is not there."""
    if not is_address(name):
        try:
            found = os.stat(name)
        except FileNotFoundError:
            return None
        return Shard(name, found.st_size, str(found.st_mtime_ns))
    files, path = _elsewhere(name)
    with _told(name):
        if not files.isfile(path):
            return None
        told = files.info(path)
    stamps = (told.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "updated", "created"))
    stamp = next((str(value) for value in stamps if value is not None), "")
    return Shard(name, int(told["size"] or 0), stamp)


def _elsewhere(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there."""
    import fsspec

    with _told(address):
        files, path = fsspec.core.url_to_fs(address)
    return files, path


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of far-away files as one that names the address."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # each kind of storage raises its own
        raise DataError(
            f"the address cannot be read ({type(error).__name__}: {error})",
            address,
            "check the address, the connection and the right to read; some kinds of storage need a package of their "
            "own, such as s3fs",
        ) from error


def open_bytes(shard: Shard) -> BinaryIO:
    """A shard as a stream of bytes, from its start."""
    if not is_address(shard.name):
        return open(shard.name, "rb", buffering=0)
    files, path = _elsewhere(shard.name)
    with _told(shard.name):
        stream: BinaryIO = files.open(path, "rb")
    return stream


class ByPlace:
    """Bytes of shards by place. Keeps some files open; what it holds is of one process, and is made anew in another."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Callable[[int, int], bytes]] = OrderedDict()
        self._close: dict[str, Callable[[], object]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin()

    def read(self, shard: Shard, start: int, size: int, digest: str = "") -> bytes:
        """`size` bytes from `start` on; raises DataError where the file cannot be read, or is no longer what it was.

        A file with another time whose hash (XXH3 of 128 bits, or sha256) is still `digest` is what it was.
        """
        if self._process != os.getpid():  # descriptors of a parent are its own to close
            self._begin()
        with self._lock:
            data = self._reader(shard, digest)(start, size)
        if len(data) < size:
            raise DataError(
                "the file became shorter while it was in use", shard.name, "put it back, and begin again"
            )
        return data

    def _reader(self, shard: Shard, digest: str) -> Callable[[int, int], bytes]:
        found = self._open.get(shard.name)
        if found is not None:
            self._open.move_to_end(shard.name)
            return found
        if len(self._open) >= _MOST_OPEN:
            oldest, _ = self._open.popitem(last=False)
            self._close.pop(oldest, lambda: None)()
        self._open[shard.name] = found = self._opened(shard, digest)
        return found

    def _opened(self, shard: Shard, digest: str) -> Callable[[int, int], bytes]:
        if is_address(shard.name):
            return _far(shard.name)
        try:
            descriptor = os.open(shard.name, os.O_RDONLY)
        except OSError as error:
            raise DataError(
                f"the file cannot be opened: {error.strerror}", shard.name, "make it readable"
            ) from error
        self._close[shard.name] = lambda: os.close(descriptor)
        known = {(shard.size, shard.stamp)}

        def read(start: int, size: int) -> bytes:
            found = os.fstat(descriptor)
            now = found.st_size, str(found.st_mtime_ns)
            if now not in known:
                if now[0] != shard.size or not digest or _hash(descriptor, shard.size, len(digest)) != digest:
                    what = "the file changed while it was in use"
                    raise DataError(what, shard.name, "put it back, or begin again")
                known.add(now)
            return os.pread(descriptor, size, start)

        return read

    def __del__(self) -> None:
        if self._process == os.getpid():
            for close in self._close.values():
                close()


def _hash(descriptor: int, size: int, digits: int) -> str:
    digest = hashlib.sha256() if digits == 64 else xxh3_128()
    for start in range(0, size, 1 << 20):
        digest.update(os.pread(descriptor, min(1 << 20, size - start), start))
    return digest.hexdigest()


def _far(address: str) -> Callable[[int, int], bytes]:
    files, path = _elsewhere(address)

    def read(start: int, size: int) -> bytes:
        if not size:
            return b""
        with _told(address):
            data: bytes = files.cat_file(path, start=start, end=start + size)
        return data

    return read


def folder_of(path: str) -> str:
    """The folder (or address) that a file stands in."""
    if not is_address(path):
        return str(Path(path).parent)
    return path.rsplit("/", 1)[0] if "/" in path.split("://", 1)[1] else path


def identity_of(shards: Sequence[Shard]) -> str:
    """Names, sizes and stamps of all shards as one hash."""
    digest = hashlib.blake2b(digest_size=16)
    for shard in shards:
        digest.update(shard.identity.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def in_blocks(stream: BinaryIO, size: int, block: int = 1 << 20) -> Iterator[bytes]:
    """The next `size` bytes of a stream in blocks; fewer where it ends before."""
    while size > 0:
        data = stream.read(min(size, block))
        if not data:
            return
        size -= len(data)
        yield data
