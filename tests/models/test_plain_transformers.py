"""What finesight saves answers the same in plain `transformers`, in a process that has no finesight."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import picture_bytes

from finesight.core.batch import pixel_values
from finesight.data.dataset import prepare_pictures
from finesight.data.encode import encode_prompt
from finesight.data.loading.collate import collate_prompts
from finesight.models.forward import float_pictures
from finesight.models.load import load_model
from finesight.workflows.generate import _sample, generate

QUESTION = "Which colours?"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number, (first, second) in enumerate(
        [("red", "red"), ("green", "white"), ("blue", "black"), ("white", "green")]
    ):
        (folder / f"plain-{number}.png").write_bytes(picture_bytes(first, second, 40))
    levels = np.random.default_rng(0).integers(0, 256, (31, 23, 4), dtype=np.uint8)
    Image.fromarray(levels).save(folder / "transparent.png")
    turned = Image.new("RGB", (40, 20), (250, 210, 40))
    turned.paste((20, 20, 20), (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    turned.save(folder / "turned.jpg", exif=exif, quality=95)
    turned.convert("P").save(folder / "palette.png")
    turned.convert("L").save(folder / "gray.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def plain(
    overfit_run: Path, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    program = [
        sys.executable,
        "-P",
        str(Path(__file__).with_name("plain.py")),
        str(overfit_run / "model"),
        QUESTION,
        "12",
    ]
    if (
        subprocess.run(
            [sys.executable, "-P", "-c", "import finesight"], env=environment, capture_output=True
        ).returncode
        == 0
    ):
        # it is installed here: hide it
        hidden = tmp_path_factory.mktemp("hidden") / "finesight"
        hidden.mkdir()
        (hidden / "__init__.py").write_text("raise ImportError('not here')\n")
        environment["PYTHONPATH"] = str(hidden.parent)
    done = subprocess.run(
        [*program, *map(str, pictures)], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_answers_are_the_same(overfit_run: Path, pictures: list[Path], plain: dict[str, Any]) -> None:
    ours = generate(str(overfit_run), pictures, QUESTION, device="cpu", max_new_tokens=12)
    assert [row["answer"] for row in ours] == plain["answers"]
    assert len(set(plain["answers"])) > 1, "answers that differ from picture to picture show more"


def test_tokens_and_logits_are_the_same(
    overfit_run: Path, pictures: list[Path], plain: dict[str, Any]
) -> None:
    loaded = load_model(str(overfit_run / "model"))
    for path, ids, logits in zip(pictures, plain["ids"], plain["logits"], strict=True):
        sample = _sample(path, path.read_bytes(), None, QUESTION)
        prompt = encode_prompt(sample, loaded.ports)
        assert prompt.tolist() == ids
        inputs = collate_prompts(
            [prompt], [pixel_values(prepare_pictures(sample, loaded.ports))], loaded.ports.pad_id
        )
        with torch.no_grad():
            ours = loaded.model.eval()(**float_pictures(inputs, loaded.ports.image)).logits[0, -1]
        assert float((ours - torch.tensor(logits)).abs().mean()) <= 1e-5, path.name


def test_decoding_settings_are_saved_beside_it(overfit_run: Path) -> None:
    settings = json.loads((overfit_run / "model" / "generation_config.json").read_text())
    assert settings["max_new_tokens"] == 12
    assert settings["eos_token_id"]


def test_no_pickle_and_nothing_half_written(overfit_run: Path) -> None:
    names = {path.name for path in (overfit_run / "model").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "generation_config.json",
    } <= names
    assert not [
        path for path in overfit_run.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".partial")
    ]
