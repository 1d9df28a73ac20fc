"""Losses of a hundred steps of four small recipes, and what must not alter them (T41).

The stored losses change with a stated reason alone: run once with FINESIGHT_GOLDEN=write, and say why in the commit.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from tiny_runs import rows, tiny_mapping, write_pictures

from finesight.cli.main import run

pytestmark = pytest.mark.usefixtures("no_report")

HERE = Path(__file__).parent
STEPS = 100
TOLERANCE = 1e-3
"""Of another processor's rounding; a change of what is learned is far over it."""

PLAIN = ["train.precision=fp32", "run.threads=1", "run.device=cpu", "data.test=null", "data.transforms=null"]
SMALL = ["hidden_size: 32", "intermediate_size: 48", "num_hidden_layers: 1", "num_attention_heads: 2"]
TOWER = f"{{{', '.join([*SMALL, 'image_size: 16', 'patch_size: 8'])}}}"
WORDS = f"{{{', '.join([*SMALL, 'max_position_embeddings: 48'])}}}"
RECIPES: dict[str, tuple[str, list[str]]] = {
    "scratch": ("scratch.yaml", []),
    "adapter": (
        "scratch.yaml",
        ["model.scratch=null", "model.pretrained=BASE", "adapter.rank=4", "train.lr=3e-3"],
    ),
    "captions": (
        "caption-blip",
        [
            f"model.fresh.config={{model_type: blip, vision_config: {TOWER}, text_config: {WORDS}}}",
            "model.fresh.vocabulary=400",
            "data.train.max_samples=60",
            "data.workers=0",
            "train.batch_size=8",
        ],
    ),
    "pairs": (
        "pairs-t5",
        [
            "model.fresh.config={model_type: t5, d_model: 32, d_kv: 8, d_ff: 64, num_layers: 1, num_heads: 4, "
            "dropout_rate: 0.0}",
            "data.train.max_samples=200",
            "data.val.max_samples=8",
            "train.batch_size=8",
            "train.lr=1e-3",
        ],
    ),
}
"""A recipe and its words. The first two are over drawings of two colours; the second adapts what the first learned."""

VARIANTS: dict[str, dict[str, list[str]]] = {
    "scratch": {
        "packed, by two workers": ["train.packing=true", "data.workers=2"],
    },
    "adapter": {
        "computed again, packed": [
            "train.gradient_checkpointing=true",
            "train.packing=true",
            "train.micro_tokens=96",
        ],
    },
    "captions": {"in threes, by a worker": ["train.micro_batch=3", "data.workers=1"]},
    "pairs": {"in few tokens": ["train.micro_tokens=64"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("golden")
    mapping = tiny_mapping(
        write_pictures(place / "rows.csv"), place / "run", train={"lr": 1e-3, "length_window": 0}
    )
    for part in ("vision", "decoder"):
        del mapping["model"]["scratch"][part]["dropout"]
    (place / "scratch.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return place


def losses(folder: Path, name: str, place: Path, words: Sequence[str] = ()) -> list[float]:
    """Losses of a recipe's steps, by the command."""
    recipe, own = RECIPES[name]
    recipe = str(folder / recipe) if recipe.endswith(".yaml") else recipe
    own = [word.replace("BASE", str(folder / "scratch" / "model")) for word in own]
    length = [f"train.max_steps={STEPS}", "train.stop=null", "log.every=1", "train.epochs=null"]
    quick = [
        "evaluation={every: 1000, max_samples: 0, best_by: last}",
        "report.pictures=0",
        f"run.dir={place}",
    ]
    assert run(["train", recipe, *PLAIN, *own, *length, *quick, *words]) == 0
    return logged(place)


def logged(place: Path) -> list[float]:
    return [row["loss"] for row in rows(place / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_as_they_were(name: str, folder: Path) -> None:
    found = losses(folder, name, folder / name)
    stored = HERE / "losses.json"
    known = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    if os.environ.get("FINESIGHT_GOLDEN") == "write":
        stored.write_text(json.dumps({**known, name: found}, indent=1) + "\n", encoding="utf-8")
        known = {name: found}
    assert len(found) == STEPS
    assert found == pytest.approx(known[name], abs=TOLERANCE)
    assert found[-1] < found[0]


@pytest.mark.parametrize(("name", "variant"), [(name, way) for name in VARIANTS for way in VARIANTS[name]])
def test_what_must_not_alter_them_does_not(name: str, variant: str, folder: Path) -> None:
    plain = logged(folder / name)  # of the test before
    found = losses(folder, name, folder / f"{name} {variant}", VARIANTS[name][variant])
    apart = [abs(one - other) for one, other in zip(found, plain, strict=True)]
    assert max(apart) <= 1e-3 and sum(apart) / len(apart) <= 1e-5
