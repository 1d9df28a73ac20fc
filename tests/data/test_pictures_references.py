"""Stored pictures against stored pixels, and one way to them for training, evaluation and the command line (T21)."""

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_pictures import FOLDER, PIXELS, REFUSED, UPRIGHT, references
from tiny_runs import tiny_recipe

from finesight.core.batch import Extra
from finesight.core.errors import DataError
from finesight.data.pictures.load import load_picture, resize

with np.load(PIXELS) as stored:
    EXPECTED = dict(stored)


@pytest.mark.proof
@pytest.mark.parametrize("name", EXPECTED)
def test_a_stored_picture_has_its_stored_pixels(name: str) -> None:
    expected = EXPECTED[name].astype(float)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, -1)
    pixels = load_picture((FOLDER / name).read_bytes(), name).pixels
    assert pixels.shape == expected.shape and pixels.dtype == np.uint8
    assert np.abs(pixels - expected).mean() <= 1


@pytest.mark.proof
@pytest.mark.parametrize("name", REFUSED)
def test_a_stored_picture_is_refused_by_name(name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_picture((FOLDER / name).read_bytes(), f"rows.csv, row 3 ({name})")
    (fault,) = caught.value.faults
    assert REFUSED[name][0] in fault.what and name in fault.where and fault.mend


def test_the_store_is_whole() -> None:
    kinds = [
        *(f"orientation-{number}.jpg" for number in UPRIGHT),
        "16-bits.png",
        "32-bits.tiff",
        "float.tiff",
        "la.png",
    ]
    kinds += [
        "pa.tiff",
        "rgba.png",
        "palette-transparent.png",
        "1-bit.png",
        "gray.jpg",
        "cmyk.jpg",
        "cmyk-adobe.jpg",
    ]
    kinds += ["moving.gif", "moving.webp", "1x1.png", "1x20000.png", "profile-swapped.jpg"]
    assert set(kinds) <= set(EXPECTED)
    assert {file.name for file in FOLDER.iterdir()} == {*EXPECTED, *REFUSED, PIXELS.name}
    assert [name for name, _, _ in references()] == list(EXPECTED)


@pytest.mark.proof
def test_every_way_to_a_model_gives_the_same_bytes(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finesight.config.train import Generation
    from finesight.generation import predict as predicting
    from finesight.models.load import load_model
    from finesight.runtime.notices import Notices
    from finesight.workflows import generate as generating
    from finesight.workflows.prepare import prepare

    rows, names = tmp_path / "pictures.csv", list(EXPECTED)
    with open(rows, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "question", "answer", "kind"])
        for name in names:
            table.writerow([base64.b64encode((FOLDER / name).read_bytes()).decode(), "Which?", name, "k"])
    recipe = tiny_recipe(rows, tmp_path / "run", data={"transforms": {}, "val": None})
    examples = prepare(recipe, Notices()).splits["train"]
    port = examples.ports.image
    assert port is not None and len(examples) == len(names)
    expected = {
        name: resize(
            load_picture((FOLDER / name).read_bytes(), ""), port.height, port.width, port.resample
        ).tobytes()
        for name in names
    }
    for index, name in enumerate(names):
        assert examples[0, index].pictures[0].tobytes() == expected[name]  # training
        assert examples.plain(index).pictures[0].tobytes() == expected[name]  # validation loss

    answered: list[bytes] = []

    def remembered(
        model: Any, ports: Any, prompts: Any, extras: Sequence[Mapping[str, Extra]], config: Any
    ) -> list[str]:
        answered.extend(one["pixel_values"].array[0].tobytes() for one in extras)
        return [""] * len(prompts)

    monkeypatch.setattr(predicting, "answer", remembered)
    model = load_model(str(finished_run / "model")).model
    predicting.predict(model, examples, Generation(max_new_tokens=1), 7)  # evaluation
    assert sorted(answered) == sorted(expected.values())
    answered.clear()
    generating.generate(
        str(finished_run), [FOLDER / name for name in names], "Which?", device="cpu"
    )  # command line
    assert answered == list(expected.values())
