"""WebDataset shards: any row at once, as the order, the names and the kinds of members have it."""

import io
import json
import os
import pickle
import random
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from archives import END, pictures, rows_as_members, special, tar_bytes, write_shards
from hypothesis import given
from hypothesis import strategies as st

from finesight.config.sources import TarSource
from finesight.core.errors import DataError
from finesight.data.samples import open_rows
from finesight.data.sources import tar_index
from finesight.data.sources.tar import TarReader, open_tar, open_tars
from finesight.data.sources.tar_index import split_name


def reader_of(folder: Path, data: bytes, name: str = "a.tar") -> TarReader:
    (folder / name).write_bytes(data)
    return open_tars(str(folder / name))


def one(folder: Path, *members: tuple[str, bytes]) -> TarReader:
    return reader_of(folder, tar_bytes(members))


def test_rows_of_several_shards(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "d", 3, 5)
    for path in (pattern, str(tmp_path / "d"), str(tmp_path / "d" / "*.tar")):
        found = open_tars(path)
        assert len(found) == 15
        assert found.columns == ("__key__", "png", "txt", "cls", "image", "text", "number", "kind")
        for index in random.Random(1).sample(range(15), 15):
            _, data, caption = pictures()[index]
            assert found.row(index) == {
                "__key__": f"train/{index:04d}",
                "png": data,
                "image": data,
                "txt": caption,
                "text": caption,
                "cls": index % 5,
                "number": index,
                "kind": f"k{index % 3}",
            }
            assert str(found.origin(index)) == f"{tmp_path}/d/shard-{index // 5:04d}.tar, row {index % 5 + 1}"
    assert found.row(7, ["kind"]) == {"kind": "k1"}
    assert found.row(7, ("image", "text")) == {"image": pictures()[7][1], "text": pictures()[7][2]}
    assert found.row(7, ()) == {}
    with pytest.raises(IndexError):
        found.row(15)
    with pytest.raises(IndexError):
        found.row(-1)


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_tars(write_shards(tmp_path, 1, 3))
    read: list[int] = []
    held = found._files.read
    monkeypatch.setattr(found._files, "read", lambda *place: read.append(place[2]) or held(*place))
    found.row(1, ("txt",))
    assert read == [len(pictures()[1][2].encode())]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_forms_of_archives(tmp_path: Path, form: int) -> None:
    names = ["a.txt", "mappe/größe.txt", "x" * 90 + ".txt", "日本/旗.txt"]
    if form != tarfile.USTAR_FORMAT:
        names += ["d" * 120 + "/" + "n" * 130 + ".txt"]
    found = reader_of(tmp_path, tar_bytes([(name, name.encode()) for name in names], form))
    assert [found.row(index)["txt"] for index in range(len(found))] == names
    assert [found.row(index)["__key__"] + ".txt" for index in range(len(found))] == names


def test_an_archive_of_before_posix(tmp_path: Path) -> None:
    data = bytearray(tar_bytes([("a.txt", b"old"), ("b.txt", b"older")]))
    for start in (0, 1024):
        data[start + 257 : start + 512] = bytes(255)
        data[start + 156] = 0
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    found = reader_of(tmp_path, bytes(data))
    assert [found.row(index)["txt"] for index in range(len(found))] == ["old", "older"]


def test_names_as_webdataset_parts_them(tmp_path: Path) -> None:
    assert split_name("a/b.jpg") == ("a/b", "jpg")
    assert split_name("./a/b.JPG") == ("a/b", "jpg")
    assert split_name("a.d/b.seg.png") == ("a.d/b", "seg.png")
    for name in ("README", "a/.hidden", "a/b.", ".jpg", "", "a.b/c", "/"):
        assert split_name(name) is None
    found = one(
        tmp_path,
        ("s.left.png", b"L"), ("s.png", b"P"), ("s.json", b'{"png": "no", "image": "s.png", "left": 1, "n": null}'),
        ("t.1.jpg", b"1"), ("t.0.jpg", b"0"), ("t.10.jpg", b"10"), ("t.wav", b"W"),
        ("u.json", b'["no", "object"]'), ("u.cls", b"cat"), ("u.npy", b"\x93"),
    )  # fmt: skip
    assert found.row(0) == {"__key__": "s", "left.png": b"L", "png": b"P", "image": b"P", "left": 1}
    assert found.row(1)["image"] == [b"0", b"1", b"10"]
    assert found.row(1)["audio"] == found.row(1)["wav"] == b"W"
    assert found.row(2) == {"__key__": "u", "json": ["no", "object"], "cls": "cat", "npy": b"\x93"}
    assert {"left", "left.png", "0.jpg", "image", "audio", "json", "cls", "npy"} <= set(found.columns)


def test_members_of_a_row_need_not_stand_side_by_side(tmp_path: Path) -> None:
    members = [
        (f"{stem}.{ending}", f"{stem}{ending}".encode()) for ending in ("txt", "dat") for stem in "abc"
    ]
    found = one(tmp_path, *members)
    assert [found.row(index) for index in range(3)] == [
        {"__key__": stem, "txt": f"{stem}txt", "text": f"{stem}txt", "dat": f"{stem}dat".encode()}
        for stem in "abc"
    ]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    found = one(
        tmp_path, ("a.txt", b"1"), ("a.pyd", b"cos\nsystem"), ("b.txt", b"2"), ("b.pth", b""), ("c.pkl", b""),
        ("README", b"x"), ("._a.txt", b"mac"), ("__meta__/a.txt", b"y"),
    )  # fmt: skip
    assert len(found) == 2
    assert found.columns == ("__key__", "txt", "text")
    told = " ".join(text for _, text in found.notes)
    assert all(f"1 × members .{name}, which are pickles" in told for name in ("pyd", "pth", "pkl"))
    assert "2 × members without an extension, or hidden" in told


def test_a_row_with_a_broken_member_is_that_rows_fault(tmp_path: Path) -> None:

    members = tar_bytes(
        [
            ("a.txt", b"1"),
            ("b.txt", b"\xff"),
            ("c.txt", b"3"),
            ("c.json", b'{"n": NaN}'),
            ("d.txt", b"4"),
            ("d.txt", b"5"),
        ]
    )
    end = members.rstrip(b"\0")
    whole = end + bytes(-len(end) % 512)
    whole += special("e.txt", tarfile.SYMTYPE, "/etc/passwd") + special("f.txt", tarfile.LNKTYPE, "a.txt")
    whole += special("g.txt", tarfile.CHRTYPE) + special("h.txt", tarfile.FIFOTYPE)
    whole += tar_bytes(
        [("../i.txt", b"out"), ("/j.txt", b"out"), ("k/../../l.txt", b"out"), ("z.txt", b"last")]
    )
    found = reader_of(tmp_path, whole)
    reasons = {
        1: r"byte 1 of member `b\.txt` is not UTF-8",
        2: r"member `c\.json` is not JSON: NaN",
        3: "two members have the extension `.txt`",
        4: r"member `e\.txt` is a symbolic link",
        5: r"member `f\.txt` is a hard link",
        6: r"member `g\.txt` is a device",
        7: r"member `h\.txt` is a pipe",
        8: r"member `\.\./i\.txt` has a name that leads out",
        9: r"member `/j\.txt` has a name that leads out",
        10: r"member `k/\.\./\.\./l\.txt` has a name that leads out",
    }
    assert len(found) == 12
    assert (found.row(0)["txt"], found.row(11)["txt"]) == ("1", "last")
    for index, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as caught:
            found.row(index)
        assert str(found.origin(index)) in caught.value.faults[0].where


def test_a_shard_that_is_cut_short(tmp_path: Path) -> None:
    whole = tar_bytes(rows_as_members(4))
    place = whole.index(b"train/0003.png") + 700
    found = reader_of(tmp_path, whole[:place])
    assert len(found) == 4
    assert found.row(2)["number"] == 2
    with pytest.raises(DataError, match=r"member `train/0003\.png` is cut short"):
        found.row(3)


def test_a_damaged_header_costs_its_members_alone(tmp_path: Path) -> None:
    whole = bytearray(tar_bytes(rows_as_members(4)))
    place = whole.index(b"train/0001.txt")
    whole[place + 3] ^= 64
    found = reader_of(tmp_path, bytes(whole))
    good = [index for index in range(len(found)) if found.origin(index).row != 3]
    assert len(found) == 5  # one of them the damage
    with pytest.raises(DataError, match=f"a damaged header; nothing is read from byte {place + 1:,}"):
        found.row(2)
    assert [found.row(index)["number"] for index in good] == [0, 1, 2, 3]
    assert "txt" not in found.row(1)


def test_nothing_behind_the_end_is_read(tmp_path: Path) -> None:
    found = reader_of(tmp_path, tar_bytes([("a.txt", b"1")]) + END + tar_bytes([("b.txt", b"2")]))
    assert len(found) == 1
    assert "bytes behind their end" in found.notes[0][1]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"x" * 2000, "no tar archive"),
        (END * 4, "no row"),
        (b"\x1f\x8b\x08" + bytes(100), "compressed"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed"),
        (b"PK\x03\x04" + bytes(1000), "no tar archive"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        reader_of(tmp_path, data)
    assert str(tmp_path) in caught.value.faults[0].where


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path, what in (
        (str(tmp_path), "no file in this folder"),
        (str(tmp_path / "none.tar"), "does not exist"),
        (str(tmp_path / "*.tar"), "no file fits"),
        ("pipe:cat /etc/passwd", "would run a program"),
        (str(tmp_path / "{0..99999999}.tar"), "more than 100,000 files"),
        ("/dev/null", "not a file"),
    ):
        with pytest.raises(DataError, match=what):
            open_tars(path)


def test_dots_in_names_are_told(tmp_path: Path) -> None:
    members = [(f"v1.{number}.png", b"") for number in range(1001)]
    with pytest.raises(DataError, match="a stem ends at the first dot"):
        one(tmp_path, *members)


def test_other_processes_and_threads(tmp_path: Path) -> None:
    found = open_tars(write_shards(tmp_path, 2, 8))
    again = pickle.loads(pickle.dumps(found))
    expected = [found.row(index) for index in range(16)]
    assert [again.row(index) for index in range(16)] == expected
    wrong: list[int] = []

    def look(seed: int) -> None:
        order = random.Random(seed).choices(range(16), k=300)
        wrong.extend(index for index in order if again.row(index) != expected[index])

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_shards_than_files_that_may_be_open(tmp_path: Path) -> None:
    found = open_tars(write_shards(tmp_path, 150, 1))
    assert [found.row(index)["number"] for index in (*range(150), *range(0, 150, 7))] == [
        *range(150),
        *range(0, 150, 7),
    ]


def test_a_changed_shard_is_another_source(tmp_path: Path) -> None:
    found = one(tmp_path, ("a.txt", b"1"))
    before = found.identity()
    assert found.row(0)["txt"] == "1"
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.txt", b"2" * 2000)]))
    assert open_tars(str(tmp_path / "a.tar")).identity() != before
    assert open_tars(str(tmp_path / "a.tar")).row(0)["txt"] == "2" * 2000
    with pytest.raises(DataError, match="changed"):
        found.row(0)


def test_a_touched_shard_is_the_same(tmp_path: Path) -> None:
    found = one(tmp_path, ("a.txt", b"1"))
    (tmp_path / "a.tar").touch()
    assert found.row(0)["txt"] == "1"


def test_equal_size_and_time_do_not_deceive(tmp_path: Path) -> None:
    large = ("x.dat", bytes(2 << 20))  # so that the index is kept
    one(tmp_path, large, ("a.txt", b"1"))
    stamp = (tmp_path / "a.tar").stat().st_mtime_ns
    (tmp_path / "a.tar").write_bytes(tar_bytes([large, ("b.txt", b"2")]))
    os.utime(tmp_path / "a.tar", ns=(stamp, stamp))
    assert open_tars(str(tmp_path / "a.tar")).row(1)["__key__"] == "b"


def test_an_index_is_kept_and_made_anew_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    members = [*rows_as_members(5), ("x.dat", bytes(2 << 20)), ("../y.txt", b"out"), ("z.pyd", b"")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    os.utime(tmp_path / "a.tar", (1e9, 1e9))
    scans: list[str] = []
    scanned = tar_index._scanned
    monkeypatch.setattr(tar_index, "_scanned", lambda *given: scans.append("") or scanned(*given))
    first = open_tars(str(tmp_path / "a.tar"))
    again = open_tars(str(tmp_path / "a.tar"))
    assert len(scans) == 1
    assert (again.columns, again.notes, len(again)) == (first.columns, first.notes, len(first))
    assert [again.row(index) for index in range(6)] == [first.row(index) for index in range(6)]
    with pytest.raises(DataError, match="leads out"):
        again.row(6)
    (kept,) = (tmp_path / "cache" / "tar").rglob("index")
    kept.write_bytes(kept.read_bytes()[:-9] + b"x" * 9)
    assert open_tars(str(tmp_path / "a.tar")).row(3) == first.row(3)
    assert len(scans) == 2


def test_shards_at_an_address(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for number in range(2):
        files.pipe(f"/tars/s-{number:03d}.tar", tar_bytes(rows_as_members(3, 3 * number)))
    for path in ("memory://tars", "memory://tars/s-*.tar", "memory://tars/s-{000..001}.tar"):
        found = open_tars(path)
        assert [found.row(index)["number"] for index in range(6)] == [*range(6)]
        assert found.row(4)["image"] == pictures()[4][1]
    for path in ("memory://tars/none.tar", "memory://nothing/*.tar"):
        with pytest.raises(DataError):
            open_tars(path)


def streamed(path: str, start: int = 0) -> Iterator[Any]:
    return open_tar(TarSource(source="tar", path=path, stream=True)).iter_rows(start)  # type: ignore[union-attr]


def test_a_stream_gives_the_same_rows(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "d", 3, 4)
    found, stream = open_tars(pattern), open_tar(TarSource(source="tar", path=pattern, stream=True))
    rows = [found.row(index) for index in range(12)]
    assert list(streamed(pattern)) == rows
    assert list(streamed(pattern, 5)) == rows[5:]
    assert set(stream.columns) == set(found.columns)
    assert not hasattr(stream, "__len__")
    assert list(stream.iter_rows()) == rows  # type: ignore[union-attr]
    assert [stream.origin(index) for index in range(12)] == [found.origin(index) for index in range(12)]


def test_a_stream_gives_faults_in_the_place_of_rows(tmp_path: Path) -> None:
    end = tar_bytes([("a.txt", b"1"), ("b.json", b"{"), ("b.txt", b"2"), ("x.pyd", b"")]).rstrip(b"\0")
    data = (
        end
        + bytes(-len(end) % 512)
        + special("c.txt", tarfile.SYMTYPE, "a.txt")
        + tar_bytes([("d.txt", b"4")])
    )
    (tmp_path / "a.tar").write_bytes(data)
    found = open_tars(str(tmp_path / "a.tar"))
    for index, row in enumerate(streamed(str(tmp_path / "a.tar"))):
        if index in (1, 2):
            with pytest.raises(DataError) as caught:
                found.row(index)
            assert isinstance(row, DataError) and row.faults == caught.value.faults
        else:
            assert row == found.row(index)
    assert index == 3


def test_samples(tmp_path: Path) -> None:
    found = open_rows(
        TarSource(source="tar", path=write_shards(tmp_path, 2, 3), prompt="What is it?", tags=("kind",))
    )
    sample = found.sample(4)
    assert sample is not None
    assert (sample.prompt, sample.references, sample.tags) == (
        "What is it?",
        (pictures()[4][2],),
        {"kind": "k1"},
    )
    assert sample.images[0].data == pictures()[4][1]


names = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=120)


@given(st.lists(st.tuples(names, st.binary(max_size=600)), max_size=8))
def test_any_names_are_read_as_tarfile_reads_them(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]]
) -> None:
    data = tar_bytes(members, tarfile.PAX_FORMAT)
    folder = tmp_path_factory.mktemp("names")
    held: dict[tuple[str, str], list[bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            parts = split_name(member.name)
            if parts and not member.name.startswith("__") and not member.name.endswith("/"):
                content = archive.extractfile(member)
                assert content is not None
                held.setdefault(parts, []).append(content.read())
    try:
        found = reader_of(folder, data)
    except DataError:
        assert not [
            ending for _, ending in held if ending.rpartition(".")[2] not in ("pt", "pth", "pkl", "pyd")
        ]
        return
    for index in range(len(found)):
        try:
            row = found.row(index)
        except DataError:
            continue  # a name that leads out, a text that is none, a name that comes twice
        key = row["__key__"]
        for ending, value in row.items():
            if (key, ending) in held and isinstance(value, bytes):
                assert held[key, ending] == [value]


def test_json_is_parsed_strictly(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        ("a.json", b'{"a": 1, "a": 2}'),
        ("b.json", b"[" * 100_000),
        ("c.json", json.dumps({"__media__": 5}).encode()),
    )
    for index, what in ((0, "comes twice"), (1, "nested too deeply")):
        with pytest.raises(DataError, match=what):
            found.row(index)
    assert found.row(2) == {"__key__": "c"}
