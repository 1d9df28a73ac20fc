"""Answer a question about pictures from the shell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from finesight.config.recipe import Recipe
from finesight.config.train import Generation
from finesight.core.errors import DataError
from finesight.core.sample import Image, Message, Origin, Sample, Text
from finesight.data.samples import DEFAULT_PROMPT
from finesight.generation.predict import answer_all
from finesight.models.decoding import decoding
from finesight.runtime.device import choose_device
from finesight.runtime.notices import Notices
from finesight.workflows.places import find_model

_TOGETHER = 16
"""Pictures that are answered together."""


def generate(
    model_or_run: str,
    images: Sequence[Path],
    question: str | None,
    *,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    **settings: Any,
) -> list[dict[str, Any]]:
    """Answers of a model to one question about each picture: a list of {`image`, `prompt`, `answer`}.

    Without a question the run's own prompt is asked. `settings` are keys of the recipe's `generation` section. Raises
    DataError for a file that is no picture, naming it; ModelError or RunError where the model cannot be loaded.
    """
    samples = [_sample(path, question) for path in images]
    found = find_model(model_or_run)
    if question is None:
        asked = _own_prompt(found.recipe)
        samples = [_sample(path, asked) for path in images]
    model, ports = found.loaded.model, found.loaded.ports
    model.to(choose_device(device, Notices())).eval()
    base = found.recipe.generation if found.recipe else Generation()
    config = decoding(Generation(**{**base.model_dump(), **settings}), ports)
    answers: list[str] = []
    for at in range(0, len(samples), _TOGETHER):
        part = samples[at : at + _TOGETHER]
        answers += answer_all(model, ports, part, config)
    return [
        {"image": str(path), "prompt": sample.prompt, "answer": text}
        for path, sample, text in zip(images, samples, answers, strict=True)
    ]


def _own_prompt(recipe: Recipe | None) -> str:
    """The fixed prompt of the recipe's training data, if it has one."""
    if recipe is None:
        return DEFAULT_PROMPT
    sources = recipe.data.train if isinstance(recipe.data.train, tuple) else (recipe.data.train,)
    return sources[0].prompt or DEFAULT_PROMPT


def _sample(path: Path, question: str | None) -> Sample:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the picture cannot be read: {error.strerror}", str(path), "correct the path"
        ) from error
    turn = Message("user", (Image(data), Text(question or DEFAULT_PROMPT)))
    return Sample(path.name, (turn,), (), Origin(str(path), 0))
