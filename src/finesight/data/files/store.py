"""Files that a recipe or a row names: on this machine, or at an address that `fsspec` knows (`s3://…`, `memory://…`).

A recipe's author may name any place. A row's author may not: a `Store` reads below its root alone, whatever `..`,
links, absolute paths or addresses a row holds.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from finesight.config.place import is_address, resolve_path
from finesight.core.errors import DataError
from finesight.core.sample import FileMark
from finesight.data.pictures.guard import PictureLimits
from finesight.runtime.cachedir import NoCache, cached

LARGEST_FILE = PictureLimits().file_bytes
"""Bytes of the largest file that a row may name."""

_FORM = 1
_BLOCK = 4 << 20
_TELLING = tuple(
    "size ETag etag md5Hash content_md5 Content-MD5 generation version_id VersionId mtime LastModified last_modified "
    "updated created modified last_commit".split()
)
"""What file systems call the things that change when a file does."""
_MEND = "correct the path, or set `root` of the source"


@dataclass(frozen=True)
class Store:
    """Files below `root`: a folder, or an `fsspec` address. May be sent to other processes and used by threads."""

    root: str

    def read(self, name: str, where: str, allow_outside: bool = False, limit: int = LARGEST_FILE) -> bytes:
        """Bytes of the file that a row names, at most `limit` of them.

        With `allow_outside` links, `..` and absolute paths may lead out of the root. Raises DataError and nothing else.
        """
        return self.find(name, where, allow_outside, limit)[0]

    def find(
        self,
        name: str,
        where: str,
        allow_outside: bool = False,
        limit: int = LARGEST_FILE,
        look: bool = False,
    ) -> tuple[bytes, FileMark]:
        """The same with the file's mark; with `look` the file is not read, and its bytes are empty."""
        try:
            if is_address(self.root):
                return _read_remote(self.root, name, where, allow_outside, limit, look)
            return _read_local(Path(self.root), name, where, allow_outside, limit, look)
        except DataError:
            raise
        except Exception as error:  # every file system has errors of its own
            what = f"the file `{_shown(name)}` cannot be read: {_in_words(error)}"
            raise DataError(what, where, _MEND) from error


def _read_local(
    root: Path, name: str, where: str, allow_outside: bool, limit: int, look: bool
) -> tuple[bytes, FileMark]:
    if is_address(name):
        raise DataError(
            f"`{_shown(name)}` is an address", where, "download the file, and give its path below `root`"
        )
    root = root.resolve()
    path = (root / name).resolve()
    if not allow_outside and not path.is_relative_to(root):
        what = f"the path `{_shown(name)}` leads out of the folder {root}"
        mend = "put the file below it, set `root` of the source, or allow it by `data.allow_outside`"
        raise DataError(what, where, mend)
    if not path.is_file():
        raise DataError(f"there is no file {_shown(str(path))}", where, _MEND)
    # not through a link or into a pipe that took the file's place meanwhile
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{_shown(str(path))} is not a file", where, _MEND)
        if about.st_size > limit:
            raise _too_large(str(path), where, limit)
        mark = FileMark(name, about.st_size, str(about.st_mtime_ns))
        return b"" if look else stream.read(about.st_size), mark


def _read_remote(
    root: str, name: str, where: str, allow_outside: bool, limit: int, look: bool
) -> tuple[bytes, FileMark]:
    system, base = _system(root)
    path = _below(base, root, name, allow_outside)
    if path is None:
        what = f"the path `{_shown(name)}` leads out of {root}"
        raise DataError(what, where, "put the file below it, or set `root` of the source")
    about = system.info(path)
    size = about.get("size")
    if size is not None and size > limit:
        raise _too_large(name, where, limit)
    version = json.dumps([str(about[key]) for key in _TELLING if about.get(key) is not None])
    mark = FileMark(name, -1 if size is None else size, version)
    if look:
        return b"", mark
    if size is not None:
        data: bytes = system.cat_file(path)
    else:
        with system.open(path, "rb") as stream:
            data = stream.read(limit + 1)
    if len(data) > limit:
        raise _too_large(name, where, limit)
    return data, mark


def _below(base: str, root: str, name: str, allow_outside: bool) -> str | None:
    """The path of `name` in the root's file system; None where it may not be read.

    A row chooses no file system. An address is let in where it begins as the root does, or, with `allow_outside`,
    where it has the root's protocol.
    """
    name = name.strip()
    folder = base.rstrip("/")
    if is_address(name):
        start = root.rstrip("/") + "/"
        if name.startswith(start):
            name = name[len(start) :]
        elif allow_outside and "::" not in name and name.split("://")[0] == root.split("://")[0]:
            return str(_system(name)[1])
        else:
            return None
    if name.startswith("/"):
        if not name.startswith(f"{folder}/"):
            return None
        name = name[len(folder) + 1 :]
    parts = PurePosixPath(name).parts
    # servers undo the percent signs of an address, some of them twice
    if any(unquote(unquote(part)) == ".." or "\0" in part or "\\" in part for part in parts) or not parts:
        return None
    if base.startswith("http") and re.search(r"[?#]|%2f|%5c", name, re.IGNORECASE):
        return None
    return f"{folder}/{'/'.join(parts)}"


def _too_large(name: str, where: str, limit: int) -> DataError:
    return DataError(f"{_shown(name)} is larger than {limit >> 20} MiB", where, "save the file smaller")


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, and its path there."""
    from fsspec.core import url_to_fs  # takes a tenth of a second

    system, path = url_to_fs(address)
    return system, str(path)


def _shown(name: str) -> str:
    """A name as a message shows it: the beginning of a long one, and nothing that cannot be printed."""
    return name[:300].encode("utf-8", "backslashreplace").decode()


def _in_words(error: Exception) -> str:
    return _shown(" ".join(str(error).split())) or type(error).__name__


@dataclass(frozen=True)
class Table:
    """A file of rows that a recipe names: where it lies on this machine, and what messages call it."""

    path: Path
    name: str
    root: str
    """Folder or address that paths in the rows are relative to."""
    notes: tuple[tuple[str, str], ...] = ()
    """What a person should be told: kind and text of a notice."""

    @property
    def suffix(self) -> str:
        """What the file's name ends in, such as `.csv`, in small letters."""
        return PurePosixPath(self.name.replace("\\", "/").split("?")[0]).suffix.lower()


def find_table(path: str, root: str | None = None) -> Table:
    """The file that `path` of a source names, fetched once where it is an address.

    `root` is the folder or address that its pictures are relative to; the file's own where absent. Raises DataError
    where the file or the folder is missing.
    """
    if is_address(path):
        local, notes = fetch_file(path)
        return Table(local, public(path), _root(root) if root else _folder_of(path), notes)
    local = resolve_path(path)
    if not local.is_file():
        raise DataError("this is not a file", str(local), "give the file itself in `path` of this source")
    return Table(local, str(local), _root(root) if root else str(local.parent))


def _folder_of(address: str) -> str:
    first, chained, rest = address.partition("::")  # zip://rows.csv::s3://bucket/file.zip
    protocol, mark, path = first.partition("://")
    return f"{protocol}{mark}{path.rpartition('/')[0]}{chained}{rest}"


def _root(root: str) -> str:
    """An address as it stands, since object stores have no folders; else a folder that exists."""
    if is_address(root):
        return root
    folder = resolve_path(root, "root")
    if not folder.is_dir():
        mend = "give the folder of the pictures in `root` of this source"
        raise DataError("this is not a folder", str(folder), mend)
    return str(folder)


def fetch_file(address: str) -> tuple[Path, tuple[tuple[str, str], ...]]:
    """A copy of a remote file on this machine, and what a person should be told; raises DataError.

    The copy lies in the cache folder, and is fetched anew when what the file system says of the file changes (size,
    time, checksum). Where the cache cannot be written it lies in the system's folder for temporary files while this
    process lives.
    """
    name = public(address)
    try:
        system, path = _system(address)
        about = system.info(path)
        if about.get("type") == "directory":
            raise DataError("this is not a file", name, "give the file itself in `path` of this source")
        telling = {name: str(about[name]) for name in _TELLING if about.get(name) is not None}
        digest = hashlib.sha256(
            address.encode("utf-8", "surrogatepass")
        ).hexdigest()  # it may hold a password
        key = json.dumps([digest, telling], sort_keys=True)
        copied: list[str] = []

        def write(folder: Path) -> None:
            _copy(system, path, folder / "file", about.get("size"), name)
            copied.append("copied")

        try:
            file = cached("fetched", key, _FORM, write, source=digest) / "file"
            note = f"{name} is read from a copy in the cache folder" if copied else ""
        except NoCache as error:
            folder = Path(tempfile.mkdtemp(prefix="finesight-"))
            weakref.finalize(fetch_file, shutil.rmtree, folder, ignore_errors=True)
            write(folder)
            file, note = folder / "file", f"{error}; {name} is fetched anew at each start"
    except DataError:
        raise
    except Exception as error:  # every file system has its own; some need a package that is not there
        raise _unfetched(name, error) from error
    notes = [("fetched", note)] if note else []
    if set(telling) <= {"size"}:
        text = f"{name} tells no time of change: a new file of equal size is not noticed"
        notes.append(("fetched", text))
    return file, tuple(notes)


def public(address: str) -> str:
    """An address as messages and files show it: without what gives access, a name and password or a signature."""
    return re.sub(r"://[^/@]*@", "://", address).split("?")[0]


def _copy(system: Any, path: str, target: Path, size: int | None, name: str) -> None:
    free = shutil.disk_usage(target.parent).free
    if size is not None and size > free:
        what = f"the file has {size:,} bytes, and {free:,} are free in {target.parent.parent}"
        raise DataError(
            what, name, "free some space, name another folder by FINESIGHT_CACHE, or use `stream: true`"
        )
    count = 0
    with open(target, "wb") as stream:
        for block in _blocks(system, path, name):
            count += len(block)
            stream.write(block)
    if size is not None and count != size:
        raise DataError(f"{count:,} of {size:,} bytes came", name, "try again")


def _blocks(system: Any, path: str, name: str) -> Iterator[bytes]:
    try:
        with system.open(path, "rb") as source:
            while block := source.read(_BLOCK):
                yield block
    except Exception as error:  # not to be taken for a cache that cannot be written
        raise _unfetched(name, error) from error


def _unfetched(name: str, error: Exception) -> DataError:
    what = f"the file cannot be fetched: {type(error).__name__}: {_in_words(error)}"
    mend = "check the address and the right to read it; an ImportError names the package to install"
    return DataError(what, name, mend)
