"""Folders of pictures: rows in JSON, JSON Lines or captions beside them; a broken row never hides the others."""

import json
import os
import pickle
import time
from pathlib import Path

import pytest
from row_files import folder_source, png

from finesight.core.errors import DataError
from finesight.data.samples import open_rows
from finesight.data.sources.folder import CaptionsReader, open_folder
from finesight.data.sources.json import JsonReader


def reader_of(folder: Path, name: str, data: bytes | str) -> JsonReader:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    found = open_folder(folder_source(folder))
    assert isinstance(found, JsonReader)
    return found


def test_rows_in_a_file(tmp_path: Path) -> None:
    row = {"image": "a.png", "n": 3, "x": 1.5, "yes": True, "none": None, "list": ["é", 1], "of": {"a": "b"}}
    found = reader_of(tmp_path, "rows.json", json.dumps([row, {"image": "b.png", "more": "x"}]))
    assert found.columns == ("image", "n", "x", "yes", "none", "list", "of", "more")
    assert [found.row(0), found.row(1)] == [row, {"image": "b.png", "more": "x"}]
    assert (len(found), found.root, found.file) == (2, str(tmp_path), str(tmp_path / "rows.json"))


@pytest.mark.parametrize("name", ["rows.jsonl", "metadata.jsonl"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    texts = ["one", "line\u2028separator", "next\x85line", "form\x0cfeed"]
    lines = [json.dumps({"caption": text}, ensure_ascii=False) for text in texts]
    found = reader_of(tmp_path, name, "\ufeff" + "\r\n\n".join(lines))
    assert [found.row(index)["caption"] for index in range(len(found))] == texts


def test_broken_lines_leave_the_others(tmp_path: Path) -> None:
    lines = [
        b'{"caption": "a"}',
        b'{"caption": "b"',
        b"[1, 2]",
        b'"text"',
        b'{"caption": "caf\xe9"}',
        b'{"caption": NaN}',
        b'{"caption": "c", "caption": "d"}',
        b'{"caption": ' + b"9" * 5000 + b"}",
        b'{"caption": ' + b"[" * 100_000 + b"}",
        b'{"caption": "\\ud83d"}',
        b'{"caption": "\\ud83d\\ude00"}',
    ]
    found = reader_of(tmp_path, "rows.jsonl", b"\n\n".join(lines))
    assert (found.row(0)["caption"], found.row(10)["caption"]) == ("a", "😀")
    reasons = [
        "line 3 is not JSON: .* at character 16",
        "the row is a list, not an object",
        "the row is a str, not an object",
        "line 9 is not JSON: byte 17 is not UTF-8",
        "NaN is no JSON",
        "the key 'caption' comes twice",
        "digits",
        "nested too deeply",
        "half of a surrogate pair",
    ]
    for index, reason in enumerate(reasons, 1):
        with pytest.raises(DataError, match=reason) as caught:
            found.row(index)
        assert caught.value.faults[0].where.startswith(f"{tmp_path}/rows.jsonl, row {index + 1}")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ('[{"a": 1},\n{"a": ]', "not JSON: .* at line 2, character 7"),
        ('{"rows": []}', "not hold a list"),
        ("[]", "no row"),
        ("[" * 200_000, "nested too deeply"),
        ("[]".encode("utf-16"), "UTF-8"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: bytes | str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        reader_of(tmp_path, "rows.json", text)
    assert caught.value.faults[0].where == str(tmp_path / "rows.json")


def captions_of(folder: Path) -> CaptionsReader:
    found = open_folder(folder_source(folder))
    assert isinstance(found, CaptionsReader)
    return found


def test_captions_beside(tmp_path: Path) -> None:
    for name in (
        "b.png",
        "a/c.JPG",
        "a/d.png",
        "e.png",
        ".hidden/f.png",
        "._b.png",
        "notes.md",
        "a.x/g.webp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (tmp_path / "b.txt").write_text("\ufeff a bird \n", encoding="utf-8")
    (tmp_path / "a/c.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "a/d.txt").write_bytes(b"caf\xe9")
    (tmp_path / "a.x/g.txt").write_text("größer", encoding="utf-8")
    found = captions_of(tmp_path)
    assert found.columns == ("image", "caption")
    rows = ["a/c.JPG", "a/d.png", "a.x/g.webp", "b.png", "e.png"]
    assert [found.row(index, ("image",))["image"] for index in range(len(found))] == rows
    assert found.row(0) == {"image": "a/c.JPG", "caption": "a cat"}
    assert found.row(2) == {"image": "a.x/g.webp", "caption": "größer"}
    assert found.row(3) == {"image": "b.png", "caption": "a bird"}
    for index, what in ((1, "a/d.txt cannot be read: byte 4 is not UTF-8"), (4, "no caption beside e.png")):
        with pytest.raises(DataError, match=what) as caught:
            found.row(index)
        assert caught.value.column == "caption"
        assert caught.value.faults[0].where.startswith(f"{tmp_path}, row {index + 1}")
    again = pickle.loads(pickle.dumps(found))
    assert again.row(3) == found.row(3)
    sample = open_rows(folder_source(tmp_path)).sample(3)
    assert sample is not None
    assert (sample.images[0].data, sample.references) == (png(), ("a bird",))


def test_captions_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number:05d}.png").touch()
    began = time.process_time()
    found = captions_of(tmp_path)
    assert time.process_time() - began < 1
    before = found.identity()
    (tmp_path / "00007.txt").write_text("late")
    assert found.row(7)["caption"] == "late"
    assert found.identity() != before


def test_a_caption_that_leads_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes(png())
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "b.txt").symlink_to("a.txt")
    os.mkfifo(folder / "c.txt")
    (folder / "more").symlink_to(tmp_path)
    found = captions_of(folder)
    assert len(found) == 3
    for index, what in ((0, "leads out of the folder"), (1, "leads out of the folder"), (2, "no file")):
        with pytest.raises(DataError, match=what):
            found.row(index)


def test_a_caption_may_not_be_a_book(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_bytes(b"x" * (2 << 20))
    with pytest.raises(DataError, match="larger than 1 MiB"):
        captions_of(tmp_path).row(0)


def test_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no row"):
        open_folder(folder_source(tmp_path))
    with pytest.raises(DataError, match=r"no file `list\.json`"):
        open_folder(folder_source(tmp_path, rows="list.json"))
    with pytest.raises(DataError, match="does not exist"):
        open_folder(folder_source(tmp_path / "none"))
    (tmp_path / "list.json").write_text('[{"a": "b"}]')
    assert open_folder(folder_source(tmp_path, rows="list.json")).row(0) == {"a": "b"}
    with pytest.raises(DataError, match="not a folder"):
        open_folder(folder_source(tmp_path / "list.json"))


def test_the_shipped_things() -> None:
    found = open_folder(folder_source("shipped:things"))
    assert len(found) > 500
    assert {"image", "caption", "name", "kind", "artist", "split"} <= set(found.columns)
    assert all(Path(found.root, found.row(index)["image"]).is_file() for index in range(0, len(found), 50))
