"""Splits, the policy for bad rows, fingerprints, and examples."""

import base64
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import encode, gradient
from PIL import Image
from row_files import cell, csv_source, data, folder_source, png, read, rows, tiny_ports, write_csv

from finesight.config.data import Data, Split, Transforms
from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.data import dataset
from finesight.data.dataset import ExampleSet, prepare_pictures, transform_of
from finesight.data.pictures.load import load_picture, resize
from finesight.data.pictures.transforms import TransformSettings
from finesight.data.policy import Policy
from finesight.data.sets import SampleSet, read_splits
from finesight.data.splits import split_groups
from finesight.runtime.notices import Notices


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "table.csv", rows(24))


def splits_of(data: Data, notices: Notices | None = None, seed: int = 7) -> dict[str, SampleSet]:
    return read_splits(data, seed, Policy(data), notices or Notices())


def split(value: Any, **more: Any) -> Split:
    return Split(split=value, **more)


# shares and groups


@given(
    st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=60).filter(
        lambda names: len(set(names)) > 1
    ),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_groups_stay_on_one_side(groups: list[str], share: float, seed: int) -> None:
    taken = split_groups(groups, share, seed, "val")
    assert 0 < taken.sum() < len(groups)
    inside = {name for name, out in zip(groups, taken, strict=True) if out}
    outside = {name for name, out in zip(groups, taken, strict=True) if not out}
    assert not inside & outside
    again = split_groups(groups[::-1], share, seed, "val")[::-1]
    assert (again == taken).all()
    largest = max(groups.count(name) for name in groups)
    assert abs(taken.sum() - share * len(groups)) <= largest


def test_single_samples_give_the_share() -> None:
    names = [str(number) for number in range(1000)]
    masks = {purpose: split_groups(names, 0.1, 7, purpose) for purpose in ("val", "test")}
    assert [mask.sum() for mask in masks.values()] == [100, 100]
    assert 0 < (masks["val"] & masks["test"]).sum() < 30
    assert (split_groups(names, 0.1, 8, "val") != masks["val"]).any()


def test_a_large_group_does_not_swell_a_split() -> None:
    groups = ["large"] * 90 + ["b"] * 4 + ["c"] * 6
    assert {int(split_groups(groups, 0.1, seed, "val").sum()) for seed in range(30)} == {10}


def test_shares_are_of_all_samples(file: Path) -> None:
    found = splits_of(data(csv_source(file), val=split(0.25), test=split(0.25)))
    assert {name: len(part) for name, part in found.items()} == {"train": 12, "val": 6, "test": 6}
    ids = [name for part in found.values() for name in part.ids]
    assert sorted(ids) == sorted(f"table-{number}" for number in range(1, 25))
    again = splits_of(data(csv_source(file), val=split(0.25)))
    assert again["val"].ids == found["val"].ids


@pytest.mark.parametrize("column", ["group", "kind"])
def test_splits_by_group_never_leak(file: Path, column: str) -> None:
    by_source = splits_of(data(csv_source(file, group=column), val=split(0.3), test=split(0.2)))
    by_split = splits_of(data(csv_source(file), val=split(0.3, group=column), test=split(0.2, group=column)))
    assert {name: part.ids for name, part in by_source.items()} == {
        name: part.ids for name, part in by_split.items()
    }
    sides = [{source.reader.row(row)[column] for source, row in part.places} for part in by_source.values()]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_split_by_column(file: Path) -> None:
    found = splits_of(data(csv_source(file), val=split({"column": "kind", "values": ("kind 1",)})))
    assert found["val"].ids == tuple(f"table-{number}" for number in range(2, 25, 3))
    assert len(found["train"]) == 16


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"val": {"split": {"column": "kind", "values": ("none",)}}}, "the split `val` is empty"),
        (
            {"val": {"split": {"column": "kind", "values": ("kind 0", "kind 1", "kind 2")}}},
            "the split `train` is empty",
        ),
        ({"val": {"split": {"column": "knd", "values": ("a",)}}}, "there is no column `knd`"),
        ({"val": {"split": 0.5, "group": "knd"}}, "there is no column `knd`"),
        ({"test": {"split": 0.5, "group": "question"}, "where": {"question": "what is 3?"}}, "one group"),
        ({"where": {"kind": "none"}}, "no rows are left for `data.train`: `where`"),
    ],
)
def test_empty_splits(file: Path, values: dict[str, Any], what: str) -> None:
    where = values.pop("where", {})
    splits = {name: Split(**value) for name, value in values.items()}
    with pytest.raises(DataError) as caught:
        splits_of(data(csv_source(file, where=where), **splits))
    assert what in caught.value.faults[0].what
    assert caught.value.faults[0].mend


def test_samples_on_both_sides_are_said(file: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "other.csv", [*rows(30)[22:], rows(1)[0]])
    notices = Notices()
    splits_of(data(csv_source(file), test=csv_source(tmp_path / "other.csv")), notices)
    (leak,) = (row for row in notices.rows() if row["kind"] == "leak")
    assert leak["count"] == 3
    assert "`test`" in str(leak["text"])


# the policy


def bad_table(path: Path) -> Path:
    table = rows(8)
    table[2]["image"], table[5]["caption"] = "?", ""
    return write_csv(path, table)


def test_stop_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 3, column `image`"):
        read(csv_source(bad_table(tmp_path / "bad.csv")))


def test_skip_lists_and_counts(tmp_path: Path) -> None:
    file = bad_table(tmp_path / "bad.csv")
    samples, policy = read(csv_source(file), on_bad_row="skip", bad_row_limit=2)
    assert len(samples) == 6
    assert [(fault.file, fault.row, fault.column) for fault in policy.faults] == [
        (str(file), 3, "image"),
        (str(file), 6, "caption"),
    ]
    assert all(fault.reason for fault in policy.faults)
    assert [samples[index].origin.row for index in range(6)] == [1, 2, 4, 5, 7, 8]


def test_a_limit_stops(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"more than 1 rows are bad[\s\S]*row 3[\s\S]*row 6[\s\S]*bad_row_limit"
    ):
        read(csv_source(bad_table(tmp_path / "bad.csv")), on_bad_row="skip", bad_row_limit=1)


def test_a_row_that_two_splits_read_is_counted_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    write_csv(file, rows(8))
    file.write_text(file.read_text() + "only,three,fields\n")
    parts = {
        name: csv_source(file, where={"kind": f"kind {number}"})
        for number, name in enumerate(("train", "val"))
    }
    recipe = data(parts["train"], val=parts["val"], on_bad_row="skip", bad_row_limit=1)
    policy = Policy(recipe)
    read_splits(recipe, 7, policy, Notices())
    assert [fault.row for fault in policy.faults] == [9]


def test_nothing_but_bad_rows(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "bad.csv", [{"image": "?", "caption": "x"}] * 3)
    with pytest.raises(DataError, match=r"no rows are left for `data.train`: 3 are bad \(.*row 1"):
        read(csv_source(file), on_bad_row="skip")


# fingerprints


def test_a_fingerprint_changes_with_any_change(tmp_path: Path) -> None:
    def fingerprint(table: list[dict[str, str]], **values: Any) -> str:
        return read(csv_source(write_csv(tmp_path / "table.csv", table), **values))[0].fingerprint

    base = rows(5)
    seen = {fingerprint(base)}
    assert fingerprint(base) in seen
    changed = []
    for column, value in (("image", cell(77)), ("caption", "other"), ("question", "other?")):
        table = [dict(row) for row in base]
        table[3][column] = value
        changed.append(fingerprint(table))
    changed += [fingerprint(base[::-1]), fingerprint(base[:4]), fingerprint([*base, rows(6)[5]])]
    changed += [fingerprint(base, prompt="x"), fingerprint(base, columns={"id": "question"})]
    changed.append(fingerprint([*base[:2], base[3], base[2], base[4]]))
    assert len(seen | set(changed)) == 1 + len(changed)
    table = [{**row, "kind": "other"} for row in base]
    assert fingerprint(table) in seen  # a column that nothing reads


# examples


def examples_of(file: Path, transforms: Transforms | None = None, **values: Any) -> ExampleSet:
    samples, policy = read(csv_source(file), **values)
    return ExampleSet(samples, tiny_ports(), policy, transform_of(transforms or Transforms()), 7)


def test_examples(file: Path) -> None:
    examples = examples_of(file)
    assert len(examples) == 24
    assert examples.lengths.tolist() == [len(examples[0, index].tokens) for index in range(24)]
    assert examples.supervised == sum(examples[0, index].supervised for index in range(24))
    for index in (0, 23):
        example, prompt = examples[0, index], examples.prompt(index)
        assert example.id == examples.samples.ids[index]
        assert (example.tokens[: len(prompt)] == prompt).all()
        assert (example.targets[: len(prompt) - 1] == IGNORE).all()
        assert (example.targets[len(prompt) - 1 : -1] == example.tokens[len(prompt) :]).all()
        (picture,) = example.pictures
        assert (picture.dtype, picture.shape) == (np.uint8, (3, 8, 8))


def test_an_example_too_long_is_a_bad_row(file: Path) -> None:
    table = rows(4)
    table[1]["caption"] = "long " * 60
    write_csv(file, table)
    with pytest.raises(DataError, match=r"tokens, the model takes 96[\s\S]*row 2"):
        examples_of(file)
    examples = examples_of(file, on_bad_row="skip")
    assert len(examples) == 3
    assert [examples[0, index].id for index in range(3)] == ["table-1", "table-3", "table-4"]


def test_no_example_left(file: Path) -> None:
    write_csv(file, [{**row, "caption": "long " * 60} for row in rows(2)])
    with pytest.raises(DataError, match="no rows are left after encoding"):
        examples_of(file, on_bad_row="skip")


def test_transforms_change_training_pictures_alone(file: Path) -> None:
    examples = examples_of(file, Transforms(rotate=20.0, brightness=0.3))
    plain = examples_of(file)
    for index in range(0, 24, 5):
        assert (examples.plain(index).pictures[0] == plain[3, index].pictures[0]).all()
        assert (examples[0, index].pictures[0] == examples[0, index].pictures[0]).all()
        assert (examples[0, index].pictures[0] != examples[1, index].pictures[0]).any()
    other = ExampleSet(examples.samples, tiny_ports(), Policy(data(csv_source(file))), examples._transform, 8)
    assert (other[0, 0].pictures[0] != examples[0, 0].pictures[0]).any()


def test_large_pictures_are_shrunk_before_their_transforms(tmp_path: Path) -> None:
    picture = png(1, 90, 40)
    file = write_csv(tmp_path / "t.csv", [{"image": base64.b64encode(picture).decode(), "caption": "x"}])
    examples = examples_of(file, Transforms(brightness=1e-9))
    wanted = resize(load_picture(picture, "").image.reduce((2, 5)), 8, 8, "bicubic")
    assert np.abs(examples[0, 0].pictures[0].astype(int) - wanted).max() <= 1


def test_pictures_are_kept_where_all_would_fit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is what would be read again, and pictures that are looked at do not change."""
    transforms = Transforms(rotate=20.0, saturation=0.5, flip="horizontal")
    kept, read_again = examples_of(file, transforms), examples_of(file, transforms)
    width, height = load_picture(kept.sample(0).images[0].data, "").size
    monkeypatch.setattr(dataset, "_KEPT_BYTES", 24 * 3 * width * height)
    looks = [(epoch, index) for epoch in range(3) for index in range(24)]
    first = [kept[look].pictures[0] for look in looks]
    assert len(kept._kept) == 24
    monkeypatch.setattr(dataset, "_KEPT_BYTES", 24 * 3 * width * height - 1)
    for look, picture in zip(looks, first, strict=True):
        assert (read_again[look].pictures[0] == picture).all()
        assert (read_again.plain(look[1]).pictures[0] == kept.plain(look[1]).pictures[0]).all()
    assert not read_again._kept
    assert not pickle.loads(pickle.dumps(kept))._kept


def test_a_copy_for_another_process(file: Path) -> None:
    examples = examples_of(file, Transforms(rotate=20.0))
    copy = pickle.loads(pickle.dumps(examples))
    for index in (0, 9):
        ours, theirs = examples[2, index], copy[2, index]
        assert ours.id == theirs.id
        for field in ("tokens", "targets"):
            assert (getattr(ours, field) == getattr(theirs, field)).all()
        assert (ours.pictures[0] == theirs.pictures[0]).all()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


FORMS = {
    "jpeg": lambda: encode(gradient(), "JPEG"),
    "upside down": lambda: encode(gradient(), "JPEG", exif=_turned()),
    "16 bits": lambda: encode(gradient()[..., 0].astype(np.uint16) * 257, "PNG"),
    "transparent": lambda: encode(np.dstack([gradient(), gradient()[..., 0]]), "PNG"),
    "cmyk": lambda: encode(Image.fromarray(gradient()).convert("CMYK"), "JPEG"),
    "palette": lambda: encode(Image.fromarray(gradient()).convert("P"), "GIF"),
    "one bit": lambda: encode(Image.fromarray(gradient()).convert("1"), "TIFF"),
    "webp": lambda: encode(gradient(), "WEBP"),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_way_from_picture_to_model(tmp_path: Path, form: str) -> None:
    """A table, a folder, training without transforms, validation, and a picture from the shell give the same bytes."""
    from finesight.workflows.generate import _sample

    data_ = FORMS[form]()
    (tmp_path / "a.png").write_bytes(data_)
    text = base64.b64encode(data_).decode()
    table = write_csv(
        tmp_path / "t.csv", [{"image": text, "caption": "x"}, {"image": "a.png", "caption": "x"}]
    )
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "a.png", "caption": "x"}]))
    found = [examples_of(table)[3, 0], examples_of(table)[0, 1], examples_of(table).plain(0)]
    samples, policy = read(folder_source(tmp_path))
    found.append(ExampleSet(samples, tiny_ports(), policy)[0, 0])
    pictures = [example.pictures[0] for example in found]
    pictures += prepare_pictures(
        _sample(tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), None, "?"), tiny_ports()
    )
    wanted = resize(load_picture(data_, "").image, 8, 8, "bicubic")
    assert len(pictures) == 5
    assert all(picture.tobytes() == wanted.tobytes() for picture in pictures)


def test_recipe_transforms_reach_the_transform() -> None:
    assert transform_of(Transforms()) is None
    values = {"rotate": 90.0, "scale": 0.75, "translate": 1.0, "shear": 30.0, "wave": 0.25, "brightness": 1.0}
    values |= {
        "contrast": 1.0,
        "saturation": 1.0,
        "hue": 180.0,
        "fill": "white",
        "flip": "all",
        "stretch": 0.75,
        "crop": 0.9,
    }
    transform = transform_of(Transforms(**values))
    assert transform is not None
    wanted = {**values, "scale": (0.25, 1.75), "hue": 0.5}
    assert {
        field.name: getattr(transform.settings, field.name) for field in fields(TransformSettings)
    } == wanted
    assert set(Transforms.model_fields) == set(wanted)


@pytest.mark.parametrize("name", list(Transforms.model_fields))
def test_every_value_that_a_recipe_may_have_is_taken(name: str) -> None:
    for value in _ends(name):
        assert transform_of(Transforms(**{name: value})) is not None


def _ends(name: str) -> Iterator[object]:
    schema: Mapping[str, Any] = Transforms.model_json_schema()["properties"][name]
    yield from schema.get("enum", [float(schema.get("maximum", 0))])[1:] or [float(schema["maximum"])]
