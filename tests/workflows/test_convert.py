"""Conversion: shards make the samples that their source makes, whoever writes them, however often they were stopped."""

import base64
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from archives import annotations, pictures, table, write_csv_table, write_pictures, write_shards

import finesight as fs
from finesight.config.sources import Source
from finesight.core.errors import DataError, FinesightError, Interrupted, RunError
from finesight.core.sample import Sample
from finesight.data.digest import sample_digest
from finesight.data.samples import open_rows
from finesight.workflows.converted import recipe_or_source, source_of

Made = tuple[dict[str, Any], int]
"""A source, and the number of its samples."""


def csv_rows(folder: Path) -> Made:
    file = write_csv_table(folder / "a.csv", 30)
    return {
        "source": "csv",
        "path": str(file),
        "tags": ["kind"],
        "group": "kind",
        "prompt": "What, {kind}?",
    }, 30


def csv_with_where(folder: Path) -> Made:
    file = write_csv_table(folder / "a.csv", 30, image="a name, and no picture")
    where = {
        "source": "csv",
        "path": str(file),
        "columns": {"image": "b64string_images"},
        "where": {"kind": "k1"},
    }
    return {**where, "tags": ["image"]}, 10


def first_samples(folder: Path) -> Made:
    file = write_csv_table(folder / "a.csv", 30)
    return {"source": "csv", "path": str(file), "where": {"kind": "k2"}, "max_samples": 4}, 4


def captions_beside(folder: Path) -> Made:
    for name, (_, _, caption) in zip(write_pictures(folder / "p"), pictures(), strict=True):
        (folder / "p" / name).with_suffix(".txt").write_text(caption)
    return {"source": "folder", "path": str(folder / "p")}, 24


def json_rows(folder: Path) -> Made:
    names = write_pictures(folder)
    rows = [
        {
            "images": names[n : n + n % 3 + 1] if n % 4 else names[n],
            "question": f"Number {n}?",
            "answers": ["one", "two", f"{n}"][: n % 3 + 1],
            "mixed": [n, str(n), None, 1.5, {"a": n}][n % 5],
            "meta": {"deep": [n, {"x": None}], "é": "日本"},
            "jpg": "a name of another column",
            "left": n,
        }
        for n in range(20)
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return {"source": "json", "path": str(folder / "rows.json"), "tags": ["mixed_text", "left"][1:]}, 20


def coco(folder: Path) -> Made:
    return {"source": "coco", "path": str(annotations(folder)), "prompt": "Describe it."}, 56


def coco_pictures(folder: Path) -> Made:
    return {"source": "coco", "path": str(annotations(folder)), "per": "picture", "tags": ["vizwiz_url"]}, 24


def llava(folder: Path) -> Made:
    names = write_pictures(folder)
    rows = [
        {
            "id": f"r{n}",
            "image": names[n : n + 2] if n % 2 else names[n],
            "conversations": [
                {"from": "human", "value": "<image>\n" * (n % 2 + 1) + "What is it?"},
                {"from": "gpt", "value": pictures()[n][2]},
            ],
        }
        for n in range(12)
    ]
    (folder / "llava.json").write_text(json.dumps(rows))
    return {"source": "llava", "path": str(folder / "llava.json"), "columns": {"id": "id"}}, 12


def messages(folder: Path) -> Made:
    """Pictures within the turns, in several notations, and rows without any."""
    names = write_pictures(folder)
    uri = "data:image/png;base64," + base64.b64encode(pictures()[1][1]).decode()
    contents: list[Any] = [
        [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What?"}],
        [
            {"type": "text", "text": "First"},
            {"type": "image", "image": names[2]},
            {"type": "image", "path": names[3]},
        ],
        "no picture",
    ]
    rows = [
        {
            "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": f"a{n}"}],
            "n": n,
        }
        for n, content in enumerate(contents * 3)
    ]
    (folder / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {"source": "messages", "path": str(folder / "m.jsonl"), "tags": ["n"]}, 9


def numbered_places(folder: Path) -> Made:
    """Turns that name their pictures by number, in another order."""
    names = write_pictures(folder)
    content = [{"type": "image", "index": 1}, {"type": "text", "text": "or"}, {"type": "image", "index": 0}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]
    (folder / "m.jsonl").write_text(json.dumps({"messages": turns, "images": names[:2]}))
    return {"source": "messages", "path": str(folder / "m.jsonl")}, 1


def vqa(folder: Path) -> Made:
    names = write_pictures(folder)
    rows = [
        {"image": n, "question": f"{n}?", "answer": "yes", "need_external_knowledge": n < "1"} for n in names
    ]
    (folder / "AQUA.json").write_text(json.dumps(rows))
    return {"source": "vqa", "path": str(folder / "AQUA.json"), "tags": ["need_external_knowledge"]}, 24


def pairs(folder: Path) -> Made:
    (folder / "p.tsv").write_text("de\ten\n" + "".join(f"Wort {n}\tword {n}\n" for n in range(15)))
    return {"source": "pairs", "path": str(folder / "p.tsv")}, 15


def chats(folder: Path) -> Made:
    rows = [{"prompt": f"p{n}", "completion": f"c{n}", "unused": {"a": [n]}} for n in range(15)]
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {"source": "text", "path": str(folder / "t.jsonl")}, 15


def from_parquet(folder: Path) -> Made:
    pq.write_table(table(20).drop_columns(["messages"]), folder / "t.parquet", row_group_size=6)
    return {"source": "parquet", "path": str(folder / "t.parquet"), "tags": ["kind", "number"]}, 20


def from_tar(folder: Path) -> Made:
    return {"source": "tar", "path": write_shards(folder / "s", 2, 7), "tags": ["cls", "__key__"]}, 14


def from_hub(folder: Path) -> Made:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset(table(10).drop_columns(["kind"])).save_to_disk(folder / "saved")
    return {"source": "hub", "path": str(folder / "saved")}, 10


def hub_words(folder: Path) -> Made:
    import datasets

    datasets.disable_progress_bars()
    rows = {
        "messages": [
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": f"a{n}"}] for n in range(5)
        ]
    }
    datasets.Dataset.from_dict(rows).save_to_disk(folder / "saved")
    return {"source": "hub", "path": str(folder / "saved")}, 5


SHAPES: list[Callable[[Path], Made]] = [
    csv_rows, csv_with_where, first_samples, captions_beside, json_rows, coco, coco_pictures, llava, messages,
    numbered_places, vqa, pairs, chats, from_parquet, from_tar, from_hub, hub_words,
]  # fmt: skip


def samples_of(source: Source) -> list[Sample]:
    found = open_rows(source)
    each = (found.sample(index) for index in range(len(found.reader)))
    kept = [sample for sample in each if sample is not None]
    return kept if source.max_samples is None else kept[: source.max_samples]


@pytest.mark.parametrize("to", ["tar", "parquet"])
@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
def test_shards_make_the_same_samples(make: Callable[[Path], Made], to: str, tmp_path: Path) -> None:
    mapping, count = make(tmp_path)
    result = fs.convert(mapping, tmp_path / "out", to=to, shard_rows=7, jobs=0)
    before, after = samples_of(source_of(mapping)), samples_of(source_of(result["read_back"]))
    assert result["rows"] == len(before) == len(after) == count
    assert [sample_digest(sample) for sample in after] == [sample_digest(sample) for sample in before]
    assert [(sample.tags, sample.group) for sample in after] == [
        (sample.tags, sample.group) for sample in before
    ]
    assert result["pictures"] == sum(len(sample.images) for sample in before)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != ".lock"
    }


@pytest.mark.parametrize("to", ["tar", "parquet"])
def test_the_bytes_do_not_depend_on_who_writes_them(to: str, tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 150)
    for jobs in (0, 1, 2):
        fs.convert(file, tmp_path / f"out{jobs}", to=to, shard_rows=40, jobs=jobs)
    whole = files_of(tmp_path / "out0")
    assert sorted(whole) == ["manifest.json", *(f"shard-{number:05d}.{to}" for number in range(4))]
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2") == whole


def test_the_manifest_tells_all_hashes(tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 30)
    result = fs.convert(file, tmp_path / "out", shard_rows=10, jobs=0)
    manifest = json.loads(Path(result["manifest"]).read_text())
    assert manifest["format"] == 1
    assert (manifest["rows"], manifest["pictures"], manifest["faults"], manifest["left_out"]) == (
        30,
        30,
        0,
        0,
    )
    assert manifest["bytes"] == sum(item.stat().st_size for item in (tmp_path / "out").glob("*.tar"))
    for shard in manifest["shards"]:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (shard["sha256"], shard["bytes"])
        with tarfile.open(tmp_path / "out" / shard["file"]) as archive:
            members = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
        assert len(members) == 2 * shard["rows"] == 20
        assert shard["pictures"] == {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in members.items()
            if not name.endswith(".json")
        }
        rows = [json.loads(data) for name, data in members.items() if name.endswith(".json")]
        assert all(row.keys() == {"caption", "kind", "__media__"} for row in rows)


def test_others_read_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    file = write_csv_table(tmp_path / "a.csv", 12)
    for to in ("tar", "parquet"):
        fs.convert(file, tmp_path / to, to=to, shard_rows=5, jobs=0)  # type: ignore[arg-type]
    files = {"train": str(tmp_path / "tar" / "*.tar")}
    told = datasets.load_dataset(
        "webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["json"]["caption"] for row in told] == [f"{pictures()[n][2]}, {n}" for n in range(12)]
    assert all(row["png"].size for row in told)
    read = pq.read_table(tmp_path / "parquet" / "shard-00001.parquet").to_pylist()
    assert [row["b64string_images"]["bytes"] for row in read] == [pictures()[n][1] for n in range(5, 10)]
    assert [row["caption"] for row in read] == [f"{pictures()[n][2]}, {n}" for n in range(5, 10)]


def spoiled(folder: Path, count: int = 30) -> Path:
    """A CSV with a picture that is none, and an empty caption."""
    file = write_csv_table(folder / "a.csv", count)
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[8] = "bm8gcGljdHVyZQ==,a caption,k1"
    cells = lines[20].split(",")
    lines[20] = f"{cells[0]},,k1"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("jobs", [0, 2])
@pytest.mark.parametrize("to", ["tar", "parquet"])
def test_bad_rows_stop_or_are_listed(to: Any, jobs: int, tmp_path: Path) -> None:
    file = spoiled(tmp_path, 80)
    with pytest.raises(DataError, match=r"picture|answer is empty") as caught:
        fs.convert(file, tmp_path / "out", to=to, shard_rows=20, jobs=jobs)
    assert str(file) in caught.value.faults[0].where
    assert not (tmp_path / "out" / "manifest.json").exists()
    result = fs.convert(file, tmp_path / "out", to=to, shard_rows=20, jobs=jobs, on_bad_row="skip")
    assert (result["rows"], result["faults"]) == (78, 2)
    with open(result["faults_file"], newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["file", "row", "column", "reason"]
    assert [(row[0], row[1], row[2]) for row in rows[1:]] == [
        (str(file), "8", "b64string_images"),
        (str(file), "20", "caption"),
    ]
    after = samples_of(source_of(result["read_back"]))
    assert [sample.references[0] for sample in after] == [
        f"{pictures()[n % 24][2]}, {n}" for n in range(80) if n not in (7, 19)
    ]


def test_a_limit_on_bad_rows(tmp_path: Path) -> None:
    from tiny_runs import tiny_mapping

    recipe = tiny_mapping(
        spoiled(tmp_path), tmp_path / "run", data={"on_bad_row": "skip", "bad_row_limit": 1}
    )
    recipe["data"]["train"] = {"source": "csv", "path": str(tmp_path / "a.csv")}
    with pytest.raises(DataError, match="more than 1 rows are bad"):
        fs.convert(recipe, tmp_path / "out", shard_rows=10, jobs=0)
    recipe["data"]["bad_row_limit"] = 2
    assert fs.convert(recipe, tmp_path / "out2", shard_rows=10, jobs=0)["faults"] == 2


def test_the_second_time_nothing_is_done(tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 30)
    first = fs.convert(file, tmp_path / "out", shard_rows=10, jobs=0)
    before = {item.name: item.stat().st_mtime_ns for item in (tmp_path / "out").iterdir()}
    second = fs.convert(file, tmp_path / "out", shard_rows=10, jobs=2)
    assert (first["status"], second["status"]) == ("done", "unchanged")
    assert {item.name: item.stat().st_mtime_ns for item in (tmp_path / "out").iterdir()} == before
    assert {**second, "status": "", "kept": 0, "notices": []} == {
        **first,
        "status": "",
        "kept": 0,
        "notices": [],
    }


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 30)
    fs.convert(file, tmp_path / "out", shard_rows=10, jobs=0)
    whole = files_of(tmp_path / "out")
    damaged = bytearray(whole["shard-00001.tar"])
    damaged[600] ^= 1
    (tmp_path / "out" / "shard-00001.tar").write_bytes(damaged)
    (tmp_path / "out" / "shard-00002.tar").unlink()
    again = fs.convert(file, tmp_path / "out", shard_rows=10, jobs=0)
    assert (again["status"], again["kept"], again["rows"]) == ("done", 1, 30)
    assert files_of(tmp_path / "out") == whole


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 30)
    fs.convert(file, tmp_path / "out", shard_rows=10, jobs=0)
    for given, values, what in (
        (file, {"shard_rows": 9}, "`shard_rows` was 10"),
        (file, {"shard_rows": 10, "to": "parquet"}, "`to` was 'tar'"),
        (file, {"shard_rows": 10, "columns.answer": "kind"}, "`source` was"),
    ):
        with pytest.raises(RunError, match=what):
            fs.convert(given, tmp_path / "out", jobs=0, **values)  # type: ignore[arg-type]
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(RunError, match="the rows changed since"):
        fs.convert(file, tmp_path / "out", shard_rows=10, jobs=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for folder, what in ((tmp_path / "mine", "holds other files"), (file, "a file, not a folder")):
        with pytest.raises(RunError, match=what):
            fs.convert(file, folder, jobs=0)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


@pytest.mark.parametrize("to", ["tar", "parquet"])
def test_damage_after_the_conversion_is_found(to: Any, tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 20)
    result = fs.convert(file, tmp_path / "out", to=to, shard_rows=10, jobs=0)
    shard = tmp_path / "out" / f"shard-00001.{to}"
    whole = shard.read_bytes()
    place = whole.index(pictures()[13][1]) + 300
    stamp = shard.stat().st_mtime_ns
    opened = open_rows(source_of(result["read_back"]))
    assert opened.sample(13)

    damaged = bytearray(whole)
    damaged[place] ^= 4
    shard.write_bytes(damaged)
    os.utime(shard, ns=(stamp, stamp))
    with pytest.raises(DataError) as caught:
        open_rows(source_of(result["read_back"])).sample(13)
    assert str(tmp_path / "out" / f"shard-00001.{to}") in str(caught.value)
    if to == "tar":
        with pytest.raises(DataError, match=r"not those that manifest\.json lists"):
            opened.sample(13)  # open since before, and as old as before
    shard.write_bytes(whole[:-512])
    with pytest.raises(DataError, match="in its manifest"):
        open_rows(source_of(result["read_back"]))
    shard.unlink()
    with pytest.raises(DataError, match="1 of 2 shards are missing"):
        open_rows(source_of(result["read_back"]))


def test_pictures_are_checked_by_the_manifest_where_pages_are_not(tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 20)
    result = fs.convert(file, tmp_path / "out", to="parquet", shard_rows=10, jobs=0)
    held = pq.read_table(tmp_path / "out" / "shard-00000.parquet")
    manifest = json.loads(Path(result["manifest"]).read_text())
    manifest["shards"][0]["pictures"]["b64string_images"][3][0]["sha256"] = "0" * 64
    Path(result["manifest"]).write_text(json.dumps(manifest))
    opened = open_rows(source_of(result["read_back"]))
    assert opened.sample(2)
    with pytest.raises(DataError, match=r"not the one that manifest\.json lists") as caught:
        opened.sample(3)
    assert caught.value.column == "b64string_images"
    assert held.num_rows == 10


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "damaged"),
        ('{"kind": "shards", "format": 2, "shards": []}', "format 2"),
        ('{"kind": "shards", "format": 1, "shards": [7]}', "not whole"),
        (
            '{"kind": "shards", "format": 1, "shards": [{"file": "x.tar", "bytes": 1, "sha256": ""}]}',
            "does not list",
        ),
    ],
)
def test_a_damaged_manifest_is_told(text: str, what: str, tmp_path: Path) -> None:
    fs.convert(write_csv_table(tmp_path / "a.csv", 5), tmp_path / "out", jobs=0)
    (tmp_path / "out" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=what):
        open_rows(source_of({"source": "tar", "path": str(tmp_path / "out" / "shard-00000.tar")}))
    (tmp_path / "out" / "manifest.json").write_text('{"of": "another program"}')
    assert open_rows(source_of({"source": "tar", "path": str(tmp_path / "out")})).sample(0)


def command(file: Path, out: Path, *more: str) -> list[str]:
    code = "from finesight.cli.main import main; main()"
    return [sys.executable, "-c", code, "convert", str(file), "--out", str(out), "--shard-rows", "10", *more]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    held: list[subprocess.Popen[bytes]] = []
    yield held
    for process in held:
        process.kill()
        process.wait()


@pytest.mark.proof
@pytest.mark.parametrize(("to", "jobs"), [("tar", "2"), ("parquet", "0")])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    to: str, jobs: str, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    file = write_csv_table(tmp_path / "a.csv", 400)
    fs.convert(file, tmp_path / "whole", to=to, shard_rows=10, jobs=0)  # type: ignore[arg-type]
    whole, out = files_of(tmp_path / "whole"), tmp_path / "out"
    kept = 0
    for shards in (1, 14, 29):
        process = subprocess.Popen(
            command(file, out, "--to", to, "--jobs", jobs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        while process.poll() is None and len(list(out.glob(f"shard-*.{to}"))) < shards:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, data in files_of(out).items() if out.is_dir() else ():
            if name.startswith("shard-") and name.endswith(to):
                assert data == whole[name]  # whole or not there
                kept += 1
        assert not (out / "manifest.json").exists() or process.returncode == 0
    result = fs.convert(file, out, to=to, shard_rows=10, jobs=int(jobs))  # type: ignore[arg-type]
    time.sleep(0.5)  # orphans of the last kill finish what they were at
    assert result["kept"] >= 20
    assert kept >= 40
    assert {name: data for name, data in files_of(out).items() if not name.endswith(".partial")} == whole


def test_a_signal_stops_it_and_the_same_call_goes_on(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    file = write_csv_table(tmp_path / "a.csv", 600)
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(file, out, "--jobs", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    started.append(process)
    while process.poll() is None and len(list(out.glob("shard-*.tar"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[1].decode()
    assert process.returncode == Interrupted.exit_status
    assert "the shards that are finished are kept" in told and "go on by the same command" in told
    assert not list(out.glob("*.partial"))
    assert fs.convert(file, out, shard_rows=10, jobs=0)["kept"] >= 3


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finesight.data.shards import files

    def full(self: Any, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.HashedFile, "write", full)
    with pytest.raises(RunError, match="disk is full") as caught:
        fs.convert(write_csv_table(tmp_path / "a.csv", 5), tmp_path / "out", jobs=0)
    assert "finished shards are kept" in caught.value.faults[0].mend
    assert not list((tmp_path / "out").glob("*.partial"))


def test_shards_of_a_size(tmp_path: Path) -> None:
    file = write_csv_table(tmp_path / "a.csv", 120)
    result = fs.convert(file, tmp_path / "out", shard_bytes=100_000, jobs=0)
    sizes = [item.stat().st_size for item in sorted((tmp_path / "out").glob("*.tar"))]
    assert len(sizes) == result["shards"] > 2
    assert all(60_000 < size < 140_000 for size in sizes[:-1])


def test_a_recipe_with_several_sources(tmp_path: Path) -> None:
    from tiny_runs import tiny_mapping

    recipe = tiny_mapping(tmp_path, tmp_path / "run")
    files = [write_csv_table(tmp_path / f"{name}.csv", 10) for name in "ab"]
    recipe["data"] = {
        "train": [{"source": "csv", "path": str(file)} for file in files],
        "val": {"split": 0.1},
        "test": {"source": "csv", "path": str(files[0])},
    }
    result = fs.convert(recipe, tmp_path / "out", jobs=0)
    assert [part["out"] for part in result["sources"]] == [
        str(tmp_path / "out" / f"source-{n}") for n in (1, 2)
    ]
    assert fs.convert(recipe, tmp_path / "test", split="test", jobs=0)["rows"] == 10
    with pytest.raises(DataError, match="has no source of its own"):
        fs.convert(recipe, tmp_path / "val", split="val", jobs=0)


def test_what_is_converted_is_known_by_its_name(tmp_path: Path) -> None:
    for name, kind in (
        ("a.csv", "csv"), ("a.tsv", "csv"), ("a.jsonl", "json"), ("a.parquet", "parquet"), ("a.tar", "tar"),
    ):  # fmt: skip
        (tmp_path / name).touch()
        assert recipe_or_source(str(tmp_path / name)).source == kind  # type: ignore[union-attr]
    for name, inside, kind in (
        ("t", "x.tar", "tar"),
        ("p", "x.arrow", "parquet"),
        ("f", "x.png", "folder"),
        ("h", "state.json", "hub"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / inside).touch()
        assert recipe_or_source(str(tmp_path / name)).source == kind  # type: ignore[union-attr]
    found = recipe_or_source(str(tmp_path / "a.csv"), ["columns.answer=title", "delimiter=;", "tags=[kind]"])
    assert found.columns.answer == "title" and found.delimiter == ";"  # type: ignore[union-attr]
    assert recipe_or_source("nobody/nothing", ["source=hub"]).path == "nobody/nothing"  # type: ignore[union-attr]
    for given, words, what in (
        (str(tmp_path / "none.csv"), [], "does not exist"),
        ("/dev/null", [], "nothing tells"),
        (str(tmp_path / "a.csv"), ["colums.answer=x"], "colums"),
        (str(tmp_path / "a.csv"), ["source=cvs"], "csv"),
    ):
        with pytest.raises(FinesightError, match=what):
            recipe_or_source(given, words)
