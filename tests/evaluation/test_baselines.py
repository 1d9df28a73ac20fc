import dataclasses

import numpy as np
import pytest

from finesight.core.errors import DataError
from finesight.evaluation import baselines
from finesight.evaluation.baselines import majority, nearest_picture, nearest_rows


@pytest.fixture
def table(item):
    rows = [item(str(number), "model", ["x"], f"g{number}", kind="a") for number in range(4)]
    prompts = ["What colour?", "Which country?", "new", "What colour?"]
    return [dataclasses.replace(row, prompt=prompt) for row, prompt in zip(rows, prompts, strict=True)]


def test_majority_by_prompt_then_overall(table) -> None:
    prompts = ["What colour?"] * 3 + ["Which country?"] * 4
    answers = ["red", "blue", "red", "Chad", "Mali", "Mali", "Mali"]
    found = majority(prompts, answers, table)
    assert [one.prediction for one in found] == ["red", "Mali", "Mali", "red"]
    for one, mirrored in zip(found, table, strict=True):
        assert dataclasses.replace(one, prediction="model") == mirrored


def test_majority_breaks_ties_by_alphabet(table) -> None:
    for answers in (["b", "a"], ["a", "b"]):
        assert majority(["p", "q"], answers, table)[2].prediction == "a"


@pytest.mark.parametrize("answers", [[], ["one"]])
def test_majority_needs_an_answer_for_each_prompt(table, answers: list[str]) -> None:
    with pytest.raises(DataError, match="training answers"):
        majority(["p", "q"] if answers else [], answers, table)


def test_nearest_equals_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    train, queries = (random.integers(0, 256, (items, 12), dtype=np.uint8) for items in (50, 33))
    train[40] = train[3]  # of equally near pictures the first is taken
    queries[5] = train[3]
    far = ((queries[:, None].astype(int) - train[None].astype(int)) ** 2).sum(axis=2)
    wanted = far.argmin(axis=1).tolist()
    assert wanted[5] == 3
    assert nearest_rows(train, queries) == wanted
    monkeypatch.setattr(baselines, "_BLOCK_BYTES", 8 * 12 * 7)  # seven rows a block
    assert nearest_rows(train, queries) == wanted


def test_nearest_picture(table) -> None:
    levels = np.array([0, 100, 255], dtype=np.uint8)
    train = np.broadcast_to(levels[:, None, None, None], (3, 2, 2, 3))
    pixels = np.broadcast_to(np.array([250, 60, 49, 10], dtype=np.uint8)[:, None, None, None], (4, 2, 2, 3))
    found = nearest_picture(train, ["black", "grey", "white"], pixels, table)
    assert [one.prediction for one in found] == ["white", "grey", "black", "black"]
    assert [(one.id, one.references, one.tags, one.group) for one in found] == [
        (one.id, one.references, one.tags, one.group) for one in table
    ]


def test_pictures_that_do_not_fit(table) -> None:
    pixels = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    with pytest.raises(DataError, match="4 training pictures and 1 training answers"):
        nearest_picture(pixels, ["x"], pixels, table)
    with pytest.raises(DataError, match="3 pictures for 4 predictions"):
        nearest_picture(pixels, list("abcd"), pixels[:3], table)
    with pytest.raises(DataError, match="Resize both"):
        nearest_picture(pixels[:, :1], list("abcd"), pixels, table)
    with pytest.raises(DataError, match="float64"):
        nearest_picture(pixels / 255, list("abcd"), pixels, table)
    with pytest.raises(DataError, match="0 training pictures"):
        nearest_picture(pixels[:0], [], pixels, table)
