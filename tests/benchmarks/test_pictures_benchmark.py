"""What the benchmark of pictures compares is alike; no time is asserted."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from benchmarks import pictures
from benchmarks.pictures import PLANS, Plan, differences, measure, photographs, routes

SMALL = Plan(160, 120, 6, 48, 1, "nothing")


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return photographs(SMALL, 3)


def test_the_photographs_are_as_said(files: list[bytes]) -> None:
    for data in files:
        image = Image.open(BytesIO(data))
        assert image.format == "JPEG" and image.size == (160, 120) and image.mode == "RGB"
        assert abs(len(data) - 6000) < 1500
        assert np.asarray(image).std() > 20  # no blank page
    assert len(set(files)) == 3
    assert photographs(SMALL, 3) == files


def test_all_routes_lead_to_the_same_picture(files: list[bytes]) -> None:
    ways = routes(48)
    for name in ("finesight without simplejpeg", "Pillow alone"):
        apart = differences(files, ways["finesight"], ways[name])
        assert apart["largest difference, levels"] <= pictures.MOST
    for data in files:
        theirs = np.asarray(ways["PIL processor"](data))
        assert theirs.shape == (3, 48, 48) and theirs.dtype == np.float32
        assert np.abs(np.asarray(ways["finesight, as floats"](data)) - theirs).max() < 1.5 / 255 / 0.26
        # before it makes floats of them, the processor's levels are Pillow's
        mean, std = (
            np.array([0.48145466, 0.4578275, 0.40821073]),
            np.array([0.26862954, 0.26130258, 0.27577711]),
        )
        levels = (theirs * std[:, None, None] + mean[:, None, None]) * 255
        assert np.abs(levels - ways["Pillow alone"](data)).max() < 0.01


def test_another_picture_is_seen(files: list[bytes]) -> None:
    ways = routes(48)
    apart = differences(files, ways["finesight"], lambda data: 255 - ways["Pillow alone"](data))
    assert apart["largest difference, levels"] > pictures.MOST and apart["mean difference, levels"] > 9


def test_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANS, "vga", SMALL)
    result, difference = measure("vga", 2, count=2)
    assert difference <= pictures.MOST
    assert set(result.rounds) == set(routes(48)) and all(len(costs) == 2 for costs in result.rounds.values())
    assert result.facts["pictures"].startswith("2 of 160 × 120")
    assert "PIL processor / finesight" in result.ratios()
