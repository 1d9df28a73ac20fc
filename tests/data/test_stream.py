"""Streams: each row once a pass, the same order whoever prepares it and wherever one begins, nothing read by number."""

import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import cell, csv_source, data, png, rows, tiny_ports, write_csv
from test_loader import contents

from finesight.config.data import Transforms
from finesight.config.sources import TarSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.dataset import Policy, transform_of
from finesight.data.lengths import Limit
from finesight.data.loading.order import Share
from finesight.data.loading.shuffle import ShuffleBuffer
from finesight.data.loading.stream import Deal, StreamSet
from finesight.data.loading.workers import Workers
from finesight.data.samples import RowSource, open_rows, rows_of
from finesight.data.sources import Row
from finesight.data.stream_rows import StreamRows


class Endless:
    """A reader of numbered rows that come one after another; `count` of them, or without end."""

    file, root = "stream", "."
    columns = ("image", "caption", "question", "kind")
    notes = ()

    def __init__(self, count: int | None, bad: Collection[int] = (), pictures: bool = False) -> None:
        self.count, self.bad, self.pictures = count, bad, pictures
        self.starts: list[int] = []

    def iter_rows(self, start: int) -> Iterator[Row | DataError]:
        self.starts.append(start)
        for number in itertools.count(start) if self.count is None else range(start, self.count):
            yield (
                DataError("it is broken", f"stream, row {number + 1}", "")
                if number in self.bad
                else {
                    "number": number,
                    "image": cell(number) if self.pictures else "",
                    "caption": f"word {number}",
                    "question": "what is it?",
                    "kind": f"kind {number % 3}",
                }
            )

    def origin(self, index: int) -> Origin:
        return Origin("stream", index + 1)

    def identity(self) -> str:
        return f"{self.count}"


class Known(Endless):
    """One that knows how many rows it has."""

    def __len__(self) -> int:
        assert self.count is not None
        return self.count


def stream_rows(reader: Any, **settings: Any) -> StreamRows:
    """The rows of a reader as a source of its own."""
    columns = {"image": "image", "question": "question", "answer": "caption"}
    source = csv_source(Path("stream.csv"), columns=columns, stream=True, **settings)
    return StreamRows(rows_of(reader, source, "stream"))


ALL = Share()


def dealt(reader: Any, size: int, batch: int, steps: range, share: Share = ALL, **settings: Any) -> list[Any]:
    """Step, epoch and row numbers of each step."""
    found = stream_rows(reader, **settings)
    deal = Deal(found, ShuffleBuffer(size, "data", 7), batch, steps, share, lambda step, item: None)
    return [(step, epoch, [row.number for row in drawn]) for step, epoch, drawn in deal]


COUNTS = st.integers(1, 70)
BUFFERS = st.integers(1, 40)
BATCHES = st.integers(1, 9)


@given(count=COUNTS, size=BUFFERS, batch=BATCHES, known=st.booleans())
def test_each_row_once_a_pass_in_the_buffers_order(count: int, size: int, batch: int, known: bool) -> None:
    steps = -(-count // batch)
    found = dealt((Known if known else Endless)(count), size, batch, range(3 * steps))
    assert [step for step, _, _ in found] == list(range(3 * steps))
    buffer = ShuffleBuffer(size, "data", 7)
    for epoch in range(3):
        part = found[epoch * steps : (epoch + 1) * steps]
        assert {at for _, at, _ in part} == {epoch}
        assert [len(drawn) for _, _, drawn in part[:-1]] == [batch] * (steps - 1)
        assert [number for _, _, drawn in part for number in drawn] == buffer.order(epoch, count).tolist()


@given(
    count=COUNTS,
    size=BUFFERS,
    batch=BATCHES,
    known=st.booleans(),
    chosen=st.booleans(),
    begin=st.integers(0, 200),
)
def test_where_it_begins_changes_nothing(
    count: int, size: int, batch: int, known: bool, chosen: bool, begin: int
) -> None:
    settings = {"where": {"kind": "kind 1"}} if chosen and count > 1 else {}
    kind = Known if known else Endless
    whole = dealt(kind(count), size, batch, range(begin + 5), **settings)
    assert dealt(kind(count), size, batch, range(begin, begin + 5), **settings) == whole[begin:]


@given(count=COUNTS, size=BUFFERS, batch=BATCHES, world=st.integers(1, 5))
def test_ranks_share_each_step(count: int, size: int, batch: int, world: int) -> None:
    steps = range(2 * -(-count // batch))
    whole = dealt(Endless(count), size, batch, steps)
    parts = [dealt(Endless(count), size, batch, steps, Share(rank, world)) for rank in range(world)]
    for at, (step, epoch, drawn) in enumerate(whole):
        shares = [part[at] for part in parts]
        assert {share[:2] for share in shares} == {(step, epoch)}
        assert sorted(number for _, _, numbers in shares for number in numbers) == sorted(drawn)
        assert max(len(share[2]) for share in shares) - min(len(share[2]) for share in shares) <= 1


def test_where_takes_no_place_in_the_order() -> None:
    found = dealt(Endless(30), 4, 5, range(4), where={"kind": "kind 2"})
    assert [len(drawn) for _, _, drawn in found] == [5, 5, 5, 5]
    assert sorted(number for _, _, drawn in found[:2] for number in drawn) == list(range(2, 30, 3))


@pytest.mark.parametrize("most", [1, 7, 10, 99])
@pytest.mark.parametrize("kind", [Known, Endless])
def test_the_first_samples_alone(most: int, kind: type[Endless]) -> None:
    seen = sorted(number for _, epoch, drawn in dealt(kind(10), 3, 4, range(9), max_samples=most) for number in drawn
                  if epoch == 0)  # fmt: skip
    assert seen == list(range(min(10, most)))


def test_the_first_samples_of_an_endless_stream() -> None:
    found = dealt(Endless(None), 3, 4, range(4), max_samples=6)
    assert [(epoch, len(drawn)) for _, epoch, drawn in found] == [(0, 4), (0, 2), (1, 4), (1, 2)]


def test_an_endless_stream_has_one_pass() -> None:
    found = dealt(Endless(None), 10, 4, range(50))
    assert {epoch for _, epoch, _ in found} == {0}
    seen = [number for _, _, drawn in found for number in drawn]
    assert len(set(seen)) == 200 and max(seen) < 210
    assert dealt(Endless(None), 10, 4, range(37, 50)) == found[37:]


def test_it_goes_on_near_where_it_was() -> None:
    """What was drawn long ago is not read again, where the reader can begin anywhere."""
    reader = Endless(None)
    dealt(reader, 100, 10, range(5000, 5001))
    assert 48_000 < reader.starts[0] <= 50_000
    reader = Endless(None)
    dealt(reader, 100, 10, range(50, 51), where={"kind": "kind 1"})
    assert reader.starts == [0]


def test_rows_are_read_as_they_are_needed() -> None:
    read = []

    class Counted(Endless):
        def iter_rows(self, start: int) -> Iterator[Row | DataError]:
            for row in super().iter_rows(start):
                read.append(row)
                yield row

    dealt(Counted(None), 20, 4, range(3))
    assert len(read) == 20 + 12


@pytest.mark.parametrize(("before", "now"), [(30, 29), (30, 31)])
def test_a_stream_that_changes_its_length(before: int, now: int) -> None:
    class Changing(Endless):
        def iter_rows(self, start: int) -> Iterator[Row | DataError]:
            self.count = before if not self.starts else now
            return super().iter_rows(start)

    with pytest.raises(DataError, match=f"{now} rows, not {before}"):
        dealt(Changing(None), 7, 5, range(20))


def test_a_stream_without_rows() -> None:
    with pytest.raises(DataError, match="no row"):
        dealt(Endless(0), 7, 5, range(2))
    with pytest.raises(DataError, match="`where`"):
        dealt(Endless(20), 7, 5, range(2), where={"kind": "kind 9"})


# windows


def stream_set(reader: Any, buffer: int = 5, **settings: Any) -> StreamSet:
    transform = transform_of(Transforms(rotate=20.0, brightness=0.3))
    found = stream_rows(reader, buffer=buffer, **settings)
    return StreamSet(found, tiny_ports(), 7, Limit(), transform)


def reading(table: Path) -> RowSource:
    opened = open_rows(csv_source(table), "stream")
    return replace(opened, source=opened.source.model_copy(update={"stream": True, "buffer": 5}))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "table.csv", rows(13))


def table_set(table: Path) -> StreamSet:
    transform = transform_of(Transforms(rotate=20.0, brightness=0.3))
    return StreamSet(StreamRows(reading(table)), tiny_ports(), 7, Limit(), transform)


def test_workers_and_where_it_begins_change_no_batch(table: Path) -> None:
    whole = contents(table_set(table).windows(4, 0, 9, 3, 0))
    assert [len(name) for window in whole[:4] for name, *_ in window] == [3, 1, 3, 1, 3, 1, 1]
    for start, workers in ((0, 1), (0, 2), (0, 3), (3, 0), (4, 2), (8, 1)):
        assert contents(table_set(table).windows(4, start, 9, 3, workers)) == whole[start:]
    names = [
        sorted(name for window in whole[at : at + 4] for batch in window for name in batch[0])
        for at in (0, 4)
    ]
    assert names[0] == names[1] == sorted(f"stream-{number}" for number in range(1, 14))


def test_another_pass_changes_the_pictures(table: Path) -> None:
    whole = contents(table_set(table).windows(1, 0, 26, 1, 0))
    pixels = [
        {batch[0]: batch[1]["pixel_values"][2] for window in part for batch in window}
        for part in (whole[:13], whole[13:])
    ]
    assert pixels[0].keys() == pixels[1].keys()
    assert all(pixels[0][name] != pixels[1][name] for name in pixels[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_rows_are_left_out_and_told(workers: int) -> None:
    bad = stream_set(Endless(12, bad=(3, 7), pictures=True))
    policy = Policy(data(csv_source(Path("x")), on_bad_row="skip"))
    found = contents(bad.windows(4, 0, 6, 4, workers, policy))
    assert sum(len(batch[0]) for window in found[:3] for batch in window) == 10
    assert sorted((fault.file, fault.row) for fault in policy.faults) == [("stream", 4), ("stream", 8)]
    with pytest.raises(DataError, match="it is broken"):
        list(bad.windows(4, 0, 3, 4, workers, Policy(data(csv_source(Path("x"))))))
    limited = Policy(data(csv_source(Path("x")), on_bad_row="skip", bad_row_limit=1))
    with pytest.raises(DataError, match="more than 1 rows"):
        list(bad.windows(4, 0, 3, 4, workers, limited))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_without_a_good_row(workers: int) -> None:
    policy = Policy(data(csv_source(Path("x")), on_bad_row="skip"))
    with pytest.raises(DataError, match="no sample of step 1 can be used"):
        list(stream_set(Endless(12, bad=range(12))).windows(4, 0, 3, 4, workers, policy))


def test_the_fingerprint_names_rows_recipe_and_encoder() -> None:
    one = stream_set(Endless(9))
    others = [
        stream_set(Endless(8)),
        stream_set(Endless(9), buffer=6),
        stream_set(Endless(9), where={"kind": "a"}),
    ]
    others.append(replace(one, ports=replace(one.ports, fingerprint="another")))
    assert len({item.fingerprint for item in [one, stream_set(Endless(9)), *others]}) == 5


def write_tars(folder: Path, count: int, shards: int = 3) -> str:
    """Shards with `count` rows, no two with the same words."""
    for shard in range(shards):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as archive:
            for number in range(shard, count, shards):
                told = json.dumps({"question": "what is it?", "answer": f"word {number}"}).encode()
                for ending, content in (("png", png(number % 50)), ("json", told)):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return str(folder / f"part-{{0..{shards - 1}}}.tar")


def tar_set(path: str, buffer: int) -> StreamSet:
    source = TarSource(source="tar", path=path, stream=True, buffer=buffer)
    return StreamSet(StreamRows(open_rows(source, "part")), tiny_ports(), 7, Limit())


def test_tar_shards_are_a_stream_wherever_it_begins(tmp_path: Path) -> None:
    path = write_tars(tmp_path, 20)
    assert tar_set(path, 6).rows.length is None
    whole = contents(tar_set(path, 6).windows(4, 0, 12, 4, 0))
    for start, workers in ((0, 2), (3, 1), (5, 2), (9, 0)):
        assert contents(tar_set(path, 6).windows(4, start, 12, 4, workers)) == whole[start:]


def test_a_bad_row_of_the_second_shard_is_told_by_its_name(tmp_path: Path) -> None:
    path = write_tars(tmp_path, 9, shards=2)
    content = (tmp_path / "part-1.tar").read_bytes()
    (tmp_path / "part-1.tar").write_bytes(content.replace(b"\x89PNG", b"xxxx", 1))
    policy = Policy(data(csv_source(Path("x")), on_bad_row="skip"))
    list(tar_set(path, 4).windows(3, 0, 3, 3, 2, policy))
    assert [(Path(fault.file).name, fault.row, fault.column) for fault in policy.faults] == [
        ("part-1.tar", 1, "image")
    ]


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["rows", "tar"])
def test_every_id_once_a_pass_on_three_ranks_with_two_workers(
    kind: str, tmp_path: Path, proof_factor: int
) -> None:
    count, batch = (1_007 if proof_factor == 1 else 10_007), 64
    steps = -(-count // batch)
    path = write_tars(tmp_path, count) if kind == "tar" else ""
    names: list[list[list[str]]] = []
    for rank in range(3):
        stream = tar_set(path, 100) if path else stream_set(Endless(count, pictures=True), buffer=100)
        found = stream.windows(batch, 0, 2 * steps, batch, Workers(2), share=Share(rank, 3))
        names.append([[name for part in window for name in part.ids] for window in found])
    passes = []
    for epoch in range(2):
        by_rank = [list(itertools.chain(*part[epoch * steps : (epoch + 1) * steps])) for part in names]
        seen = Counter(itertools.chain(*by_rank))
        assert sorted(int(name.rpartition("-")[2]) for name in seen) == list(range(1, count + 1))
        assert set(seen.values()) == {1}
        passes.append(by_rank)
    assert passes[0] != passes[1]
