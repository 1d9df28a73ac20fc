"""Answers, scores, baselines and the report's pictures of one split; used by training and by evaluation alike."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finesight.config.recipe import Recipe
from finesight.core.errors import DataError
from finesight.core.events import Observer
from finesight.core.ports import ImagePort, Ports
from finesight.core.prediction import Comparison, Prediction, Score
from finesight.core.rundir import RunDirectory
from finesight.core.sample import Sample
from finesight.data.dataset import ExampleSet, load_pictures, prepare_pictures
from finesight.data.loading.loader import tell
from finesight.data.pictures.load import load_picture, resize
from finesight.data.policy import Policy
from finesight.data.sets import SampleSet
from finesight.evaluation.baselines import majority, nearest_picture
from finesight.evaluation.compare import compare
from finesight.evaluation.normalise import squad_normalise
from finesight.evaluation.score import score
from finesight.evaluation.table import dump
from finesight.generation.predict import predict
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.files import write_bytes, write_json, write_text

_log = logging.getLogger("finesight")

_THUMBNAIL = 192
"""Pixels of the longer side of a picture in the report."""

_BASELINE_METRICS = ("exact_match", "token_f1")
_COMPARED = 64
"""Pixels a side of pictures that are compared, of a model that takes any size."""
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
    policy: Policy | None = None,
    world: World = ALONE,
) -> list[Prediction]:
    """Answer every sample of a split and write `predictions/<split>.jsonl` below `folder`.

    Several processes share the samples; the first of them gets the answers and writes, the others get none.

    `go_on` is called between batches and may raise to stop. A sample that turns out to be bad has no answer where
    `policy`, which is told of it, does not raise.
    """
    if observer is not None:
        observer.on_phase(f"answer {split}", len(examples))

    def tick(done: int) -> None:
        go_on()
        if observer is not None:
            observer.on_progress(done)

    size = recipe.evaluation.batch_size
    predictions = predict(model, examples, recipe.generation, size, tick=tick, policy=policy, world=world)
    if not world.first:
        return []
    if not predictions:
        where = str(examples.samples.origin(0))
        raise DataError(
            f"no sample of `{split}` can be used any more", where, "put the data back as they were"
        )
    write_text(RunDirectory(folder).predictions(split), dump(predictions))
    return predictions


def answered(examples: ExampleSet, predictions: Sequence[Prediction]) -> SampleSet:
    """The samples that have a prediction, in its order."""
    if len(predictions) == len(examples):
        return examples.samples
    names = {item.id for item in predictions}
    return examples.samples.take([index for index, name in enumerate(examples.samples.ids) if name in names])


def score_split(
    predictions: Sequence[Prediction],
    recipe: Recipe,
    split: str,
    samples: SampleSet,
    train: ExampleSet | None,
    policy: Policy | None = None,
) -> tuple[list[Score], list[Comparison]]:
    """Scores with intervals by slice, and the paired differences to the baselines where the recipe asks for them.

    `samples` are those of the predictions; `policy` is told of training samples that turn out to be bad.
    """
    seed, resamples = recipe.run.seed, recipe.evaluation.resamples
    scores = score(predictions, recipe.evaluation.metrics, split, seed=seed, resamples=resamples)
    comparisons: list[Comparison] = []
    if recipe.evaluation.baselines and train is not None:
        metrics = [name for name in recipe.evaluation.metrics if name in _BASELINE_METRICS]
        for name, guesses in _baselines(predictions, samples, train, policy).items():
            comparisons += compare(predictions, guesses, metrics, split, name, seed=seed, resamples=resamples)
    return scores, comparisons


def _baselines(
    predictions: Sequence[Prediction], samples: SampleSet, train: ExampleSet, policy: Policy | None
) -> dict[str, list[Prediction]]:
    """Answers that need no learning: the most common one, and that of the training picture that looks most alike."""
    if len(train) > _MOST_NEIGHBOURS:
        _log.info("baselines: of the first %s training samples", f"{_MOST_NEIGHBOURS:,}")
    known = list(_shown(train.samples, min(len(train), _MOST_NEIGHBOURS), train, policy))
    answers = [sample.references[0] for sample, _ in known]
    guesses = {"majority": majority([sample.prompt for sample, _ in known], answers, predictions)}
    asked = list(_shown(samples, len(samples), train, None))
    if known and all(len(pictures) == 1 for _, pictures in [*known, *asked]):
        pixels = [np.stack([pictures[0] for _, pictures in part]) for part in (known, asked)]
        guesses["nearest picture"] = nearest_picture(pixels[0], answers, pixels[1], predictions)
    return guesses


def _shown(
    samples: SampleSet, count: int, train: ExampleSet, policy: Policy | None
) -> Iterator[tuple[Sample, tuple[np.ndarray, ...]]]:
    """The words of the first `count` samples with their pictures as the model gets them, without those that are bad."""
    for index in range(count):
        try:
            sample = samples[index]
            pictures = _compared(sample, train.ports)
        except DataError as error:
            tell(policy, samples, index, error)
        else:
            yield samples.words(index), pictures


def _compared(sample: Sample, ports: Ports) -> tuple[np.ndarray, ...]:
    """Pictures of a sample, all of one size: as the model gets them where it squashes them."""
    if isinstance(ports.image, ImagePort):
        return prepare_pictures(sample, ports)
    return tuple(resize(picture, _COMPARED, _COMPARED, "bicubic") for picture in load_pictures(sample))


def keep_pictures(
    run: RunDirectory, split: str, predictions: Sequence[Prediction], samples: SampleSet, limit: int
) -> None:
    """Save the few pictures that the report shows: right and wrong answers by turns, spread over the split.

    `samples` are those of the predictions.
    """
    shown = [index for index in range(len(predictions)) if samples.words(index).images]
    right = [index for index in shown if _is_right(predictions[index])]
    wrong = [index for index in shown if not _is_right(predictions[index])]
    half = limit // 2
    few_wrong = _spread(wrong, max(half, limit - len(right)))
    chosen = [*_spread(right, limit - len(few_wrong)), *few_wrong]
    names = {}
    for number, index in enumerate(sorted(chosen)):
        picture = load_picture(samples[index].images[0].data, where=predictions[index].origin).image
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
