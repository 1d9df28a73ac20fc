"""Datasets that `datasets` saved or can read: rows as they are, pictures encoded, clear errors. No network."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from archives import pictures, write_pictures
from datasets import Dataset, DatasetDict, Features, Image, List, Value

from finesight.config.sources import HubSource
from finesight.core.errors import DataError
from finesight.data.samples import open_rows
from finesight.data.sources.hub import HubReader, HubStream, open_hub


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, no progress bars, a cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def saved(folder: Path) -> Path:
    write_pictures(folder / "pictures")
    files = [str(folder / "pictures" / name) for name, _, _ in pictures()]
    features = Features(
        {
            "image": Image(),
            "images": List(Image()),
            "caption": Value("string"),
            "turns": List({"role": Value("string"), "content": Value("string")}),
            "number": Value("int32"),
        }
    )
    rows = {
        "image": files,
        "images": [[file] * (n % 3) for n, file in enumerate(files)],
        "caption": [caption if n else None for n, (_, _, caption) in enumerate(pictures())],
        "turns": [[{"role": "user", "content": caption}] for _, _, caption in pictures()],
        "number": list(range(len(files))),
    }
    data = Dataset.from_dict(rows, features=features)
    DatasetDict(train=data, test=data.select([5, 3])).save_to_disk(folder / "both")
    data.save_to_disk(folder / "one")
    return folder


def source(path: Path | str, **values: Any) -> HubSource:
    return HubSource(source="hub", path=str(path), **values)


def row_of(number: int) -> dict[str, Any]:
    name, data, caption = pictures()[number]
    picture = {"bytes": data, "path": name}
    row = {
        "image": picture,
        "images": [picture] * (number % 3),
        "caption": caption,
        "turns": [{"role": "user", "content": caption}],
        "number": number,
    }
    return row if number else {key: value for key, value in row.items() if key != "caption"}


def test_a_saved_dataset(tmp_path: Path) -> None:
    saved(tmp_path)
    for path, numbers in ((tmp_path / "one", range(24)), (tmp_path / "both", range(24))):
        found = open_hub(source(path))
        assert isinstance(found, HubReader)
        assert [found.row(index) for index in reversed(range(len(found)))] == [
            row_of(n) for n in reversed(numbers)
        ]
    found = open_hub(source(tmp_path / "both", split="test"))
    assert isinstance(found, HubReader)
    assert (len(found), found.row(0), found.row(1, ("number",))) == (2, row_of(5), {"number": 3})
    assert str(found.origin(1)) == f"{tmp_path}/both, split test, row 2"
    assert found.root == str(tmp_path / "both")
    again = pickle.loads(pickle.dumps(found))
    assert again.row(0) == row_of(5)
    assert again.identity() == found.identity() != open_hub(source(tmp_path / "both")).identity()


def test_a_stream_gives_the_same_rows(tmp_path: Path) -> None:
    saved(tmp_path)
    found = open_hub(source(tmp_path / "both", stream=True))
    assert isinstance(found, HubStream)
    assert list(found.iter_rows()) == [row_of(number) for number in range(24)]
    assert list(found.iter_rows(20)) == [row_of(number) for number in range(20, 24)]
    assert found.columns == ("image", "images", "caption", "turns", "number")
    assert not hasattr(found, "__len__")


def test_folders_that_datasets_reads(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "train"
    names = write_pictures(folder)
    lines = [json.dumps({"file_name": name, "text": f"t{n}"}) for n, name in enumerate(names)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    for stream in (False, True):
        found = open_rows(source(tmp_path / "data", stream=stream)) if not stream else None
        if found is not None:
            sample = found.sample(2)
            assert sample is not None
            assert (sample.images[0].data, sample.references) == (pictures()[2][1], ("t2",))
        else:
            rows = list(open_hub(source(tmp_path / "data", stream=True)).iter_rows())  # type: ignore[union-attr]
            assert rows[2]["text"] == "t2"
            assert rows[2]["image"]["path"] == str(folder / names[2])


def test_rows_that_name_files_elsewhere_read_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(pictures()[0][1])
    features = Features({"image": Image(decode=False), "caption": Value("string")})
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "caption": ["x"]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "data")
    import shutil

    import pyarrow as pa

    # as a stranger would write it: `save_to_disk` itself puts the bytes in
    (file,) = (tmp_path / "data").glob("*.arrow")
    with pa.ipc.open_stream(file.read_bytes()) as stream:
        held = stream.read_all()
    kind = held.schema.field("image").type
    bad = pa.table({"image": pa.array(rows["image"], kind), "caption": ["x"]}, schema=held.schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, bad.schema) as writer:
        writer.write_table(bad)
    found = open_rows(source(tmp_path / "data"))
    with pytest.raises(DataError, match="leads out of the folder"):
        found.sample(0)
    shutil.rmtree(tmp_path / "data")


def refused(given: HubSource, what: str) -> str:
    with pytest.raises(DataError, match=what) as caught:
        open_hub(given)
    return str(caught.value)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    saved(tmp_path)
    assert "`train` or `test`" in refused(source(tmp_path / "both", split="val"), "no split `val`")
    refused(source("./none"), "does not exist")
    assert "HF_HUB_OFFLINE" in refused(source("nobody/nothing"), "hub cannot be reached")
    (tmp_path / "empty").mkdir()
    refused(source(tmp_path / "empty"), "no data in this folder")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit(5)")
    refused(source(tmp_path / "code"), "cannot read it|no data|program")
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "train.csv").write_text("a,b\n1,2\n")
    assert "`train`" in refused(source(folder, split="test"), "no split `test`")


def test_a_damaged_saved_dataset_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:200])
    refused(source(tmp_path / "one"), "saved dataset cannot be read")
