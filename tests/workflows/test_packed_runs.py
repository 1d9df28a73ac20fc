"""Packing from the command line: what does not go together or does not fit is told before step 1."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tiny_mapping, write_pictures

from finesight.cli.main import run
from finesight.config.load import parse_recipe
from finesight.config.yaml import write
from finesight.core.errors import DataError, RecipeError
from finesight.data.loading.workers import Workers
from finesight.models import packing
from finesight.runtime.notices import Notices
from finesight.workflows.dry_run import try_one_batch
from finesight.workflows.prepare import course_of, prepare


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("packed") / "table.csv", 12)


def mapping(table: Path, folder: Path, **train: Any) -> dict[str, Any]:
    found = tiny_mapping(table, folder, train={"max_steps": 2, **train})
    found["evaluation"] = {"every": 2, "max_samples": 0, "metrics": ["exact_match"]}
    return found


@pytest.mark.parametrize(
    ("train", "told"),
    [
        (
            {"batch_tokens": 99},
            "exactly one of `batch_size` and `batch_tokens` says how much a step sees; both is there",
        ),
        (
            {"batch_size": None},
            "exactly one of `batch_size` and `batch_tokens` says how much a step sees; neither is",
        ),
        ({"batch_tokens": 99, "batch_size": None, "micro_tokens": 100}, "`micro_tokens: 100` is larger than"),
        ({"packing": 1}, "train.packing"),
        ({"micro_tokens": 0}, "train.micro_tokens"),
    ],
)
def test_recipes_that_do_not_go_together(
    table: Path, tmp_path: Path, train: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(mapping(table, tmp_path, **train))
    assert told in str(caught.value)


def test_tokens_take_the_place_of_samples(table: Path, tmp_path: Path) -> None:
    found = mapping(table, tmp_path, batch_tokens=500)
    del found["train"]["batch_size"]
    recipe = parse_recipe(found)
    assert recipe.train.batch_size is None
    assert parse_recipe(recipe.model_dump(mode="json", exclude_none=True)) == recipe
    del found["train"]["batch_tokens"]
    assert parse_recipe(found).train.batch_size == 32


def test_a_stream_has_no_lengths(table: Path, tmp_path: Path) -> None:
    found = mapping(table, tmp_path, batch_tokens=500, batch_size=None)
    found["data"]["train"] = {"source": "json", "path": "rows.jsonl", "stream": True, "buffer": 8}
    found["data"]["val"] = None
    with pytest.raises(RecipeError, match=r"`train\.batch_tokens` puts samples together by length"):
        parse_recipe(found)


@pytest.mark.parametrize("key", ["batch_tokens", "micro_tokens"])
def test_samples_that_are_too_long_are_named(table: Path, tmp_path: Path, key: str) -> None:
    train: dict[str, Any] = {key: 60, "packing": True, "micro_batch": "auto"}
    recipe = parse_recipe(mapping(table, tmp_path, **train, batch_size=None if key == "batch_tokens" else 4))
    prepared = prepare(recipe, Notices())
    with pytest.raises(DataError) as caught:
        course_of(recipe, prepared)
    lengths = prepared.splits["train"].lengths
    fault = caught.value.faults[0]
    assert fault.where == f"train.{key}"
    assert (
        f"{int((lengths > 60).sum())} samples have more than the 60 tokens of `train.{key}`: `table-"
        in fault.what
    )
    assert f"of {table}, row " in fault.what and f"raise it to {lengths.max()}" in fault.mend


def pairs(folder: Path, **train: Any) -> dict[str, Any]:
    """A recipe for a new T5 over texts of unlike lengths."""
    file = folder / "pairs.jsonl"
    lines = [
        json.dumps({"q": "how many? " + "one " * (n % 7), "a": "so " * (n % 5) + f"{n}"}) for n in range(40)
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = mapping(file, folder / "run", micro_batch="auto", **train)
    shape = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    found["model"] = {"fresh": {"config": {"model_type": "t5", **shape}, "vocabulary": 300, "context": 64}}
    columns = {"question": "q", "answer": "a"}
    found["data"] = {"train": {"source": "pairs", "path": str(file), "columns": columns}}
    found["evaluation"] = {"best_by": "last"}
    return found


def test_what_cannot_pack_is_refused_before_anything_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(write(pairs(tmp_path, packing=True)), encoding="utf-8")
    assert run(["train", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert "samples cannot be packed for a `t5`: it reads through an encoder" in said
    assert "`train.packing: false`" in said and "Traceback" not in said
    assert not (tmp_path / "run" / "checkpoints" / "last").exists()


def test_an_encoder_decoder_has_steps_of_so_many_tokens(tmp_path: Path) -> None:
    recipe = parse_recipe(pairs(tmp_path, batch_tokens=150, batch_size=None))
    course = course_of(recipe, prepare(recipe, Notices()))
    assert course.steps_per_epoch is not None
    with closing(course.windows(0, course.steps_per_epoch, Workers())) as windows:
        batches = [batch for window in windows for batch in window]
    assert sorted(name for batch in batches for name in batch.ids) == sorted(
        f"pairs-{n + 1}" for n in range(40)
    )
    assert all(batch.positions <= 150 for batch in batches)
    counts = course.counts(course.steps_per_epoch)
    assert counts["positions"] == sum(batch.positions for batch in batches)
    assert counts["tokens"] == sum(batch.tokens for batch in batches) > 0.8 * counts["positions"]


def test_a_dry_run_tries_it_too(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = try_one_batch(parse_recipe(mapping(table, tmp_path, packing=True, micro_batch="auto")))
    (notice,) = [row for row in told["notices"] if row["kind"] == "packing"]
    assert "segment by segment" in notice["text"] and "4 samples packed and alone" in notice["text"]
    monkeypatch.setattr(packing.SegmentMasks, "of", None)
    for interface in (packing.AttentionInterface, packing.AttentionMaskInterface):
        monkeypatch.setattr(interface, "register", lambda *_: None)
    monkeypatch.setattr(packing, "NAME", "sdpa")  # an attention that never sees the boundaries
    with pytest.raises(packing.ModelError, match="a sample's loss differs by"):
        try_one_batch(parse_recipe(mapping(table, tmp_path, packing=True)))
