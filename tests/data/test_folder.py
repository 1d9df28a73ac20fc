"""Folders of pictures: rows in JSON, JSON Lines or captions beside them; a broken row never hides the others."""

import json
from pathlib import Path

import pytest
from row_files import folder_source, png

from finesight.core.errors import DataError
from finesight.data.sources.folder import FolderReader, open_folder


def reader_of(folder: Path, name: str, data: bytes | str) -> FolderReader:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return open_folder(folder_source(folder))


def test_json_values_as_text(tmp_path: Path) -> None:
    row = {"image": "a.png", "n": 3, "x": 1.5, "yes": True, "none": None, "list": ["é", 1], "of": {"a": "b"}}
    found = reader_of(tmp_path, "rows.json", json.dumps([row, {"image": "b.png", "more": "x"}]))
    assert found.columns == ("image", "n", "x", "yes", "none", "list", "of", "more")
    texts = {
        "n": "3",
        "x": "1.5",
        "yes": "true",
        "none": "",
        "list": '["é", 1]',
        "of": '{"a": "b"}',
        "more": "",
    }
    assert found.row(0) == {"image": "a.png", **texts}
    assert found.row(1) == dict.fromkeys(found.columns, "") | {"image": "b.png", "more": "x"}
    assert (len(found), found.root, found.file) == (2, tmp_path, str(tmp_path / "rows.json"))


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
        ('[{"a": Infinity}]', "Infinity is no JSON"),
        ('[{"a": 1, "a": 2}]', "comes twice"),
        (b'[{"a": "\xff"}]', "byte 9 is not UTF-8"),
        ("[]".encode("utf-16"), "UTF-8"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: bytes | str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        reader_of(tmp_path, "rows.json", text)
    assert caught.value.faults[0].where == str(tmp_path / "rows.json")


def test_captions_beside(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", "a/d.png", "e.png", ".hidden/f.png", "._b.png", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (tmp_path / "b.txt").write_text("\ufeff a bird \n", encoding="utf-8")
    (tmp_path / "a/c.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "a/d.txt").write_bytes(b"caf\xe9")
    found = open_folder(folder_source(tmp_path))
    assert found.columns == ("image", "caption")
    assert len(found) == 4
    assert found.row(0) == {"image": "a/c.JPG", "caption": "a cat"}
    assert found.row(2) == {"image": "b.png", "caption": "a bird"}
    for index, what in ((1, "a/d.txt cannot be read"), (3, "no caption beside e.png")):
        with pytest.raises(DataError, match=what) as caught:
            found.row(index)
        assert caught.value.column == "caption"


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
    assert all((found.root / found.row(index)["image"]).is_file() for index in range(0, len(found), 50))
