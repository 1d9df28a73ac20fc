"""Packed rows over several processes: a step's samples are dealt first, and each process packs its own."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_runs import rows, tiny_mapping, without_report, write_pictures
from worlds import World, together

from finesight.config.load import parse_recipe
from finesight.core.batch import Example, Extra
from finesight.core.errors import DataError
from finesight.data.loading.layout import Layout
from finesight.data.loading.order import Share
from finesight.data.loading.workers import Workers
from finesight.runtime.notices import Notices
from finesight.training.agreement import Agreed, agreed, facts_of, kind_of
from finesight.workflows import train as workflow
from finesight.workflows.course import ByNumber
from finesight.workflows.prepare import course_of, prepare

pytestmark = pytest.mark.usefixtures("no_report")

PER_STEP = (
    "step",
    "loss",
    "grad_norm",
    "samples",
    "tokens",
    "supervised_tokens",
    "padding",
    "epoch",
    "value",
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with pictures; beside them `words.csv`, the same without, as questions and answers."""
    file = write_pictures(tmp_path_factory.mktemp("ranks") / "table.csv", 16)
    lines = [line.partition(",")[2] for line in file.read_text(encoding="utf-8").splitlines(keepends=True)]
    file.with_name("words.csv").write_text("".join(lines), encoding="utf-8")
    return file


def mapping(table: Path, folder: Path, way: str = "auto", **train: Any) -> dict[str, Any]:
    """A packed run whose steps are of so many tokens, without random draws; some rows have a picture, some have not.

    A larger `eps` than the recipe's own: AdamW would make much of what rounding leaves of gradients that are nearly 0.
    """
    settings = {"batch_size": None, "batch_tokens": 200, "micro_batch": "auto", "packing": True, "eps": 1e-5}
    found = tiny_mapping(table, folder, train={"max_steps": 4, "precision": "fp32", **settings, **train})
    for part in ("vision", "decoder"):
        found["model"]["scratch"][part]["dropout"] = 0.0
    del found["data"]["transforms"]
    pictures = found["data"]["train"]
    words = {"source": "pairs", "path": str(table.with_name("words.csv"))}
    found["data"]["train"] = [pictures, words]
    found["evaluation"] |= {"every": 4, "max_samples": 2}
    return {**found, "parallel": {"strategy": way}}


def all_of(world: World, mappings: dict[str, Any]) -> list[Any]:
    """Train some recipes, one after another, in the same processes."""
    without_report()
    for found in mappings.values():
        recipe = parse_recipe(found)
        strategy: Any = recipe.parallel.strategy
        workflow._stages(
            recipe, (False, False), False, None, replace(world, strategy=strategy), time.monotonic()
        )
    return []


def test_packed_steps_of_two_processes_are_those_of_one(table: Path, tmp_path: Path) -> None:
    ways = {
        "ddp": mapping(table, tmp_path / "ddp", "ddp"),
        "fsdp": mapping(table, tmp_path / "fsdp", "fsdp", micro_batch=2),
        "half": mapping(table, tmp_path / "half", "fsdp", precision="bf16", max_steps=1),
    }
    workflow.train(parse_recipe(mapping(table, tmp_path / "one")))
    together(tmp_path, 2, all_of, ways)
    alone = rows(tmp_path / "one" / "metrics.jsonl")
    named = [sorted(row["ids"]) for row in rows(tmp_path / "one" / "samples.jsonl")]
    weights = load_file(tmp_path / "one" / "model" / "model.safetensors")
    for way in ("ddp", "fsdp"):
        for row, other in zip(rows(tmp_path / way / "metrics.jsonl"), alone, strict=True):
            keys = [key for key in PER_STEP if key in other]
            assert [row[key] for key in keys] == pytest.approx([other[key] for key in keys], abs=1e-5)
        assert [sorted(row["ids"]) for row in rows(tmp_path / way / "samples.jsonl")] == named
        learned = load_file(tmp_path / way / "model" / "model.safetensors")
        assert max(float(np.abs(learned[name] - value).max()) for name, value in weights.items()) <= 1e-5
    # tried in fp32 too before the model is in slices, whose numbers are bf16
    assert rows(tmp_path / "half" / "metrics.jsonl")[0]["loss"] == pytest.approx(alone[0]["loss"], rel=2e-2)


def test_what_ranks_have_of_packed_steps(table: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(mapping(table, tmp_path / "run", micro_batch=2))
    prepared = prepare(recipe, Notices())
    whole, *ranks = [course_of(recipe, prepared, world) for world in (World(), World(0, 2), World(1, 2))]
    lengths, positions, unlike = prepared.splits["train"].lengths, 0, 0
    every = [list(course.windows(0, 4, Workers())) for course in (whole, *ranks)]
    for window, *shares in zip(*every, strict=True):
        step = agreed([facts_of(share) for share in shares])
        assert sorted(step.ids) == sorted(name for batch in window for name in batch.ids)
        assert step.tokens == step.positions == sum(batch.tokens for batch in window)
        few, many = sorted(sum(batch.tokens for batch in share) for share in shares)
        assert many - few <= lengths.max()
        assert all(len(batch.segments) == len(batch.ids) <= 2 for share in shares for batch in share)
        unlike += facts_of(shares[0])["kinds"] != facts_of(shares[1])["kinds"]
        positions += step.positions
    assert whole.counts(4) == ranks[1].counts(4) and whole.counts(4)["positions"] == positions
    assert unlike  # so that one process fills up with what it has less of than the other
    for kind in ("", "pictures", None):
        spare = ranks[0].spare(kind)
        assert spare.segments == (spare.tokens,) and kind in (None, kind_of(spare.inputs))
    assert [len(batch.ids) for batch in ranks[1].first()] == [len(batch.ids) for batch in whole.first()]

    tight = parse_recipe(mapping(table, tmp_path / "run", batch_tokens=int(lengths.max())))
    second = course_of(tight, prepared, World(1, 2))
    assert () in list(
        second.windows(0, second.steps_in(1), Workers())
    )  # a step of one sample is the first one's


def test_padded_rows_of_ranks_are_counted() -> None:
    sizes = np.array([[9, 0], [2, 0], [8, 0], [3, 0], [1, 0]])
    assert Layout(8).positions(sizes) == 45
    assert Layout(8).positions(sizes, 2) == 3 * 9 + 2 * 3
    packed = Layout(8, packed=True)
    assert packed.positions(sizes, 2) == packed.positions(sizes) == 23
    dealt = [packed.share(sizes[:, 0], Share(rank, 2)).tolist() for rank in range(2)]
    assert dealt == [[0, 3, 4], [2, 1]]
    assert packed.share(sizes[:, 0], Share()).tolist() == [0, 1, 2, 3, 4]


def example(name: str, *inputs: str) -> Example:
    extras = {key: Extra(np.zeros((1, 1))) for key in inputs}
    return Example(name, np.array([1, 2]), np.array([2, -100]), extras)


def test_pictures_and_sounds_are_kinds_of_their_own() -> None:
    """A process that computes an ear gathers other layers than one that computes an eye."""
    made = [
        example("words"),
        example("seen", "pixel_values"),
        example("heard", "input_features", "input_features_mask"),
    ]
    words = [SimpleNamespace(images=name == "seen", sounds=name == "heard") for name in ("", "seen", "heard")]
    examples: Any = SimpleNamespace(
        samples=SimpleNamespace(words=words.__getitem__, origin=lambda at: SimpleNamespace(file="a.csv")),
        ports=SimpleNamespace(sound=object(), pad_id=0),
        plain=made.__getitem__,
    )
    examples = type("Examples", (), {**vars(examples), "__len__": lambda self: len(made)})()
    unknown: Any = None
    course = ByNumber(examples, unknown, Layout(4, packed=True), unknown)
    found = {kind: course.spare(kind) for kind in ("", "pictures", "sounds", "pictures+sounds")}
    assert all(kind_of(batch.inputs) == kind for kind, batch in found.items())
    assert found["pictures+sounds"].ids == ("seen", "heard") and course.spare(None).ids == ("words",)
    step: Agreed = agreed([facts_of([found["pictures"], found[""]]), facts_of([found["sounds"]])])
    assert step.most == {"": 1, "pictures": 1, "sounds": 1}

    made.pop()
    with pytest.raises(DataError, match="needs a row with sounds to keep step with the others"):
        course.spare("sounds")
