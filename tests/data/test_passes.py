"""Passes over rows: their findings are kept, found again, and the same whatever happened to a pass before."""

import errno
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finesight.core.errors import DataError
from finesight.data.passes import passing
from finesight.data.passes.cache import Arrays, forget, keep, kept, key_of
from finesight.data.passes.growing import GrowingFiles
from finesight.data.passes.passing import Means, Pass, Piece
from finesight.runtime.notices import Notices

COUNT = 5000


class Stop(Exception):
    pass


def find(rows: Sequence[int], log: str) -> Piece:
    """Three columns, one of them ragged, and an event now and then; the rows are written down."""
    with open(log, "a") as stream:
        stream.write(f"{rows[0]} {rows[-1]}\n")
    numbers = np.array(list(rows), dtype=np.int64)
    words = b"".join(b"%d" % row for row in numbers if row % 3)
    columns = {
        "numbers": numbers,
        "pairs": np.stack([numbers, -numbers], axis=1).reshape(-1).view("V16"),
        "words": np.frombuffer(words, dtype=np.uint8),
    }
    events = [["event", int(row), "half \ud83d of a pair"] for row in numbers if row % 1000 == 7]
    return Piece(rows[0], rows[-1] + 1, columns, events)


def content(arrays: Arrays) -> dict[str, Any]:
    return {
        **{name: (column.dtype.str, column.tobytes()) for name, column in arrays.items()},
        "stop": arrays.facts["stop"],
        "events": [list(event) for event in arrays.facts["events"]],
    }


class Maker:
    """Makes passes over the same rows, and knows which rows each of them looked at."""

    def __init__(self, folder: Path, key: str, count: int = COUNT) -> None:
        self.log, self.key, self.count, self.notices = folder / "log", key, count, Notices()
        self.numbers = itertools.count()

    def make(self, until: int | None = None, tick: Any = int, jobs: int = 0) -> dict[str, Any]:
        self.log.write_text("")
        means = Means(jobs, tick=tick, notices=self.notices)
        task = partial(find, log=str(self.log))
        with Pass("test", self.key, "source", task, self.count, means) as made:
            for piece in made.pieces(0, str):
                if until is not None and piece.stop >= until:
                    if piece.stop > until:
                        made.cut(piece, until)
                    break
            return content(made.finish())

    @property
    def rows(self) -> list[tuple[int, int]]:
        """First and last row of each chunk that the latest pass looked at."""
        return [tuple(map(int, line.split())) for line in self.log.read_text().splitlines()]  # type: ignore[misc]


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(passing, "_WORTH", -1.0)
    return Maker(tmp_path, "key")


@pytest.fixture
def unbroken(tmp_path: Path) -> dict[str, Any]:
    """What is found by a pass without a cache and without others."""
    pieces = [find(range(0, COUNT), str(tmp_path / "elsewhere"))]
    events = [list(event) for event in pieces[0].events]
    return {
        **{name: (column.dtype.str, column.tobytes()) for name, column in pieces[0].columns.items()},
        "stop": COUNT,
        "events": events,
    }


def test_what_was_found_is_found_again(maker: Maker, unbroken: dict[str, Any]) -> None:
    assert maker.make() == unbroken
    assert maker.rows[0][0] == 0 and maker.rows[-1][1] == COUNT - 1
    assert maker.make() == unbroken
    assert maker.rows == []
    maker.key = "other"
    assert maker.make() == unbroken
    assert maker.rows
    assert maker.notices.rows() == []


def test_workers_find_the_same(maker: Maker, unbroken: dict[str, Any]) -> None:
    assert maker.make(jobs=2) == unbroken
    assert maker.make(jobs=0) == unbroken
    assert maker.rows == []


def test_what_takes_no_time_is_not_kept(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, unbroken: dict[str, Any]
) -> None:
    monkeypatch.setattr(passing, "_WORTH", 1e9)
    for _ in range(2):
        assert maker.make() == unbroken
        assert maker.rows
    assert not list(Path(os.environ["FINESIGHT_CACHE"]).rglob("*.bin"))


def test_a_cut_pass_is_found_again_as_it_was_cut(maker: Maker, tmp_path: Path) -> None:
    cut = maker.make(until=700)
    assert cut["stop"] == 700
    assert np.frombuffer(cut["numbers"][1], np.int64).tolist() == list(range(700))
    assert maker.make(until=700) == cut
    assert maker.rows == []
    assert maker.make(until=512)["stop"] == 512  # a key without its `max_samples` would do this
    assert maker.make(until=900)["stop"] == 900
    assert maker.rows[0][0] == 700


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_stopped_pass_goes_on(
    maker: Maker, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(passing, "_EVERY", -1.0)

    def tick(rows: int) -> None:
        if rows >= 3000:
            raise Stop

    known = 0
    for _ in range(2):
        with pytest.raises(Stop):
            maker.make(tick=tick, jobs=jobs)
        assert all(first >= known for first, _ in maker.rows), "what was kept is not looked at again"
        known = kept_rows()
        # One piece is not put away yet, and eight may wait for one that a slow worker still has.
        assert known >= (2304 if jobs == 0 else 256)
    assert maker.make(jobs=jobs) == unbroken
    assert min(maker.rows)[0] == known
    assert maker.make() == unbroken
    assert maker.rows == []
    assert not list(Path(os.environ["FINESIGHT_CACHE"]).rglob("*.growing"))


def kept_rows() -> int:
    """Rows that the files of a stopped pass hold."""
    (folder,) = Path(os.environ["FINESIGHT_CACHE"]).rglob("*.growing")
    return int(GrowingFiles(folder).stop)


def stopped(maker: Maker) -> Path:
    """The files of a pass that was stopped."""

    def tick(rows: int) -> None:
        if rows >= 3000:
            raise Stop

    with pytest.raises(Stop):
        maker.make(tick=tick)
    (folder,) = Path(os.environ["FINESIGHT_CACHE"]).rglob("*.growing")
    return folder


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_to_a_stopped_pass_is_noticed(
    data: st.DataObject, maker: Maker, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_EVERY", -1.0)
    maker.key = f"damage {next(maker.numbers)}"
    folder = stopped(maker)
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        file.write_bytes(whole[:at])
    else:
        file.write_bytes(
            whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
        )
    assert maker.make() == unbroken


@pytest.mark.parametrize("how", ["cut", "flip", "gone", "facts"])
def test_damage_to_an_entry_is_noticed(maker: Maker, unbroken: dict[str, Any], how: str) -> None:
    maker.make()
    (file,) = Path(os.environ["FINESIGHT_CACHE"]).rglob("facts.json" if how == "facts" else "numbers.bin")
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[:-8] if how == "cut" else whole[:9] + bytes([whole[9] ^ 4]) + whole[10:])
    assert maker.make() == unbroken
    assert maker.rows, "it was found anew"
    assert maker.make() == unbroken
    assert maker.rows == []


def test_an_entry_that_is_forgotten_is_found_anew(maker: Maker) -> None:
    maker.make()
    arrays = kept("test", "key")
    assert arrays is not None
    forget(arrays)
    assert arrays["numbers"][5] == 5, "who has it keeps it"
    assert kept("test", "key") is None
    maker.make()
    assert maker.rows


def test_without_a_cache_all_goes_on(
    maker: Maker, unbroken: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "file"))
    for every in (-1.0, 1e9):
        monkeypatch.setattr(passing, "_EVERY", every)
        assert maker.make() == unbroken
    (notice,) = maker.notices.rows()
    assert notice["kind"] == "fallback"
    assert "cannot be written" in str(notice["text"])


@pytest.mark.parametrize("when", [0, 1, 5])
def test_a_disk_that_fills_up_loses_nothing(
    maker: Maker, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    monkeypatch.setattr(passing, "_EVERY", -1.0)
    left, add = [when], GrowingFiles.add

    def full(self: GrowingFiles, stop: int, *rest: Any) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        add(self, stop, *rest)

    monkeypatch.setattr(GrowingFiles, "add", full)
    assert maker.make() == unbroken
    assert [notice["kind"] for notice in maker.notices.rows()] == ["fallback"]


def test_a_disk_that_is_full_at_the_end_loses_nothing(
    maker: Maker, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(passing, "_EVERY", -1.0)
    monkeypatch.setattr("finesight.data.passes.growing.os.link", full)
    monkeypatch.setattr("finesight.data.passes.growing.shutil.copyfile", full)
    assert maker.make() == unbroken
    assert [notice["kind"] for notice in maker.notices.rows()] == ["fallback"]


SCRIPT = """
import sys, time, pathlib
sys.path[:0] = {path!r}
from functools import partial
import test_passes as t
from finesight.data.passes import passing
passing._WORTH = passing._EVERY = -1.0
def slow(rows):
    time.sleep(0.02)
    return t.find(rows, {log!r})
with passing.Pass("test", "key", "source", slow, t.COUNT, passing.Means()) as made:
    for piece in made.pieces(0, str):
        pass
    print(hash(str(t.content(made.finish()))))
"""


def test_two_processes_at_once_find_it_once(maker: Maker, unbroken: dict[str, Any], tmp_path: Path) -> None:
    program = SCRIPT.format(path=[str(Path(__file__).parent), *sys.path], log=str(maker.log))
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert said[0] and said[0] == said[1]
    rows = maker.rows
    assert sum(last - first + 1 for first, last in rows) == COUNT, "one of them waited for the other"
    assert maker.make() == unbroken
    assert maker.rows == []


def test_who_waits_can_be_stopped(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[int] = []

    def tick(rows: int) -> None:
        ticks.append(rows)
        raise Stop

    task = partial(find, log=str(maker.log))
    with Pass("test", "key", "source", task, COUNT, Means()), pytest.raises(Stop):
        maker.make(tick=tick)
    assert ticks == [0]


def test_columns_go_to_other_processes_by_their_folder(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.make()
    arrays = kept("test", "key")
    assert arrays is not None
    sent = pickle.dumps(arrays)
    assert len(sent) < 1000
    copy = pickle.loads(sent)
    assert {name: column.tobytes() for name, column in copy.items()} == {
        name: column.tobytes() for name, column in arrays.items()
    }
    small = pickle.loads(pickle.dumps(Arrays({"a": np.arange(3)}, {"events": [1]})))
    assert small["a"].tolist() == [0, 1, 2]


def test_nothing_found_can_be_kept(maker: Maker) -> None:
    def fill(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"")

    keep("test", "nothing", fill, {"a": ("<i8", 0)}, {"b": 1}, "source")
    arrays = kept("test", "nothing")
    assert arrays is not None
    assert (len(arrays["a"]), arrays.facts) == (0, {"b": 1})


def test_keys_tell_apart_what_they_are_made_of() -> None:
    assert key_of("a", 1) == key_of("a", 1)
    assert len({key_of("a", 1), key_of("a", 2), key_of("a", "1"), key_of(["a", 1]), key_of("a1")}) == 5
    assert key_of("\ud83d") != key_of("?")


def test_an_error_of_the_task_keeps_what_was_found(
    maker: Maker, unbroken: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_EVERY", -1.0)
    right = find

    def broken(rows: Sequence[int], log: str) -> Piece:
        if rows[-1] > 2000:
            raise DataError("a", "b", "c")
        return right(rows, log)

    monkeypatch.setattr(sys.modules[__name__], "find", broken)
    with pytest.raises(DataError):
        maker.make()
    monkeypatch.setattr(sys.modules[__name__], "find", right)
    assert maker.make() == unbroken
    assert maker.rows[0][0] > 1000
