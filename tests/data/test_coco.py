"""COCO and VizWiz annotations: captions and pictures joined, what is left out said."""

import json
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pytest
from archives import annotations, pictures

from finesight.config.sources import CocoSource
from finesight.core.errors import DataError
from finesight.data.samples import open_rows
from finesight.data.sources.coco import CocoReader, open_coco


def reader_of(file: Path, **values: Any) -> CocoReader:
    return open_coco(CocoSource(source="coco", path=str(file), **values))


def used(number: int) -> bool:
    return number % 7 != 3 and number % 11 != 5


def captions_of(picture: int, count: int = 72) -> list[str]:
    names = len(pictures())
    return [f"{pictures()[picture][2]}, number {n}" for n in range(picture, count, names) if used(n)]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_row_for_each_caption(tmp_path: Path, indent: int | None) -> None:
    file = annotations(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()), indent=indent))
    found = reader_of(file)
    numbers = [n for n in range(72) if used(n)]
    assert [found.origin(index).row for index in range(len(found))] == [n + 1 for n in numbers]
    assert set(found.columns) == {
        *("image", "caption", "references", "image_id", "annotation_id", "width", "vizwiz_url"),
        *("is_rejected", "is_precanned"),
    }
    for index in range(len(found)):
        number = numbers[index]
        picture = number % 24
        row = {
            "image": pictures()[picture][0],
            "image_id": 1000 + picture,
            "caption": f"{pictures()[picture][2]}, number {number}",
            "references": captions_of(picture),
            "annotation_id": number,
            "width": 36,
            "vizwiz_url": f"u{picture}",
            "is_rejected": False,
            "is_precanned": False,
        }
        assert found.row(index) == row
        assert found.row(index, ("caption", "references", "image")) == {
            name: row[name] for name in ("caption", "references", "image")
        }
        assert found.row(index, ("vizwiz_url", "image_id")) == {
            name: row[name] for name in ("vizwiz_url", "image_id")
        }
    told = [text for _, text in found.notes]
    assert f"{file}: 10 rejected captions are left out" in told
    assert f"{file}: 7 precanned captions are left out" in told


def test_a_row_for_each_picture(tmp_path: Path) -> None:
    found = reader_of(annotations(tmp_path, captions=1), per="picture")
    kept = [picture for picture in range(24) if used(picture)]
    assert [found.row(index)["image_id"] for index in range(len(found))] == [
        1000 + picture for picture in kept
    ]
    assert [found.row(index)["references"] for index in range(len(found))] == [
        captions_of(n, 24) for n in kept
    ]
    assert any("5 pictures are left out" in text for _, text in found.notes)


def test_rejected_and_precanned_by_option(tmp_path: Path) -> None:
    file = annotations(tmp_path)
    assert len(reader_of(file, rejected=True, precanned=True)) == 72
    both = sum(n % 7 == 3 and n % 11 == 5 for n in range(72))
    assert len(reader_of(file, rejected=True)) == 72 - sum(n % 11 == 5 for n in range(72))
    found = reader_of(file, precanned=True)
    assert len(found) == 72 - sum(n % 7 == 3 for n in range(72))
    assert both
    assert any("precanned captions are used" in text for _, text in found.notes)
    assert all(
        len(found.row(index)["references"]) == len(set(found.row(index)["references"])) for index in range(9)
    )


@pytest.mark.parametrize("per", ["caption", "picture"])
@pytest.mark.parametrize("more", [{"annotations": []}, {"annotations": None}])
def test_a_challenge_without_annotations_can_be_answered(
    tmp_path: Path, per: str, more: dict[str, Any]
) -> None:
    file = annotations(tmp_path, **more)
    if more["annotations"] is None:
        document = json.loads(file.read_text())
        del document["annotations"]
        file.write_text(json.dumps(document))
    found = reader_of(file, per=per)
    assert len(found) == 24
    assert found.row(3)["references"] == []
    assert found.row(3)["caption"] == ""
    sample = open_rows(CocoSource(source="coco", path=str(file), per=per)).sample(3)
    assert sample is not None
    assert (sample.references, sample.messages[-1].role) == ((), "user")
    assert sample.images[0].data == pictures()[3][1]


def test_captions_of_one_picture_are_a_group(tmp_path: Path) -> None:
    found = open_rows(CocoSource(source="coco", path=str(annotations(tmp_path))))
    samples = [found.sample(index) for index in range(len(found.reader))]
    assert [s.group for s in samples if s] == [
        str(found.reader.row(i)["image_id"]) for i in range(len(samples))
    ]
    named = open_rows(
        CocoSource(source="coco", path=str(tmp_path / "captions.json"), group="vizwiz_url")
    ).sample(0)
    assert named is not None
    assert named.group == "u0"


def test_broken_elements_are_rows_with_a_fault(tmp_path: Path) -> None:
    document = json.loads(annotations(tmp_path, captions=1).read_text())
    document["annotations"][2:8] = [
        7,
        {"id": 1, "image_id": 5, "caption": "no such picture"},
        {"id": 2, "image_id": 1001},
        {"id": 3, "caption": "of no picture"},
        {"id": 4, "image_id": 1001, "caption": "good"},
    ]
    document["images"][3] = {"file_name": "no-id.png"}
    (tmp_path / "captions.json").write_text(
        json.dumps(document).replace('"of no picture"', '"x", "caption": "y"')
    )
    found = reader_of(tmp_path / "captions.json")
    reasons = {
        3: "row is a int, not an object",
        4: "names the picture 5, which is not listed",
        5: "no `caption`",
        6: "comes twice",
    }
    for index in range(len(found)):
        number = found.origin(index).row
        if number in reasons:
            with pytest.raises(DataError, match=reasons[number]) as caught:
                found.row(index)
            assert caught.value.faults[0].where.startswith(f"{tmp_path}/captions.json, row {number}")
        else:
            assert found.row(index)["caption"]
    assert reasons.keys() <= {found.origin(index).row for index in range(len(found))}
    per = reader_of(tmp_path / "captions.json", per="picture")
    faulty = [index for index in range(len(per)) if per.origin(index).row == 4]
    with pytest.raises(DataError, match="picture has no `id`"):
        per.row(faulty[0])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("[]", "no list `images`"),
        ("{}", "no list `images`"),
        ('{"images": {}}', "no list `images`"),
        ('{"images": [], "annotations": []}', "no row"),
        ('{"images": [{"id": 1}, {"id": 1}]}', "pictures 1 and 2 have the same id, 1"),
        ('{"images": [{"id": 1}', "not JSON"),
        ('{"images": [], "images": []}', "comes twice"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=what) as caught:
        reader_of(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in caught.value.faults[0].where


def test_ids_may_be_texts_and_words_of_any_language(tmp_path: Path) -> None:
    document = {
        "annotations": [{"image_id": "ü", "caption": "日本の旗 🇯🇵"}, {"image_id": "ü", "caption": "\ud83d"}],
        "images": [{"file_name": "größe.png", "id": "ü"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = reader_of(tmp_path / "a.json")
    with pytest.raises(DataError, match="surrogate"):
        found.row(0)
    document["annotations"].pop()
    (tmp_path / "a.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    row = reader_of(tmp_path / "a.json").row(0)
    assert (row["image"], row["caption"], row["image_id"]) == ("größe.png", "日本の旗 🇯🇵", "ü")


def test_other_processes_and_kept_joins(tmp_path: Path) -> None:
    file = annotations(tmp_path, captions=40)
    found = reader_of(file)
    again = pickle.loads(pickle.dumps(found))
    third = reader_of(file)
    for index in range(0, len(found), 17):
        assert found.row(index) == again.row(index) == third.row(index)
    assert (found.columns, found.notes, found.identity()) == (third.columns, third.notes, third.identity())


def test_annotations_at_an_address(tmp_path: Path) -> None:
    file = annotations(tmp_path)
    fsspec.filesystem("memory").pipe("/coco/captions.json", file.read_bytes())
    fsspec.filesystem("memory").pipe(f"/coco/{pictures()[0][0]}", pictures()[0][1])
    sample = open_rows(CocoSource(source="coco", path="memory://coco/captions.json")).sample(0)
    assert sample is not None
    assert sample.images[0].data == pictures()[0][1]
