"""Models of the jobs learn real pairs to a rising score; with more counts, on what they never saw."""

import json
from pathlib import Path
from typing import Any

import pytest

import finesight as fs

pytestmark = pytest.mark.usefixtures("no_report")


def scores(run: Path, name: str) -> list[float]:
    """A score at each evaluation, in order."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["value"] for row in rows if row.get("name") == name and row.get("split") == "val"]


def test_a_t5_learns_how_words_are_spoken(tmp_path: Path, proof_factor: int) -> None:
    """Words that it never saw: from near nothing to many of their sounds."""
    few: dict[str, Any] = {f"data.{split}.max_samples": 40 for split in ("val", "test")}
    steps = 60 if proof_factor == 1 else 300
    fs.train(
        "pairs-t5",
        **few,
        **{
            "train.max_steps": steps,
            "train.batch_size": 32,
            "train.lr": 5e-3,
            "evaluation.every": steps // 3,
        },
        **{"model.fresh.config.d_model": 96, "generation.max_new_tokens": 24, "run.threads": 1},
        **{"evaluation.best_by": "token_f1", "run.dir": str(tmp_path / "run")},
    )
    first, *_, last = scores(tmp_path / "run", "token_f1")
    assert last > max(0.3, first + 0.1), (first, last)


def test_a_blip_learns_what_drawings_show(tmp_path: Path, proof_factor: int) -> None:
    """In few steps the drawings that it learns from; in more, the same things by an artist that it never saw."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    if proof_factor > 1:
        settings: dict[str, Any] = {"train.max_steps": 400, "evaluation.every": 100}
    else:
        rows = {
            "source": "json", "path": "shipped:things/rows.json", "max_samples": 40,
            "columns": {"image": "image", "answer": "kind"}, "prompt": "a picture of",
        }  # fmt: skip
        settings = {
            "data.train": rows, "data.val": {**rows, "split": None, "group": None},
            "data.test": None, "data.transforms": None, "data.workers": 0, "model.fresh.vocabulary": 300,
            "model.fresh.config.text_config": {**sizes, "max_position_embeddings": 64},
            "model.fresh.config.vision_config": {**sizes, "image_size": 32, "patch_size": 8},
            "train.max_steps": 90, "train.batch_size": 20, "train.lr": 2e-3, "evaluation.every": 30,
        }  # fmt: skip
    fs.train("caption-blip", **{**settings, "run.threads": 1, "run.dir": str(tmp_path / "run")})
    first, *_, last = scores(tmp_path / "run", "cider")
    assert last > 1.5 * first + 0.01, (first, last)
    if proof_factor == 1:
        assert scores(tmp_path / "run", "exact_match")[-1] > 0.35
