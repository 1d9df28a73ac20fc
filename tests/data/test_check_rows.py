"""The look at every row before step 1: the same whoever looks, found again by the next run, and done anew in time."""

import base64
import hashlib
import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import encode
from row_files import cell, csv_source, data, png, read, rows, write_csv

from finesight.config.data import Data, Split
from finesight.config.load import load_recipe
from finesight.config.sources import TextSource
from finesight.core.errors import DataError, WorkerError
from finesight.data import check
from finesight.data.check import Checking
from finesight.data.digest import sample_digest
from finesight.data.passes import passing
from finesight.data.pictures.load import load_picture
from finesight.data.policy import Policy
from finesight.data.samples import RowSource, open_rows
from finesight.data.seen import NEW, Seen, places, source_and_row
from finesight.data.sets import SampleSet, in_both, read_samples, read_splits, twice
from finesight.runtime.notices import Notices


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, which keeps what takes no time, too."""
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(passing, "_WORTH", -1.0)


@pytest.fixture
def in_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_PATIENCE", 0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are made into samples, one by one."""
    seen: list[int] = []
    sample = RowSource.sample

    def counted(self: RowSource, index: int, *rest: Any, **more: Any) -> Any:
        seen.append(index)
        return sample(self, index, *rest, **more)

    monkeypatch.setattr(RowSource, "sample", counted)
    return seen


def look(source: Any, jobs: int = 0, checking: Checking | None = None, **values: Any) -> dict[str, Any]:
    """All that a look at a source tells."""
    policy, notices = Policy(data(source, **values)), Notices()
    checking = replace(checking or Checking.of(data(source, **values)), jobs=jobs)
    samples = read_samples(source, policy, notices, "train", checking=checking)
    return {
        "samples": [samples[index] for index in range(len(samples))],
        "ids": list(samples.ids),
        "fingerprint": samples.fingerprint,
        "columns": [samples.column(name).tolist() for name in ("names", "groups", "stamps")],
        "faults": policy.faults,
        "notices": notices.rows(),
    }


def by_hand(sources: Any) -> tuple[list[str], str]:
    """Ids and fingerprint as they were before there were columns: one sample after another."""
    ids, digests = [], []
    for number, source in enumerate(sources):
        name = Path(source.path).stem + (f"-{number + 1}" if len(sources) > 1 else "")
        opened = open_rows(source, name)
        for row in range(len(opened.reader)):
            try:
                sample = opened.sample(row)
            except DataError:
                continue
            try:
                for image in sample.images if sample else ():
                    load_picture(image.data, "")
            except DataError:
                continue
            if sample is not None and sample.id not in ids:
                ids.append(sample.id)
                digests.append(sample_digest(sample))
    digest = hashlib.blake2b(b"".join(digests), digest_size=16)
    for name in ids:
        digest.update(name.encode() + b"\0")
    return ids, digest.hexdigest()


def messy(path: Path, count: int = 700) -> Path:
    """Rows of which some are bad, some have an id that was there before, and some are not wanted."""
    table = rows(count)
    for number, row in enumerate(table):
        row["image"] = cell(number % 5)
        row["id"] = f"id {number}" if number % 50 else "the same"
        row["kind"] = "unwanted" if number % 7 == 3 else "wanted"
        if number % 41 == 5:
            row["caption"] = ""
        if number % 97 == 11:
            row["image"] = cell(0)[:50]
    return write_csv(path, table)


def messy_source(path: Path, **values: Any) -> Any:
    settings = {"columns": {"id": "id"}, "where": {"kind": "wanted"}, "group": "group", **values}
    return csv_source(messy(path), **settings)


# the same whoever looks


def test_cold_warm_and_by_workers(tmp_path: Path, in_workers: None, looks: list[int]) -> None:
    source = messy_source(tmp_path / "table.csv")
    cold = look(source, on_bad_row="skip")
    assert (cold["ids"], cold["fingerprint"]) == by_hand([source])
    assert len(cold["faults"]) > 25
    assert [fault.row for fault in cold["faults"]] == sorted(fault.row for fault in cold["faults"])
    looks.clear()
    warm = look(source, on_bad_row="skip")
    assert warm == cold
    again = 13  # ids that come twice are compared with the row that had them first
    assert len(looks) <= len(cold["samples"]) + again
    os.environ["FINESIGHT_CACHE"] += "-other"
    looks.clear()
    assert look(source, jobs=2, on_bad_row="skip") == cold
    assert len(looks) <= len(cold["samples"]) + again, "rows were checked by workers"


def test_the_shipped_flags(in_workers: None) -> None:
    recipe = load_recipe("quickstart").data
    assert not isinstance(recipe.train, tuple)
    found = []
    for jobs in (2, 0):
        os.environ["FINESIGHT_CACHE"] += "-other"
        splits = read_splits(recipe, 7, Policy(recipe), Notices(), jobs=jobs)
        found.append({name: (part.fingerprint, list(part.ids)) for name, part in splits.items()})
    warm = read_splits(recipe, 7, Policy(recipe), Notices())
    found.append({name: (part.fingerprint, list(part.ids)) for name, part in warm.items()})
    assert found[0] == found[1] == found[2]
    ids, fingerprint = by_hand([recipe.train])
    assert found[0]["train"] == (fingerprint, ids)


@pytest.mark.parametrize("jobs", [0, 2])
def test_the_first_bad_row_is_told(tmp_path: Path, in_workers: None, jobs: int) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="row 6, column `caption`"):
            look(messy_source(tmp_path / "table.csv"), jobs=jobs)
    assert look(messy_source(tmp_path / "table.csv"), on_bad_row="skip")


@pytest.mark.parametrize(("jobs", "most"), [(0, (1, 4, 5, 250, 300, 700)), (2, (5, 300))])
def test_only_the_first_samples(tmp_path: Path, in_workers: None, jobs: int, most: tuple[int, ...]) -> None:
    """Rows after the last wanted one are neither samples nor faults, however they are dealt to workers."""
    whole = look(messy_source(tmp_path / "table.csv"), on_bad_row="skip")
    for count in most:
        last = whole["samples"][: min(count, len(whole["ids"]))][-1].origin.row
        source = messy_source(tmp_path / "table.csv", max_samples=count)
        for _ in range(2):
            found = look(source, jobs=jobs, on_bad_row="skip")
            assert found["ids"] == whole["ids"][:count]
            wanted = [fault for fault in whole["faults"] if fault.row <= last]
            assert found["faults"] == (wanted if count < len(whole["ids"]) else whole["faults"])


def test_ids_of_several_sources(tmp_path: Path, in_workers: None) -> None:
    table = rows(600)
    for number, row in enumerate(table):
        row["id"] = f"id {number}"
    first = csv_source(write_csv(tmp_path / "one.csv", table[:500]), columns={"id": "id"})
    second = csv_source(write_csv(tmp_path / "two.csv", table[450:]), columns={"id": "id"})
    third = csv_source(write_csv(tmp_path / "three.csv", table[:20]))
    listed = (first, second, third)
    cold = look(listed, on_bad_row="skip")
    assert (cold["ids"], cold["fingerprint"]) == by_hand(listed)
    assert cold["ids"][-1] == "three-3-20"
    assert [fault.row for fault in cold["faults"]] == list(range(1, 51))
    assert "row 451 too" in cold["faults"][0].reason
    assert look(listed, jobs=2, on_bad_row="skip") == cold
    with pytest.raises(DataError, match=r"the id `id 450` is that of .*one.csv, row 451 too"):
        look(listed)
    samples = read_samples(listed, Policy(data(first, on_bad_row="skip")), Notices(), "train")
    assert samples.sources.tolist() == [0] * 500 + [1] * 100 + [2] * 20
    shuffled = samples.take(np.random.default_rng(0).permutation(len(samples)))
    assert list(shuffled.ids) == [sample.id for sample in shuffled]
    assert shuffled.fingerprint != samples.fingerprint
    assert shuffled.take(np.argsort(np.argsort(list(shuffled.ids)))).sources.shape == (620,)


def test_two_ids_of_one_hash_are_two_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = check.hashed
    monkeypatch.setattr(check, "hashed", lambda text: 7 if text in ("id 9", "id 12") else hashed(text))
    table = [{**row, "id": f"id {number}"} for number, row in enumerate(rows(30))]
    table[20]["id"] = "id 4"
    source = csv_source(write_csv(tmp_path / "t.csv", table), columns={"id": "id"})
    found = look(source, on_bad_row="skip")
    assert len(found["ids"]) == 29
    assert {"id 9", "id 12"} < set(found["ids"])
    assert [fault.row for fault in found["faults"]] == [21]


# done anew in time


@pytest.mark.parametrize("what", ["row", "picture", "recipe", "prompt", "name"])
def test_what_changes_is_looked_at_again(tmp_path: Path, looks: list[int], what: str) -> None:
    table = rows(20)
    file = write_csv(tmp_path / "t.csv", table)
    look(csv_source(file))
    values: dict[str, Any] = {}
    if what in ("row", "picture"):
        column, value = ("caption", "Red 4") if what == "row" else ("image", cell(90))
        table[4][column] = value
        write_csv(file, table)
        os.utime(file, ns=(1, 1))
    elif what == "recipe":
        values["tags"] = ("kind",)
    elif what == "prompt":
        values["prompt"] = "{kind}?"
    else:
        file = file.rename(tmp_path / "other.csv")
    looks.clear()
    found = look(csv_source(file, **values))
    assert len(looks) == 40, "all rows were checked, and then read"
    assert found["ids"] == [f"{file.stem}-{number}" for number in range(1, 21)]


def test_other_access_is_another_check(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "a.png").write_bytes(png())
    file = write_csv(tmp_path / "pictures" / "t.csv", [{"image": "../a.png", "caption": "x"}])
    assert look(csv_source(file), allow_outside=True)["ids"] == ["t-1"]
    with pytest.raises(DataError, match="leads out of the folder"):
        look(csv_source(file))


# pictures in files of their own


def pictures(folder: Path, count: int = 6) -> Any:
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number))
    table = [{"image": f"{number}.png", "caption": f"c{number}"} for number in range(count)]
    return csv_source(write_csv(folder / "t.csv", table))


def checked(source: Any, how: str) -> SampleSet:
    recipe = data(source, check=how)
    return read_samples(source, Policy(recipe), Notices(), "train", checking=Checking.of(recipe))


@pytest.mark.parametrize("how", ["all", "quick"])
def test_a_picture_that_changes_is_noticed_when_it_is_used(
    tmp_path: Path, how: str, looks: list[int]
) -> None:
    source = pictures(tmp_path)
    before = checked(source, how)
    assert [len(before[index].images[0].data) for index in range(6)]
    (tmp_path / "2.png").write_bytes(png(99, 7, 9))
    for samples in (before, checked(source, how), pickle.loads(pickle.dumps(before))):
        assert samples.words(2).references == ("c2",)
        with pytest.raises(DataError, match=r"a picture changed since it was checked[\s\S]*row 3") as caught:
            samples[2]
        assert "begin again" in caught.value.faults[0].mend
        assert samples[3].images[0].data == png(3)
    looks.clear()
    after = checked(source, how)
    assert looks == [0, 1, 2, 3, 4, 5], "it was looked at again"
    assert after[2].images[0].data == png(99, 7, 9)
    assert after.fingerprint != before.fingerprint


def test_a_picture_that_was_touched_is_the_same(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    samples = checked(source, "all")
    os.utime(tmp_path / "2.png", ns=(5, 5))
    assert samples[2].images[0].data == png(2)
    quick = checked(source, "quick")
    os.utime(tmp_path / "2.png", ns=(6, 6))
    with pytest.raises(DataError, match="a picture changed"):
        quick[2]  # nobody knows what was in it


def test_a_quick_look_reads_no_picture(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    (tmp_path / "4.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="row 5, column `image`"):
        checked(source, "all")
    samples = checked(source, "quick")
    assert samples[4].images[0].data == b"no picture"
    (tmp_path / "3.png").unlink()
    os.utime(tmp_path / "t.csv", ns=(1, 1))
    with pytest.raises(DataError, match=r"there is no file .*3.png"):
        checked(source, "quick")


def test_a_quick_look_is_said_and_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    found = {how: look(source, check=how) for how in ("all", "quick", "auto")}
    assert found["all"]["fingerprint"] == found["auto"]["fingerprint"] != found["quick"]["fingerprint"]
    kinds = {how: [notice["kind"] for notice in told["notices"]] for how, told in found.items()}
    assert "quick" in kinds["quick"]
    assert "quick" not in kinds["all"]
    (tmp_path / "elsewhere").mkdir()
    assert (
        look(pictures(tmp_path / "elsewhere"), check="quick")["fingerprint"] == found["quick"]["fingerprint"]
    )


def test_many_rows_are_looked_at_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_ALL", 5)
    source = pictures(tmp_path)
    assert "quick" in [notice["kind"] for notice in look(source)["notices"]]
    few = csv_source(tmp_path / "t.csv", max_samples=5)
    assert "quick" not in [notice["kind"] for notice in look(few)["notices"]]


def test_words_of_a_quick_look_are_checked_as_ever(tmp_path: Path) -> None:
    pictures(tmp_path)
    table = [{"image": "1.png", "caption": "c"}, {"image": "2.png", "caption": " "}]
    with pytest.raises(DataError, match="the answer is empty"):
        checked(csv_source(write_csv(tmp_path / "t.csv", table)), "quick")


# what goes wrong meanwhile


def slow(path: Path, count: int, side: int) -> Any:
    """Rows that take a while to check, and little room: pictures of one colour."""
    large = base64.b64encode(encode(np.full((side, side, 3), 7, np.uint8), "PNG")).decode()
    return csv_source(write_csv(path, [{"image": large, "caption": f"c{n}"} for n in range(count)]))


def test_a_worker_that_is_killed_is_told_with_its_row(tmp_path: Path, in_workers: None) -> None:
    source = slow(tmp_path / "t.csv", 3000, 1200)
    before = psutil.Process().children()  # of other tests, or of Python itself

    def kill() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for child in psutil.Process().children():
                if child not in before and child.cpu_times().user > 0.6:
                    child.kill()
                    return
            time.sleep(0.05)

    killer = Thread(target=kill)
    killer.start()
    with pytest.raises(WorkerError, match="SIGKILL") as caught:
        look(source, jobs=2)
    killer.join()
    assert "t.csv, row " in caught.value.faults[0].where
    assert [child for child in psutil.Process().children() if child not in before] == []


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_stop_in_the_midst(
    tmp_path: Path, in_workers: None, jobs: int, monkeypatch: pytest.MonkeyPatch, looks: list[int]
) -> None:
    monkeypatch.setattr(passing, "_EVERY", -1.0)

    class Stop(Exception):
        pass

    def tick(rows: int) -> None:
        if rows > 2400:  # so many are told only when the first chunk is finished, whichever worker is slow
            raise Stop

    source = slow(tmp_path / "t.csv", 3300, 100)
    policy = Policy(data(source))
    before = psutil.Process().children()  # of other tests, or of Python itself
    with pytest.raises(Stop):
        read_samples(source, policy, Notices(), "train", tick, Checking(jobs=jobs))
    assert [child for child in psutil.Process().children() if child not in before] == []
    looks.clear()
    samples = read_samples(source, policy, Notices(), "train", checking=Checking(jobs=0))
    assert len(samples) == 3300
    assert len(looks) < 3300, "what was checked before was not checked again"
    assert (list(samples.ids), samples.fingerprint) == by_hand([source])


# many rows


@pytest.mark.proof
def test_a_warm_start_reads_no_row(
    tmp_path: Path, proof_factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 5000 * proof_factor
    file = tmp_path / "rows.jsonl"
    with open(file, "w") as stream:
        for number in range(count):
            row = {"question": f"what is {number}?", "answer": f"it is {number % 9}", "of": f"g{number // 3}"}
            stream.write(json.dumps(row) + "\n")
    recipe = Data(
        train=TextSource(source="text", path=str(file), group="of"),
        val=Split(split=0.1),
        test=Split(split={"column": "of", "values": ("g7", "g8")}),
    )

    def start() -> dict[str, Any]:
        splits = read_splits(recipe, 7, Policy(recipe), Notices())
        return {name: (part.fingerprint, len(part), list(part.ids[:9])) for name, part in splits.items()}

    cold = start()
    assert sum(size for _, size, _ in cold.values()) == count
    assert cold["test"][1] in (3, 6)
    from finesight.data.sources.json import JsonReader

    reads, row = [], JsonReader.row

    def counted(self: JsonReader, index: int, *rest: Any) -> Any:
        reads.append(index)
        return row(self, index, *rest)

    monkeypatch.setattr(JsonReader, "row", counted)
    assert start() == cold
    assert len(reads) <= 1500, "some rows tell the columns; the others are not read, however many there are"


def test_a_set_is_small_when_it_is_sent(tmp_path: Path) -> None:
    source = csv_source(write_csv(tmp_path / "t.csv", rows(400)))
    samples = read_samples(source, Policy(data(source)), Notices(), "train")
    sent = pickle.dumps(samples)
    assert len(sent) < 400 * 8 + 6000 + len(pickle.dumps(samples.row(0)[0]))
    assert pickle.loads(sent)[17] == samples[17]


# what a person sees of a set


def test_a_set_is_a_sequence(tmp_path: Path) -> None:
    samples, _ = read(csv_source(write_csv(tmp_path / "t.csv", rows(9))))
    assert len(samples) == len(list(samples)) == 9
    assert samples[-1].id == "t-9" == samples.ids[-1]
    assert [sample.id for sample in samples[2:8:3]] == ["t-3", "t-6"]
    assert samples[4] in samples
    assert repr(samples) == f"<9 samples of {tmp_path / 't.csv'}>"
    assert samples.ids == tuple(f"t-{number}" for number in range(1, 10))
    assert samples.ids != ("t-1",)
    assert repr(samples.ids[:2]) == "['t-1', 't-2']"
    assert repr(samples.ids).startswith("<9: 't-1', 't-2'")
    assert samples.ids[3:5] == ["t-4", "t-5"]
    assert str(samples.origin(3)) == f"{tmp_path / 't.csv'}, row 4"
    for wrong in (9, -10):
        with pytest.raises(IndexError):
            samples[wrong]
        with pytest.raises(IndexError):
            samples.ids[wrong]


# counting and telling apart


DIGESTS = st.lists(st.integers(0, 6).flatmap(lambda a: st.tuples(st.just(a), st.integers(0, 3))), max_size=40)


def digests(pairs: list[tuple[int, int]]) -> np.ndarray:
    """Digests whose first halves are often equal where the second ones are not."""
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2).view("V16").reshape(-1)


@given(DIGESTS, DIGESTS)
def test_counts_of_digests(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    assert in_both(digests(some), digests(others)) == sum(one in others for one in some)
    assert twice(digests(some)) == len(some) - len(set(some))


@given(st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=12))
def test_ids_that_were_seen(parts: list[list[int]]) -> None:
    seen, known = Seen(), dict[int, int]()
    for number, names in enumerate(parts):
        at = places(number, np.arange(len(names)) * 3)
        found = seen.before(np.array(names, dtype=np.uint64), at)
        wanted = []
        for name, place in zip(names, at.tolist(), strict=True):
            wanted.append(known.get(name, NEW))
            known.setdefault(name, place)
        assert found.tolist() == wanted
        new = found == NEW
        seen.add(np.array(names, dtype=np.uint64)[new], at[new])
    assert all(len(one[0]) > 2 * len(two[0]) for one, two in zip(seen._runs, seen._runs[1:], strict=False))


@given(st.integers(0, 2**20), st.integers(0, 2**39))
def test_places(source: int, row: int) -> None:
    assert source_and_row(int(places(source, np.array([row]))[0])) == (source, row)
