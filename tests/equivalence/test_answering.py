"""Evaluation scores each sample once, alike in any batch size, and answers as `transformers` does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_mapping, write_pictures

from finesight.config.data import Data
from finesight.config.load import parse_recipe
from finesight.config.train import Generation
from finesight.data.dataset import ExampleSet, prepare_pictures
from finesight.data.loading.loader import in_order
from finesight.data.policy import Policy
from finesight.data.sets import read_samples
from finesight.evaluation.score import score
from finesight.generation.predict import predict
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.models.load import load_model
from finesight.runtime.notices import Notices
from finesight.training.precision import Precision
from finesight.training.step import mean_loss

SETTINGS = Generation(max_new_tokens=8)


@pytest.fixture(scope="module")
def evaluated(overfit_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ExampleSet]:
    """A model that has learned something, and 101 samples."""
    folder = tmp_path_factory.mktemp("hundred")
    recipe = parse_recipe(tiny_mapping(write_pictures(folder / "many.csv", 101), folder / "run"))
    loaded = load_model(str(overfit_run / "model"))
    data: Data = recipe.data
    samples = read_samples(data.train, Policy(data), Notices(), "train")
    return loaded.model, ExampleSet(samples, loaded.ports, Policy(data))


@pytest.mark.proof
def test_batch_size_changes_no_score(evaluated: tuple[Any, ExampleSet]) -> None:
    model, examples = evaluated
    model.train()
    model.model.vision_tower.eval()
    modes = [part.training for part in model.modules()]
    found, losses = {}, {}
    for size in (4, 7):
        seen: list[int] = []
        predictions = predict(model, examples, SETTINGS, size, tick=seen.append)
        assert [row.id for row in predictions] == list(examples.samples.ids), (
            "each once, in the order of the data"
        )
        assert len(predictions) == 101 == seen[-1]
        assert [part.training for part in model.modules()] == modes
        assert torch.is_grad_enabled()
        found[size] = score(
            predictions, ("exact_match", "token_f1", "bleu", "cider", "rouge_l"), "test", seed=0
        )
        forward = SupervisedForward(model, examples.ports.image)
        losses[size] = mean_loss(
            model, forward, in_order(examples, size), Precision("fp32", "cpu"), torch.device("cpu")
        )
        assert [part.training for part in model.modules()] == modes
    assert [row.name for row in found[4]] == [row.name for row in found[7]]
    for one, other in zip(found[4], found[7], strict=True):
        assert (one.value, one.low, one.high, one.count) == pytest.approx(
            (other.value, other.low, other.high, other.count), abs=1e-9
        )
    assert losses[4] == pytest.approx(losses[7], rel=1e-6)
    model.eval()


def test_greedy_answers_are_those_of_transformers_one_by_one(evaluated: tuple[Any, ExampleSet]) -> None:
    model, examples = evaluated
    model.eval()
    predictions = predict(model, examples, SETTINGS, 16, limit=30)
    assert len(predictions) == 30
    for index, row in enumerate(predictions):
        prompt = torch.from_numpy(examples.prompt(index))[None].long()
        levels = torch.from_numpy(prepare_pictures(examples.samples[index], examples.ports)[0])[None]
        pixels = float_pictures({"pixel_values": levels}, examples.ports.image)["pixel_values"]
        with torch.no_grad():
            produced = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=pixels,
                max_new_tokens=8, do_sample=False,
            )  # fmt: skip
        text = examples.ports.tokenizer.decode(produced[0, prompt.shape[1] :], skip_special_tokens=True)
        assert row.prediction == text.strip()
        assert row.references == examples.samples[index].references
    assert len({row.prediction for row in predictions}) > 3


def test_pixels_are_those_of_the_processor(evaluated: tuple[Any, ExampleSet], overfit_run: Path) -> None:
    import io

    from PIL import Image

    _, examples = evaluated
    processor = load_model(str(overfit_run / "model")).processor
    for index in range(5):
        sample = examples.samples[index]
        theirs = processor.image_processor(Image.open(io.BytesIO(sample.images[0].data)), return_tensors="pt")
        levels = torch.from_numpy(prepare_pictures(sample, examples.ports)[0])[None]
        ours = float_pictures({"pixel_values": levels}, examples.ports.image)["pixel_values"]
        assert float((ours - theirs["pixel_values"]).abs().max()) <= 1e-6
