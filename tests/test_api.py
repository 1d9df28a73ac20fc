"""The commands as Python functions."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import finesight as fs
from finesight import api
from finesight.config.load import load_recipe, recipe_text
from finesight.config.yaml import read_document
from finesight.core.errors import RecipeError


def test_importing_finesight_is_light() -> None:
    code = "import finesight, sys; print(sum(m.startswith('finesight') for m in sys.modules), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_public_names_are_there_and_others_are_not() -> None:
    assert set(fs.__all__) <= set(dir(fs))
    for name in fs.__all__:
        assert getattr(fs, name) is getattr(api, name)
        assert getattr(fs, name).__doc__
    with pytest.raises(AttributeError, match="nonsense"):
        fs.nonsense  # noqa: B018


def test_train_takes_a_recipe_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(api, "_train", lambda recipe, **options: seen.append(recipe) or options)
    mapping = read_document(recipe_text("quickstart").encode(), "q").value
    changes = {"train.lr": 1e-05, "data.val": None, "log.samples": True}
    for recipe in ("quickstart", mapping, load_recipe("quickstart")):
        assert fs.train(recipe, resume=True, **{**changes, "run": {"name": "no", "dir": Path("x")}}) == {
            "resume": True,
            "force": False,
            "dry_run": False,
            "observer": None,
        }
    assert seen[0] == seen[1] == seen[2]
    assert (seen[0].train.lr, seen[0].run.name, seen[0].run.dir, seen[0].data.val) == (1e-5, "no", "x", None)
    assert fs.train("quickstart", description="a: 😀 \u2028") is not None
    assert seen[-1].description == "a: 😀 \u2028"
    with pytest.raises(RecipeError, match="did you mean `epochs`"):
        fs.train("quickstart", train={"epoch": 3})


def test_load_data_gives_the_splits() -> None:
    splits = fs.load_data("quickstart", **{"data.train.max_samples": 5, "data.test": None})
    assert set(splits) == {"train", "val"}
    assert len(splits["train"]) == 5


def test_inspect_returns_what_the_command_prints(tmp_path: Path) -> None:
    overrides = {"data.train.max_samples": 6, "data.val": None, "data.test": None}
    found = fs.inspect(
        "quickstart", show=1, jobs=0, out=tmp_path, tensors=tmp_path / "fed.parquet", **overrides
    )
    assert (found["rows"], found["faults"], found["stops"]) == (6, 0, False)
    assert len(found["shown"]) == 1
    assert set(found["files"]) == {"samples", "faults", "twice", "summary", "tensors"}
