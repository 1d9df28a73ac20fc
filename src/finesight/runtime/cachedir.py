"""Things that can be made anew and are kept between runs: whole or not there, safe with several processes at once.

The cache folder is `$FINESIGHT_CACHE`, else `$XDG_CACHE_HOME/finesight`, else `~/.cache/finesight`; it may be deleted
at any time. An entry is a folder `<kind>/<hash of its key>`, made under a temporary name and renamed once it is whole.
Its `entry.json` holds the key, a format number, and the size and checksum of every file: an entry that is damaged, of
another format or of another key counts as none, and is made again. Nothing in it is ever unpickled.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from xxhash import xxh3_128

from finesight.runtime.files import TEMPORARY

FOLDER_VARIABLE = "FINESIGHT_CACHE"
"""Environment variable that names the cache folder."""

_ENTRY = "entry.json"
_FORMAT = 1
_KEPT = 3
"""Entries of one source that stay: a recipe or two may read it in different ways."""
_UNUSED = 90 * 86_400
"""Seconds after which an entry that no one asked for goes."""
_LEFT_OVER = 86_400
"""Seconds after which what a killed process left under a temporary name goes."""
_PATIENCE = 600.0
"""Seconds to wait for another process that makes the same entry, before making it here too."""


class NoCache(Exception):
    """The cache cannot be written. It speeds up the next start alone, so a run goes on without, and says so."""


def cache_root() -> Path:
    """The folder of all entries, there or not; raises NoCache where the person has no home folder."""
    named, base = os.environ.get(FOLDER_VARIABLE), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if named:
            return Path(named).expanduser().absolute()
        # a relative XDG_CACHE_HOME is to be ignored, says the XDG specification
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "finesight"
    except RuntimeError as error:
        raise NoCache(f"there is no home folder; name a folder by {FOLDER_VARIABLE}") from error


def cache_folder(kind: str, key: str) -> Path:
    """Where the entry of `key` stands, there or not. `kind` is one word for what the entries hold."""
    return (
        cache_root()
        / kind
        / hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    )


def find_entry(kind: str, key: str, form: int) -> Path | None:
    """The folder of a whole entry of format number `form`; None where there is none that can be trusted."""
    try:
        folder = cache_folder(kind, key)
        entry = json.loads((folder / _ENTRY).read_bytes())
        if (entry["format"], entry["form"], entry["key"]) != (_FORMAT, form, key):
            return None
        for name, (size, checksum) in entry["files"].items():
            file = folder / name
            if file.parent != folder or file.stat().st_size != size or checksum_of(file) != checksum:
                return None
    except (OSError, NoCache, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    with contextlib.suppress(OSError):
        os.utime(folder / _ENTRY)  # the time of its last use
    return folder


def publish_entry(kind: str, key: str, form: int, write: Callable[[Path], None], source: str = "") -> Path:
    """Let `write` fill an empty folder with files, make it the entry of `key`, and return where it stands.

    Older entries of the same `source` (such as a file's path) go. Raises NoCache where the cache cannot be written;
    what `write` raises otherwise goes on, and leaves nothing behind.
    """
    target = cache_folder(kind, key)
    temporary = target.with_name(f"{target.name}-{secrets.token_hex(4)}{TEMPORARY}")
    try:
        temporary.mkdir(parents=True, mode=0o700)
        write(temporary)
        files = {file.name: (file.stat().st_size, checksum_of(file)) for file in sorted(temporary.iterdir())}
        entry = {"format": _FORMAT, "form": form, "key": key, "source": source, "files": files}
        (temporary / _ENTRY).write_text(json.dumps(entry), encoding="utf-8")
        _put(temporary, target, lambda: find_entry(kind, key, form) is not None)
        _tidy(target, source)
    except OSError as error:
        raise NoCache(f"{cache_root()} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def cached(kind: str, key: str, form: int, write: Callable[[Path], None], source: str = "") -> Path:
    """The folder of the entry of `key`; one process makes it (see `publish_entry`) while others wait for it.

    Another process may remove it at any time, when the source has changed: what cannot be opened is to be made anew.
    """
    found = find_entry(kind, key, form)
    if found is None:
        with _one_at_a_time(cache_folder(kind, key)):
            found = find_entry(kind, key, form) or publish_entry(kind, key, form, write, source)
    return found


def forget_entry(kind: str, key: str) -> None:
    """Remove the entry of `key`, which was found to be wrong."""
    _remove(cache_folder(kind, key))


def checksum_of(file: Path) -> str:
    """A checksum of a file against damage, not against forgery: XXH3 of 128 bits."""
    digest = xxh3_128()
    with open(file, "rb", buffering=0) as stream:
        while data := stream.read(4 << 20):
            digest.update(data)
    return digest.hexdigest()


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Wait while another process makes this entry. The wait saves work and no more: publishing is safe without it."""
    # a lock that is a mere file would outlive a killed process, so where the system has no true locks there is none
    lock = FileLock(target.with_name(f"{target.name}.lock"), timeout=_PATIENCE, fallback_to_soft=False)
    try:
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock.acquire()
        yield
    finally:
        lock.release()


def _put(temporary: Path, target: Path, whole: Callable[[], bool]) -> None:
    """Rename a finished folder to its place, unless another process has put a whole one there meanwhile."""
    for _ in range(10):
        try:
            temporary.rename(target)
            return
        except OSError:
            if whole():
                return
            if not target.exists():
                raise
            _remove(target)  # damaged, or of another format
    raise OSError(f"{target} is made again and again by others")


def _remove(entry: Path) -> None:
    """Take an entry away at once, so that no one finds a part of it."""
    gone = entry.with_name(f"{entry.name}-{secrets.token_hex(4)}{TEMPORARY}")
    with contextlib.suppress(OSError):
        entry.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _tidy(kept: Path, source: str) -> None:
    """Remove older entries of the same source, entries that were not used for long, and what killed processes left."""
    same: list[tuple[float, Path]] = []
    for path in kept.parent.iterdir():
        try:
            age = time.time() - (path / _ENTRY if path.suffix == "" else path).stat().st_mtime
            if path.suffix:
                if age > _LEFT_OVER:
                    path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
            elif age > _UNUSED:
                _remove(path)
            elif source and path != kept and json.loads((path / _ENTRY).read_bytes())["source"] == source:
                same.append((age, path))
        except (OSError, ValueError, TypeError, KeyError):  # half of an entry, or gone meanwhile
            continue
    for _, path in sorted(same)[_KEPT - 1 :]:
        _remove(path)
