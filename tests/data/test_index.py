"""The index of a file: kept and mapped, never believed when the file, the cache or another process has changed."""

import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest

from finesight.core.errors import DataError
from finesight.data.files import index as module
from finesight.data.files.index import FileIndex, few, places
from finesight.data.sources.csv import CsvReader
from finesight.data.sources.csv_scan import CsvScan

ROWS = 3000
LONG_AGO = 1_600_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A CSV that is large enough for its index to be kept, and was not changed for long."""
    path = tmp_path / "table.csv"
    write(path, "a")
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def write(path: Path, letter: str) -> None:
    lines = [f'{number},"{letter * (300 + number % 300)}\n"' for number in range(ROWS)]
    path.write_text("number,text\n" + "\n".join(lines) + "\n")


def reader(path: Path) -> CsvReader:
    return CsvReader(path, ",", path.parent)


SCAN = partial(CsvScan, ",")


def indexed(path: Path, scan: Callable[[], CsvScan] = SCAN) -> FileIndex:
    return FileIndex(path, str(path), "csv ','", scan)


def never() -> CsvScan:
    raise AssertionError("the file was scanned again")


def test_a_warm_start_maps_what_was_found(file: Path, cache: Path) -> None:
    first = indexed(file)
    again = indexed(file, never)
    assert isinstance(again.offsets.base, np.memmap) and again.offsets.dtype == np.int64
    assert again.offsets.tolist() == first.offsets.tolist()
    assert len(again.offsets) == ROWS + 2 and again.offsets[-1] == file.stat().st_size
    assert again.facts == first.facts and again.identity() == first.identity()
    assert again.verify() and not again.notes
    assert [path.name for path in cache.glob("index/*/*.npy")] == ["offsets.npy"]
    shutil.move(file, file.with_name("moved.csv"))
    assert len(indexed(file.with_name("moved.csv")).offsets) == ROWS + 2  # another path is another key


def test_small_files_are_not_kept(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "small.csv").write_text("a\n1\n")
    assert len(reader(tmp_path / "small.csv")) == 1
    assert not cache.exists()


def test_equal_size_and_time_soon_after_a_change_are_not_believed(file: Path) -> None:
    """A file may change twice within one tick of the file system's clock."""
    write(file, "a")
    tick = file.stat().st_mtime_ns
    assert reader(file).row(5)["text"] == "a" * 305 + "\n"
    write(file, "b")
    os.utime(file, ns=(tick, tick))
    assert reader(file).row(5)["text"] == "b" * 305 + "\n"
    assert indexed(file, never).verify()  # and that index is kept


def test_an_index_that_was_checked_once_is_believed(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(file)
    indexed(file)
    monkeypatch.setattr(module.time, "time_ns", lambda: file.stat().st_mtime_ns + 10**10)
    indexed(file, never)
    assert len(list(cache.glob("index/*/settled"))) == 1
    monkeypatch.setattr(FileIndex, "verify", lambda self: pytest.fail("read again"))
    indexed(file, never)


def test_a_change_that_hides_is_found_on_demand(file: Path) -> None:
    indexed(file)
    write(file, "b")
    os.utime(file, (LONG_AGO, LONG_AGO))
    assert not indexed(file).verify()


def test_a_file_that_changes_while_it_is_in_use(file: Path) -> None:
    found = reader(file)
    assert found.row(1)["text"] == "a" * 301 + "\n"
    os.utime(file)
    assert found.row(2)["text"] == "a" * 302 + "\n"  # touched, and the same
    with open(file, "a") as stream:
        stream.write("3000,more\n")
    assert len(found) == ROWS and found.row(ROWS - 1)["number"] == str(ROWS - 1)  # grown, and else the same
    with open(file, "r+") as stream:
        stream.write("x")
    for index in (0, 1):
        with pytest.raises(DataError, match="the file changed while it was in use"):
            found.row(index)
    assert not found.verify()
    file.write_text("")
    with pytest.raises(DataError, match="became shorter"):
        found.row(0)


def test_a_file_that_is_replaced_is_read_as_it_was(file: Path) -> None:
    found = reader(file)
    write(file.with_name("new"), "b")
    os.replace(file.with_name("new"), file)
    assert found.row(1)["text"] == "a" * 301 + "\n"
    sent = pickle.loads(pickle.dumps(found))  # which opens the new file
    with pytest.raises(DataError, match="changed while it was in use"):
        sent.row(1)


def test_a_file_that_grows_while_it_is_read_is_refused(file: Path) -> None:
    class Slow(CsvScan):
        def end(self):
            with open(file, "a") as stream:
                stream.write("1,2\n")
            return super().end()

    with pytest.raises(DataError, match="changed while it was read"):
        indexed(file, partial(Slow, ","))


def test_readers_are_sent_without_their_index(file: Path, cache: Path) -> None:
    found = reader(file)
    sent = pickle.dumps(found)
    assert len(sent) < 1000
    assert pickle.loads(sent).row(7) == found.row(7)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(methodcaller("row", 7), (found,)) == found.row(7)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        rows = range(0, ROWS, 100)
        assert pool.map(partial(_row, found), rows) == [found.row(index) for index in rows]
    shutil.rmtree(cache)
    assert pickle.loads(sent).row(7) == found.row(7)


def _row(found: CsvReader, index: int) -> dict[str, str]:
    return dict(found.row(index))


def test_threads_read_at_once(file: Path) -> None:
    found, wrong = reader(file), []

    def read(seed: int) -> None:
        for index in random.Random(seed).choices(range(ROWS), k=500):
            if found.row(index)["number"] != str(index):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["offsets.npy", "index.json"])
def test_a_damaged_index_is_made_again(file: Path, cache: Path, name: str) -> None:
    indexed(file)
    damaged = next(cache.glob(f"index/*/{name}"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert reader(file).row(1234)["number"] == "1234"


def test_an_index_that_is_no_index_is_not_believed(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in the cache with a right checksum and is not what was written: then the file is scanned."""

    def forged(self: FileIndex, folder: Path) -> None:
        np.save(folder / "offsets.npy", np.array([{}], object), allow_pickle=True)
        (folder / "index.json").write_text(json.dumps({"digest": "", "facts": {}, "made_ns": 0}))

    with monkeypatch.context() as patch:
        patch.setattr(FileIndex, "_write", forged)
        assert reader(file).row(1234)["number"] == "1234"
    assert reader(file).row(1234)["number"] == "1234"


def test_without_a_cache_the_file_is_scanned_and_that_is_said(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nothing").touch()
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "nothing"))
    found = reader(file)
    assert found.row(1234)["number"] == "1234"
    ((kind, text),) = found.notes
    assert kind == "cache" and "nothing cannot be written: Not a directory" in text and str(file) in text
    assert pickle.loads(pickle.dumps(found)).row(1234) == found.row(1234)


def _open(path: Path) -> int:
    return len(reader(path))


def test_two_processes_build_one_index(file: Path, cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_open, [file] * 4, chunksize=1) == [ROWS] * 4
    assert len(list(cache.glob("index/*/offsets.npy"))) == 1


KILLED = """
import sys, time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from finesight.data.files.index import FileIndex
from finesight.data.sources.csv_scan import CsvScan
class Slow(CsvScan):
    def end(self):
        print("half", flush=True)
        time.sleep(60)
FileIndex(Path(sys.argv[1]), "table", "csv ','", partial(Slow, ","))
"""


def test_killed_while_building(file: Path, cache: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert len(list(cache.glob("index/*.partial/offsets.npy"))) == 1
    assert len(reader(file)) == ROWS
    assert len(indexed(file, never).offsets) == ROWS + 2


def test_rows_of_next_to_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the index would be larger than the file."""
    monkeypatch.setattr(module, "_MANY", 100)
    monkeypatch.setattr(module, "_BLOCK", 64)
    (tmp_path / "table.csv").write_text("a\n" * 1000)
    with pytest.raises(DataError, match="less than eight bytes"):
        reader(tmp_path / "table.csv")


def test_places_of_marks() -> None:
    draw = np.random.default_rng(0)
    for share in (0.0, 0.0001, 0.01, 0.5, 1.0):
        data = np.where(draw.random(100_000) < share, draw.integers(0, 3, 100_000), 9).astype(np.uint8)
        for mark in range(3):
            assert places(data.tobytes(), mark).tolist() == np.flatnonzero(data == mark).tolist()
        found = few(data.tobytes(), b"\0\1\2")
        assert found is None if share > 0.001 else found == np.flatnonzero(data < 3).tolist()


def test_a_warm_start_costs_next_to_nothing(file: Path) -> None:
    indexed(file)
    began = time.process_time()
    for _ in range(20):
        indexed(file, never)
    assert time.process_time() - began < 2
