"""Cache entries are whole or not there: damage, kills, other formats and other processes never give a wrong one."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finesight.runtime import cachedir
from finesight.runtime.cachedir import (
    NoCache,
    cache_folder,
    cache_root,
    cached,
    find_entry,
    forget_entry,
    publish_entry,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def writes(text: str):
    def write(folder: Path) -> None:
        (folder / "data.bin").write_text(text)
        (folder / "more.bin").write_text("more")

    return write


def never(folder: Path) -> None:
    raise AssertionError("made again")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINESIGHT_CACHE", "here")
    assert cache_root() == tmp_path / "here"
    monkeypatch.setenv("FINESIGHT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "finesight"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "finesight"


def test_no_home_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("FINESIGHT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", homeless)
    assert find_entry("words", "key", 1) is None
    with pytest.raises(NoCache, match="name a folder by FINESIGHT_CACHE"):
        cached("words", "key", 1, never)


def test_an_entry_is_made_once(root: Path) -> None:
    folder = cached("words", "key", 1, writes("a"))
    assert folder == cache_folder("words", "key") and folder.is_relative_to(root)
    assert (folder / "data.bin").read_text() == "a"
    assert cached("words", "key", 1, never) == folder
    assert find_entry("words", "key\ud800", 1) is None
    assert cached("words", "key\ud800", 1, writes("b")) != folder
    forget_entry("words", "key")
    assert find_entry("words", "key", 1) is None
    assert not list(root.rglob("*.partial"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "data.bin").write_text("b"),
        lambda folder: (folder / "data.bin").write_text(""),
        lambda folder: (folder / "data.bin").unlink(),
        lambda folder: (folder / "entry.json").write_text(""),
        lambda folder: (folder / "entry.json").write_text("[]"),
        lambda folder: (folder / "entry.json").write_text("[" * 100_000),
        lambda folder: (folder / "entry.json").unlink(),
        lambda folder: edit(folder, format=2),
        lambda folder: edit(folder, form=2),
        lambda folder: edit(folder, key="other"),
        lambda folder: edit(folder, files={"../outside": [1, "x"]}),
        lambda folder: edit(folder, files=None),
    ],
)
def test_what_is_damaged_or_foreign_is_made_again(damage, root: Path) -> None:
    folder = cached("words", "key", 1, writes("a"))
    damage(folder)
    assert find_entry("words", "key", 1) is None
    assert (cached("words", "key", 1, writes("new")) / "data.bin").read_text() == "new"
    assert not list(root.rglob("*.partial"))


def edit(folder: Path, **values: object) -> None:
    entry = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps(entry | values))


def test_another_format_number_replaces_the_entry() -> None:
    cached("words", "key", 1, writes("old"))
    assert (cached("words", "key", 2, writes("new")) / "data.bin").read_text() == "new"
    assert find_entry("words", "key", 1) is None


def test_what_fails_leaves_nothing(root: Path) -> None:
    def fail(folder: Path) -> None:
        writes("half")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("words", "key", 1, fail)
    assert find_entry("words", "key", 1) is None
    assert [path.name for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(NoCache, match="No space left"):
        cached("words", "key", 1, full)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "file"))
    with pytest.raises(NoCache, match=r"file cannot be written: Not a directory"):
        cached("words", "key", 1, writes("a"))


def test_older_entries_of_a_source_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        cached("words", f"key {number}", 1, writes("a"), source="one")
        os.utime(
            cache_folder("words", f"key {number}") / "entry.json", (time.time(), time.time() - 100 + number)
        )
        cached("words", f"other {number}", 1, writes("a"))
    kept = [number for number in range(6) if find_entry("words", f"key {number}", 1)]
    assert kept == [3, 4, 5]
    assert all(find_entry("words", f"other {number}", 1) for number in range(6))
    left = root / "words" / "dead-1234.partial"
    left.mkdir()
    for path, age in ((left, 2), (cache_folder("words", "other 0") / "entry.json", 100)):
        os.utime(path, (time.time() - age * 86_400,) * 2)
    cached("words", "last", 1, writes("a"))
    assert not left.exists() and not cache_folder("words", "other 0").exists()
    assert find_entry("words", "other 1", 1)


def slow(folder: Path) -> None:
    (folder / "data.bin").write_text("a")
    with open(os.environ["MADE"], "a") as stream:
        stream.write("made\n")
    time.sleep(0.5)


def make(_: int) -> bool:
    return (cached("words", "key", 1, slow, "source") / "data.bin").read_text() == "a"


def test_processes_at_once_make_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE", str(tmp_path / "made"))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(make, range(3), chunksize=1) == [True] * 3
    assert (tmp_path / "made").read_text() == "made\n"


def test_without_a_lock_the_last_of_two_finds_the_first_ones_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(folder: Path) -> None:
        publish_entry("words", "key", 1, writes("first"))
        writes("second")(folder)

    assert (publish_entry("words", "key", 1, late) / "data.bin").read_text() == "first"

    class Without:
        def acquire(self) -> None:
            raise NotImplementedError

        def release(self) -> None:
            pass

    monkeypatch.setattr(cachedir, "FileLock", lambda *args, **values: Without())
    assert cached("words", "other", 1, writes("a")).is_dir()


KILLED = """
import sys, time
from pathlib import Path
from finesight.runtime.cachedir import cached
def write(folder):
    (folder / "data.bin").write_text("half")
    print("began", flush=True)
    time.sleep(60)
cached("words", "key", 1, write)
"""


def test_a_killed_process_leaves_no_entry_and_no_lock(root: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGKILL)
    assert find_entry("words", "key", 1) is None
    began = time.monotonic()
    assert (cached("words", "key", 1, writes("whole")) / "data.bin").read_text() == "whole"
    assert time.monotonic() - began < 10
