"""Inspect: see what the model will see, and everything that is wrong, before a step is spent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.errors import DataError, RunError
from finesight.core.events import Observer
from finesight.core.ports import Ports
from finesight.core.rundir import RunDirectory
from finesight.core.view import View
from finesight.data.inspection.leaks import Twice, find_twice
from finesight.data.inspection.surveys import Surveyed, Watch, measure, survey_splits
from finesight.data.passes.parallel import cores
from finesight.reports.samples import render
from finesight.runtime.files import write_json, write_table, write_text
from finesight.runtime.notices import Notices
from finesight.workflows import tensors as tables
from finesight.workflows.ports import recipe_ports
from finesight.workflows.selection import (
    Place,
    asked_for,
    examples_of,
    faulty_views,
    for_page,
    limit_of,
    views_of,
)
from finesight.workflows.summary import (
    FAULT_COLUMNS,
    TWICE_COLUMNS,
    fault_rows,
    long_rows,
    summarise,
    twice_rows,
    verdict,
)

PICTURES = 200
"""Pictures that `samples.html` shows unless it is said otherwise."""
SHOWN = 3
"""Samples that are drawn where none is named."""


@dataclass(frozen=True)
class Inspection:
    """What was found.

    `summary` is what `summary.json` holds, `views` the samples that were asked for, `table` what the model is fed of
    them where that was asked for, `files` those that were written, `fault` why training would stop.
    """

    summary: Mapping[str, Any]
    views: Sequence[View]
    table: tables.Fed | None
    files: Mapping[str, str]
    fault: DataError | None

    def document(self) -> dict[str, Any]:
        """All of it but the numbers of the table, as one JSON object."""
        return {**self.summary, "shown": [view.document() for view in self.views], "files": dict(self.files)}


def inspect(
    recipe: Recipe,
    *,
    samples: Sequence[int] = (),
    ids: Sequence[str] = (),
    split: str | None = None,
    show: int = SHOWN,
    rows: int | None = None,
    jobs: int | None = None,
    out: Path | None = None,
    pictures: int = PICTURES,
    tensors: Path | None = None,
    observer: Observer | None = None,
) -> Inspection:
    """Read every row of a recipe's data (or `rows` of each source) and encode it for the model, without its weights.

    `samples` (numbers from 1) or `ids` of `split` are shown, else `show` at random. Raises a FinesightError where the
    recipe's data or model cannot be opened; a faulty row raises nothing, and is listed.
    """
    _may_write(out, tensors)
    notices, watch = Notices(), _watch(observer)
    workers = cores() if jobs is None else jobs
    parts = survey_splits(recipe.data, recipe.run.seed, notices, rows, workers, watch)
    ports = recipe_ports(recipe, parts["train"].words(_learned_from(recipe)))
    parts = measure(parts, ports, limit_of(recipe), workers, watch)
    watch("compare", 0)
    twice = find_twice({name: part.survey for name, part in parts.items()})
    fault = verdict(recipe.data, parts)
    summary = {
        **summarise(recipe.run.name, parts, twice, limit_of(recipe).most(ports.context)),
        "policy": recipe.data.model_dump(mode="json", include={"on_bad_row", "bad_row_limit", "on_long"}),
        "stops": fault is not None,
        "notices": notices.rows(),
    }
    asked = asked_for(parts, samples, ids, split, show, recipe.run.seed)
    views = views_of(recipe, parts, asked, ports, twice)
    table = _fed(recipe, parts, asked, ports, tensors) if tensors is not None and asked else None
    files = {"tensors": str(tensors)} if table is not None else {}
    if out is not None:
        places = for_page(parts, twice, asked, pictures, recipe.run.seed)
        shown = views_of(recipe, parts, places, ports, twice, pictures > 0, watch("show", len(places)))
        files |= _write(out, summary, [*faulty_views(parts), *shown], parts, twice)
    return Inspection(summary, views, table, files, fault)


def _learned_from(recipe: Recipe) -> int | None:
    """Samples that a tokenizer learns from: of a stream the first ones, as in training; else all of them."""
    train = recipe.data.train
    return None if isinstance(train, tuple) or not train.stream else train.buffer


def _watch(observer: Observer | None) -> Watch:
    def begin(name: str, total: int) -> Callable[[int], object]:
        if observer is None:
            return bool
        observer.on_phase(name, total)
        return observer.on_progress

    return begin


def _may_write(out: Path | None, tensors: Path | None) -> None:
    """Raise where something is in the way that no inspection has written."""
    if out is not None:
        run = RunDirectory(out)
        if run.recipe.exists() or run.environment.exists():
            raise RunError(
                "this is a run, which has a faults.csv of its own", str(out), "name another folder by --out"
            )
        if out.exists() and not out.is_dir():
            raise RunError("this is not a folder", str(out), "name another folder by --out")
    if tensors is not None:
        tables.check_place(tensors)


def _fed(
    recipe: Recipe, parts: Mapping[str, Surveyed], asked: Sequence[Place], ports: Ports, file: Path
) -> tables.Fed:
    """What the model is fed of the samples that were asked for, written to a file."""
    table = tables.fed(examples_of(recipe, parts, asked, ports), ports)
    tables.write_table(file, table)
    return table


def _write(
    out: Path,
    summary: Mapping[str, Any],
    views: Sequence[View],
    parts: Mapping[str, Surveyed],
    twice: Sequence[Twice],
) -> dict[str, str]:
    files = {
        "samples": out / "samples.html",
        "faults": out / "faults.csv",
        "twice": out / "twice.csv",
        "summary": out / "summary.json",
    }
    out.mkdir(parents=True, exist_ok=True)
    write_table(files["faults"], FAULT_COLUMNS, [*fault_rows(parts.values()), *long_rows(parts.values())])
    write_table(files["twice"], TWICE_COLUMNS, twice_rows(parts, twice))
    write_text(files["samples"], render(summary, views))
    write_json(files["summary"], summary)  # last: where it is, the others are of the same inspection
    return {name: str(path) for name, path in files.items()}
