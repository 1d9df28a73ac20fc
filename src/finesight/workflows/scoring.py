"""Answers, scores, baselines and the report's pictures of one split; used by training and by evaluation alike."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finesight.config.recipe import Recipe
from finesight.core.events import Observer
from finesight.core.prediction import Comparison, Prediction, Score
from finesight.core.rundir import RunDirectory
from finesight.data.dataset import ExampleSet, prepare_pictures
from finesight.data.media import load_picture
from finesight.evaluation.baselines import majority, nearest_picture
from finesight.evaluation.compare import compare
from finesight.evaluation.normalise import squad_normalise
from finesight.evaluation.score import score
from finesight.evaluation.table import dump
from finesight.generation.predict import predict
from finesight.runtime.files import write_bytes, write_json, write_text

_log = logging.getLogger("finesight")

_THUMBNAIL = 192
"""Pixels of the longer side of a picture in the report."""

_BASELINE_METRICS = ("exact_match", "token_f1")
_MOST_NEIGHBOURS = 20_000
"""Training pictures that the nearest one is looked for among."""


def answer_split(
    model: Any,
    examples: ExampleSet,
    recipe: Recipe,
    split: str,
    folder: Path,
    observer: Observer | None = None,
    go_on: Callable[[], object] = bool,
) -> list[Prediction]:
    """Answer every sample of a split and write `predictions/<split>.jsonl` below `folder`.

    `go_on` is called between batches and may raise to stop.
    """
    if observer is not None:
        observer.on_phase(f"answer {split}", len(examples))

    def tick(done: int) -> None:
        go_on()
        if observer is not None:
            observer.on_progress(done)

    predictions = predict(model, examples, recipe.generation, recipe.evaluation.batch_size, tick=tick)
    write_text(RunDirectory(folder).predictions(split), dump(predictions))
    return predictions


def score_split(
    predictions: Sequence[Prediction],
    recipe: Recipe,
    split: str,
    examples: ExampleSet,
    train: ExampleSet | None,
) -> tuple[list[Score], list[Comparison]]:
    """Scores with intervals by slice, and the paired differences to the baselines where the recipe asks for them."""
    seed, resamples = recipe.run.seed, recipe.evaluation.resamples
    scores = score(predictions, recipe.evaluation.metrics, split, seed=seed, resamples=resamples)
    comparisons: list[Comparison] = []
    if recipe.evaluation.baselines and train is not None:
        metrics = [name for name in recipe.evaluation.metrics if name in _BASELINE_METRICS]
        for name, guesses in _baselines(predictions, examples, train).items():
            comparisons += compare(predictions, guesses, metrics, split, name, seed=seed, resamples=resamples)
    return scores, comparisons


def _baselines(
    predictions: Sequence[Prediction], examples: ExampleSet, train: ExampleSet
) -> dict[str, list[Prediction]]:
    """Answers that need no learning: the most common one, and that of the training picture that looks most alike."""
    if len(train) > _MOST_NEIGHBOURS:
        _log.info("baselines: of the first %s training samples", f"{_MOST_NEIGHBOURS:,}")
    known = [train.samples[index] for index in range(min(len(train), _MOST_NEIGHBOURS))]
    answers = [sample.references[0] for sample in known]
    guesses = {"majority": majority([sample.prompt for sample in known], answers, predictions)}
    asked = [examples.samples[index] for index in range(len(examples))]
    if all(len(sample.images) == 1 for sample in [*known, *asked]):
        pixels = [
            np.stack([prepare_pictures(sample, train.ports)[0] for sample in part]) for part in (known, asked)
        ]
        guesses["nearest picture"] = nearest_picture(pixels[0], answers, pixels[1], predictions)
    return guesses


def keep_pictures(
    run: RunDirectory, split: str, predictions: Sequence[Prediction], examples: ExampleSet, limit: int
) -> None:
    """Save the few pictures that the report shows: right and wrong answers by turns, spread over the split."""
    right = [index for index, item in enumerate(predictions) if _is_right(item)]
    wrong = [index for index, item in enumerate(predictions) if not _is_right(item)]
    half = limit // 2
    few_wrong = _spread(wrong, max(half, limit - len(right)))
    chosen = [*_spread(right, limit - len(few_wrong)), *few_wrong]
    names = {}
    for number, index in enumerate(sorted(chosen)):
        picture = load_picture(examples.samples[index].images[0].data, where=predictions[index].origin).image
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        names[predictions[index].id] = f"{split}/{number:03d}.png"
        write_bytes(run.pictures / names[predictions[index].id], _png(picture))
    write_json(run.pictures / "index.json", {split: names})


def _is_right(item: Prediction) -> bool:
    return squad_normalise(item.prediction) in {squad_normalise(reference) for reference in item.references}


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """`count` of the indices, evenly apart."""
    if count >= len(indices):
        return list(indices)
    return (
        [indices[int(position)] for position in np.linspace(0, len(indices) - 1, count)] if count > 0 else []
    )


def _png(picture: Image.Image) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
