"""The commands as Python functions; reached as `finesight.train` and so on."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from finesight.config.load import inspected_stage, load_recipe, parse_recipe
from finesight.config.loading import Numbers, load_of
from finesight.config.recipe import Recipe
from finesight.config.sources import Source
from finesight.core.events import Observer
from finesight.data.policy import Policy
from finesight.data.sets import SampleSet, read_splits
from finesight.models.load import LoadedModel, Reading
from finesight.runtime.notices import Notices
from finesight.workflows.convert import convert as _convert
from finesight.workflows.converted import recipe_or_source, source_of
from finesight.workflows.evaluate import evaluate as _evaluate
from finesight.workflows.export import export as _export
from finesight.workflows.generate import generate as _generate
from finesight.workflows.inspect import inspect as _inspect
from finesight.workflows.places import find_model
from finesight.workflows.train import train as _train

RecipeLike = str | os.PathLike[str] | Mapping[str, Any] | Recipe
"""A recipe's name, its file, its content as a mapping, or a checked one."""


def train(
    recipe: RecipeLike,
    *,
    resume: bool = False,
    force: bool = False,
    dry_run: bool = False,
    observer: Observer | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train as a recipe says, evaluate and write a report, as `finesight train` does.

    `overrides` change the recipe: `train={"lr": 1e-4}` or `**{"train.lr": 1e-4}`; None takes a key out. Returns what
    the command prints with `--json`: `run`, `status`, `scores`, `report`, `next` and more. `force` resumes a run over
    changes of its recipe, data or base, which are named and recorded. Raises a FinesightError
    for what can be mended, RecipeError with every fault of the recipe, and Interrupted after saving.
    """
    checked = _checked(recipe, overrides)
    return _train(checked, resume=resume, force=force, dry_run=dry_run, observer=observer)


def inspect(
    recipe: RecipeLike,
    *,
    samples: Sequence[int] = (),
    ids: Sequence[str] = (),
    split: str | None = None,
    stage: str | None = None,
    show: int = 3,
    rows: int | None = None,
    jobs: int | None = None,
    out: str | os.PathLike[str] | None = None,
    pictures: int = 200,
    tensors: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """See what the model will see, and every row that is wrong, as `finesight inspect` does.

    All rows are read, or `rows` of each source; `samples` (numbers from 1) or `ids` of `split` are shown, else `show`
    at random; of a recipe with stages the data of `stage`, if named. Returns what the command prints with `--json`:
    what `summary.json` holds, such as `rows`, `samples`, `faults` and `stops` (whether training would stop), and
    `shown` and `files`. Raises a FinesightError where the recipe, its sources or its model cannot be opened, and never
    for a faulty row.
    """
    places = [None if place is None else Path(place) for place in (out, tensors)]
    found = _inspect(
        inspected_stage(_checked(recipe, overrides), stage),
        samples=samples,
        ids=ids,
        split=split,
        show=show,
        rows=rows,
        jobs=jobs,
        out=places[0],
        pictures=pictures,
        tensors=places[1],
        observer=observer,
    )
    return found.document()


def convert(
    data: RecipeLike | Source,
    out: str | os.PathLike[str],
    *,
    to: Literal["tar", "parquet"] = "tar",
    split: Literal["train", "val", "test"] = "train",
    shard_bytes: int | None = None,
    shard_rows: int | None = None,
    jobs: int | None = None,
    on_bad_row: Literal["stop", "skip"] | None = None,
    observer: Observer | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Write any data as checked shards, as `finesight convert` does.

    `data` is a recipe, a file, folder or pattern, or a source as a recipe has it (`{"source": "csv", "path": …}`);
    `overrides` change the recipe or the source. Shards have about `shard_bytes` bytes (512 MiB), or the rows of
    `shard_rows` rows of the source. Returns what the command prints with `--json`; raises a FinesightError for what can
    be mended, and Interrupted where it was stopped: the same call then goes on.
    """
    words = list(_words(overrides))
    given: Recipe | Source
    if isinstance(data, str | os.PathLike):
        given = recipe_or_source(os.fspath(data), words)
    elif isinstance(data, Mapping) and "source" in data:
        given = source_of(data, words)
    elif isinstance(data, Recipe | Mapping):
        given = _checked(data, overrides)
    else:
        given = source_of(data.model_dump(mode="json", exclude_none=True), words)
    return _convert(
        given,
        Path(out),
        to=to,
        split=split,
        shard_bytes=shard_bytes,
        shard_rows=shard_rows,
        jobs=jobs,
        on_bad_row=on_bad_row,
        observer=observer,
    )


def evaluate(
    model_or_run: str | os.PathLike[str],
    *,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    quantize: Numbers | None = None,
    spread: bool = False,
    max_memory: Mapping[str, str] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Answer the samples of a split and score the answers, as `finesight evaluate` does.

    `quantize`, `spread` and `max_memory` say how the model is held, as the recipe's `model.load` does. Returns what the
    command prints with `--json`; raises a FinesightError for what can be mended.
    """
    place = None if out is None else Path(out)
    words = [*_words(overrides), *load_of(quantize, spread, max_memory or {}).words]
    return _evaluate(
        os.fspath(model_or_run), split=split, overrides=words, metrics=metrics, out=place, observer=observer
    )


def generate(
    model_or_run: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    question: str | None = None,
    *,
    audio: str | os.PathLike[str] | None = None,
    speech_model: str | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    quantize: Numbers | None = None,
    spread: bool = False,
    max_memory: Mapping[str, str] | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Answer a question about pictures, as `finesight generate` does.

    What is said in `audio` is the question, or stands before it; it is transcribed as the run's `data.speech` says, or
    by `speech_model`. `quantize`, `spread` and `max_memory` say how the model is held, `settings` are keys of the
    recipe's `generation` section, such as `num_beams=4`. Returns a mapping with `image`, `prompt`, `answer` (and
    `heard`) for each picture; raises a FinesightError for what can be mended.
    """
    several = [images] if isinstance(images, str | os.PathLike) else images
    return _generate(
        os.fspath(model_or_run),
        [Path(image) for image in several],
        question,
        audio=None if audio is None else Path(audio),
        speech_model=speech_model,
        device=device,
        load=load_of(quantize, spread, max_memory or {}),
        **settings,
    )


def export_model(
    model_or_run: str | os.PathLike[str], out: str | os.PathLike[str], *, merge: bool = False
) -> dict[str, Any]:
    """Write a model, or with `merge` an adapter merged into its base, as a plain folder, as `finesight export` does.

    Returns what the command prints with `--json`: `out`, `kind`, `merged`, and of a merge its `proof` (largest
    difference of logits, equal answers) and the `drift` from a quantised base. Raises a FinesightError where a merge
    cannot be proved or `out` is there already.
    """
    return _export(os.fspath(model_or_run), Path(out), merge=merge)


def load_model(
    model_or_run: str | os.PathLike[str],
    *,
    quantize: Numbers | None = None,
    spread: bool = False,
    max_memory: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> LoadedModel:
    """The model of a run, checkpoint, folder or hub id with its processor and ports.

    `quantize` (`nf4`, `int8`, `none`) says in which numbers its matrices are held; `spread` lays its layers over all
    devices and the disk, with no more than `max_memory` on each (`{"gpu0": "20GB", "cpu": "30GB"}`). `revision` is that
    of a hub id. Raises ModelError or RunError where it cannot be loaded, RecipeError where values do not go together.
    """
    load = load_of(quantize, spread, max_memory or {})
    return find_model(os.fspath(model_or_run), Reading(revision=revision, load=load)).loaded


def load_data(recipe: RecipeLike, **overrides: Any) -> dict[str, SampleSet]:
    """The checked samples of a recipe by split (`train`, and `val` and `test` where it has them).

    A split has a length and an index: `splits["train"][0]` is its first sample, read from its file when asked for, and
    `splits["train"].words(0)` the same without its pictures. Raises RecipeError or DataError; `overrides` as `train`.
    """
    checked = _checked(recipe, overrides)
    return read_splits(checked.data, checked.run.seed, Policy(checked.data), Notices())


def _checked(recipe: RecipeLike, overrides: Mapping[str, Any]) -> Recipe:
    words = list(_words(overrides))
    if isinstance(recipe, Recipe):
        return parse_recipe(recipe.model_dump(mode="json", exclude_none=True), overrides=words)
    if isinstance(recipe, Mapping):
        return parse_recipe(recipe, overrides=words)
    return load_recipe(recipe, words)


def _words(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The overrides as `section.key=value` words."""
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _words(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={_flow(value)}"


def _flow(value: Any) -> str:
    """A value as JSON, which means the same in YAML once the characters that only YAML minds are escaped."""
    text = json.dumps(value, ensure_ascii=False, default=os.fspath)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)
