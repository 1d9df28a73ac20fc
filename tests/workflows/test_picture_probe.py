"""Losses with the true pictures, with blank ones and with other samples' tell whether a model looks at its pictures."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import rows, tiny_mapping, tiny_recipe

from finesight.config.load import parse_recipe
from finesight.core.batch import Example, Extra
from finesight.core.errors import FinesightError, Interrupted
from finesight.core.ports import ImagePort
from finesight.evaluation.pictures import SampleLosses, picture_effect
from finesight.models.forward import SupervisedForward
from finesight.runtime.notices import Notices
from finesight.workflows import train as workflow
from finesight.workflows.evaluate import evaluate
from finesight.workflows.prepare import Prepared, prepare
from finesight.workflows.probe import PictureProbe, blank, exchanged, picture_extras, swapped
from finesight.workflows.train import train


def _probe(prepared: Prepared, recipe: Any, notices: Notices | None = None, **changed: Any) -> Any:
    probe = PictureProbe(prepared.splits["val"], "val", recipe, notices or Notices(), **changed)
    forward = SupervisedForward(prepared.model, prepared.ports.image)
    return probe, probe(prepared.model, forward, prepared.precision, prepared.device)


@pytest.fixture(scope="module")
def untrained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Prepared]:
    recipe = tiny_recipe(tiny_data, tmp_path_factory.mktemp("probe"), evaluation={"batch_size": 3})
    return recipe, prepare(recipe, Notices())


def test_losses_are_those_of_plain_transformers(untrained: tuple[Any, Prepared]) -> None:
    recipe, prepared = untrained
    model, examples = prepared.model, prepared.splits["val"]
    model.train()
    for part in model.modules():
        part.training = isinstance(part, torch.nn.Dropout)
    modes, drawn = [part.training for part in model.modules()], torch.get_rng_state()
    probe, effect = _probe(prepared, recipe)
    assert modes == [part.training for part in model.modules()] and torch.equal(drawn, torch.get_rng_state())
    plan = probe._plan
    assert sorted(plan.chosen) == list(range(8))
    assert sorted(plan.partners) == list(range(8)), "each is shown once"
    model.eval()
    totals = np.zeros(3)
    image = prepared.ports.image
    assert isinstance(image, ImagePort)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (image.mean, image.std))
    for index, partner in zip(plan.chosen, plan.partners, strict=True):
        example, other = examples.plain(index), examples.plain(partner)
        assert not np.array_equal(example.pictures[0], other.pictures[0])
        shown = [(torch.from_numpy(one.pictures[0])[None] / 255 - mean) / std for one in (example, other)]
        tokens = torch.from_numpy(example.tokens.astype(np.int64))[None]
        wanted = torch.from_numpy(example.targets.astype(np.int64))
        level = torch.round(255 * mean) / 255  # whole levels: as near to zero as a picture comes
        grey = ((level - mean) / std).expand_as(shown[0])
        assert float(grey.abs().max()) < 0.01
        for at, pixels in enumerate((shown[0], grey, shown[1])):
            with torch.no_grad():
                logits = model(input_ids=tokens, pixel_values=pixels).logits[0]
            totals[at] += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
    means = totals / effect.tokens
    assert effect.tokens == examples.supervised
    assert (effect.true, effect.blank, effect.shuffled) == pytest.approx(tuple(means), rel=1e-6)
    apart = [abs(means[one] - means[other]) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 1e-4, "else it would not tell them apart"


def test_samples_and_partners_depend_on_the_seed_alone(untrained: tuple[Any, Prepared]) -> None:
    recipe, prepared = untrained
    some = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"probe": 4})})
    (one, first), (two, second) = (_probe(prepared, some) for _ in range(2))
    assert one._plan == two._plan and first == second and first.samples == 4
    other = some.model_copy(update={"run": some.run.model_copy(update={"seed": 6})})
    assert _probe(prepared, other)[0]._plan != one._plan


class _Pair:
    """What two processes of a world would say, one after the other."""

    def __init__(self, rank: int, said: list[Any]) -> None:
        self.rank, self.size, self.said = rank, 2, said

    def once(self, work: Any) -> Any:
        return json.loads(json.dumps(work()))

    def together(self, facts: Any, error: Any = None) -> list[Any]:
        assert error is None
        self.said.append(json.loads(json.dumps(facts)))
        return self.said


def test_two_processes_measure_what_one_does(untrained: tuple[Any, Prepared]) -> None:
    recipe, prepared = untrained
    _, alone = _probe(prepared, recipe)
    said: list[Any] = []
    _probe(prepared, recipe, world=_Pair(0, said))
    _, both = _probe(prepared, recipe, world=_Pair(1, said))
    assert [len(share) for share, _ in said] == [5, 3], "batches of 3, 3 and 2"
    assert both == alone


def test_nothing_to_measure_is_told_or_silent(untrained: tuple[Any, Prepared], tmp_path: Path) -> None:
    recipe, prepared = untrained
    none = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"probe": 0})})
    assert _probe(prepared, none)[1] is None
    notices = Notices()
    one = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"probe": 1})})
    _, effect = _probe(prepared, one, notices)
    assert effect is not None and effect.shuffled is None and effect.over_shuffled is None
    assert "of 1 only 0 find another picture of their form" in str(notices.rows()[0]["text"])
    assert effect.values().keys() == {"picture_true", "picture_blank"}
    with pytest.raises(FinesightError, match=r"evaluation\.probe"):
        parse_recipe(tiny_mapping(tmp_path / "x.csv", tmp_path, evaluation={"probe": -1}))


def test_a_family_that_takes_no_other_pictures_is_told_of_once(untrained: tuple[Any, Prepared]) -> None:
    recipe, prepared = untrained
    notices = Notices()
    probe = PictureProbe(prepared.splits["val"], "val", recipe, notices)
    asked: list[Any] = []

    def refuses(batch: Any) -> Any:
        asked.append(batch)
        raise ValueError("tokens: 160, features: 4\nand more")

    for _ in range(2):
        assert probe(prepared.model, refuses, prepared.precision, prepared.device) is None
    (row,) = notices.rows()
    assert len(asked) == 1 and "(ValueError: tokens: 160, features: 4)" in str(row["text"])


def test_pictures_are_exchanged_with_others_of_their_form() -> None:
    kinds = {
        0: ("a", "x"),
        1: ("a", "x"),
        2: ("a", "y"),
        3: ("a", "z"),
        4: ("b", "x"),
        5: ("c", "x"),
        6: ("c", "y"),
    }
    found = exchanged(kinds)
    assert set(found) == {0, 1, 2, 3, 5, 6}, "4 is alone"
    assert sorted(found.values()) == sorted(found), "each is shown once"
    for index, other in found.items():
        assert kinds[index][0] == kinds[other][0] and kinds[index][1] != kinds[other][1]
    same = {number: ("a", "x" if number else "y") for number in range(5)}
    assert exchanged(same) in ({0: 1, 4: 0}, {0: 4, 1: 0}, {0: 1, 1: 0}, {0: 4, 4: 0}), "most show the same"
    assert exchanged(dict.fromkeys(range(3), ("a", "x"))) == {}


def _of_processor(number: int, count: int) -> Example:
    """Two pictures of a processor of its own, with what belongs to them and to the text."""
    draw = np.random.default_rng(number)
    extras = {
        "pixel_values": Extra(draw.standard_normal((count, 3, 2, 2)).astype(np.float32)),
        "image_grid_thw": Extra(np.full((count, 3), 2)),
        "mm_token_type_ids": Extra(np.full(4, number), "tokens"),
        "input_features": Extra(np.full((1, 2), float(number))),
    }
    return Example(f"s{number}", np.arange(4), np.arange(4), extras)


def test_only_what_comes_from_pictures_is_exchanged_and_blanked() -> None:
    one, two = _of_processor(1, 2), _of_processor(2, 2)
    assert picture_extras(one).keys() == {"pixel_values", "image_grid_thw"}
    mixed = swapped(one, two).extras
    for name in ("pixel_values", "image_grid_thw"):
        assert mixed[name] is two.extras[name]
    for name in ("mm_token_type_ids", "input_features"):
        assert mixed[name] is one.extras[name]
    ports: Any = type("Ports", (), {"image": None})
    one.extras["pixel_values"].array[1] = 0
    empty = blank(one, ports).extras
    pixels = empty["pixel_values"].array
    assert pixels.dtype == np.float32 and pixels.shape == (2, 3, 2, 2)
    assert (pixels[0] == np.float32(1e-4)).all() and not pixels[1].any(), (
        "SmolVLM leaves pictures of zeros out"
    )
    assert empty["image_grid_thw"] is one.extras["image_grid_thw"]


def test_the_difference_is_judged_by_its_interval() -> None:
    draw = np.random.default_rng(0)
    losses = [(f"g{n}", int(draw.integers(1, 9)), float(draw.random()) + 1) for n in range(40)]

    def effect(blank: Any, shuffled: Any = None) -> Any:
        made = [
            SampleLosses(group, tokens, loss, blank(loss), None if shuffled is None else shuffled(loss))
            for group, tokens, loss in losses
        ]
        found = picture_effect(made, "val", 3, 200)
        assert found == picture_effect(made[::-1], "val", 3, 200)
        return found

    much = effect(lambda loss: loss * 1.5)
    assert much.matters and much.shuffled is None
    assert much.true == pytest.approx(sum(x[2] for x in losses) / sum(x[1] for x in losses))
    assert much.over_blank.value == pytest.approx(much.true / 2)
    assert much.over_blank.low < much.over_blank.value < much.over_blank.high
    assert not effect(lambda loss: loss).matters
    assert not effect(lambda loss: loss * 0.5).matters, "pictures that harm"
    assert not effect(lambda loss: loss * 1.005).matters, "certain, and next to nothing"
    assert not effect(lambda loss: loss + draw.standard_normal()).matters
    assert effect(lambda loss: loss, lambda loss: loss * 1.2).matters
    assert "matters" in much.document() and "intervals" not in much.document()


def _coloured(path: Path, telling: bool, pairs: int = 48) -> Path:
    """Pictures of one colour each, and answers that name it, or that have nothing to do with it."""
    draw = np.random.default_rng(1)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "question", "answer", "kind"])
        for number in range(pairs):
            level, said = draw.integers(0, 2, 2)
            picture = Image.new("RGB", (8, 8), (250, 240, int(draw.integers(60))) if level else (5, 10, 200))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            answer = ("bbbb", "yyyy")[level if telling else said]
            table.writerow([base64.b64encode(buffer.getvalue()).decode(), "?", answer, f"k{number % 2}"])
    return path


@pytest.mark.parametrize("telling", [True, False])
def test_a_model_that_must_look_and_one_that_need_not(
    telling: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    mapping = tiny_mapping(
        _coloured(tmp_path / "c.csv", telling),
        tmp_path / "run",
        train={"max_steps": 40 if telling else 8, "batch_size": 8, "micro_batch": "auto", "lr": 1e-2},
        evaluation={"every": 40 if telling else 8, "max_samples": 0},
    )
    mapping["data"]["transforms"] = {}
    summary = train(parse_recipe(mapping))
    results = json.loads((tmp_path / "run" / "results.json").read_text())["pictures"]
    notices = [row["text"] for row in json.loads((tmp_path / "run" / "notices.json").read_text())]
    told = [text for text in notices if "make no difference" in text]
    assert results["matters"] == telling and bool(told) != telling, results
    if telling:
        assert results["blank"] > 2 * results["true"] and results["shuffled"] > 2 * results["true"]
        assert results["over_shuffled"]["low"] > 0
    measured = {
        row["name"]: row["value"] for row in rows(tmp_path / "run" / "metrics.jsonl") if "name" in row
    }
    assert measured["picture_blank"] == pytest.approx(results["blank"])
    assert measured["picture_true"] == pytest.approx(measured["val_loss"], rel=1e-5)
    assert summary["status"] == "finished"
    again = evaluate(str(tmp_path / "run"), split="val", out=tmp_path / "out")
    assert again["pictures"] == results
    assert json.loads((tmp_path / "out" / "results.json").read_text())["pictures"] == results


def test_a_stop_while_it_measures_is_obeyed(untrained: tuple[Any, Prepared]) -> None:
    recipe, prepared = untrained
    probe = PictureProbe(prepared.splits["val"], "val", recipe, Notices())
    forward = SupervisedForward(prepared.model, prepared.ports.image)

    def stop() -> None:
        raise Interrupted("stopped", "here", "go on")

    with pytest.raises(Interrupted):
        probe(prepared.model, forward, prepared.precision, prepared.device, stop)
