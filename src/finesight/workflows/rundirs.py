"""Beginning and continuing a run directory: nothing that is there is ever overwritten."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finesight.config.load import dump
from finesight.config.recipe import Recipe
from finesight.core.errors import RunError
from finesight.core.formats import check_format
from finesight.core.rundir import RunDirectory
from finesight.runtime.files import TEMPORARY, write_text
from finesight.runtime.locks import locked
from finesight.workflows.changes import Changes, changed_recipe, refuse_recipe

SKELETON = "skeleton"
"""Folder beside the checkpoints that holds the model's configuration and processor, and an adapter's configuration."""

_PROCESS_LOG = re.compile(r"process-\d+\.log")
"""What a process other than the first one says where it fails."""


@contextmanager
def open_run(recipe: Recipe, resume: bool, force: bool = False) -> Iterator[tuple[RunDirectory, Changes]]:
    """The run directory of a recipe, held by a lock, and what the recipe changes in it. Where a change was forced, the
    recipe is not written yet: whether the run can go on with it is not known.

    Raises RunError where the directory holds something and `resume` was not asked for, where it holds something that is
    no run, where the recipe differs from the one that the run began with, and where another process is at work in it.
    """
    run = RunDirectory(Path(recipe.directory))
    if run.path.exists() and not run.path.is_dir():
        raise RunError("this is a file, not a directory", str(run.path), "choose another place by `run.dir`")
    if run.path.is_dir() and not _never_begun(run):
        _check_existing(run, resume)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the run directory cannot be made: {error.strerror}", str(run.path), "choose another place"
        ) from error
    changes = Changes()
    with locked(run.lock):
        if not _never_begun(run):
            _check_existing(run, resume)
            changes = changed_recipe(run, recipe)
            refuse_recipe(run, changes, force)
        else:  # what was recorded is of a recipe or data that were wrong
            run.environment.unlink(missing_ok=True)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        if not run.results.is_file() and not changes.named:  # a finished run stays as it is
            write_text(run.recipe, dump(recipe))
        yield run, changes


def check_run(run: RunDirectory) -> None:
    """Raise RunError where a newer finesight began the run, or where its record cannot be read."""
    try:
        record = json.loads(run.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"the record of this run cannot be read ({type(error).__name__})",
            str(run.environment),
            "put back the file that finesight wrote",
        ) from error
    written = record.get("format") if isinstance(record, dict) else None
    check_format("run", written, str(run.environment), RunError)


def _never_begun(run: RunDirectory) -> bool:
    """Whether all that a directory holds is what a start left that ended before its first step was prepared."""
    left = {run.recipe.name, run.log.name, run.lock.name, run.environment.name, run.checkpoints.name}
    if run.checkpoints.is_dir() and any(path.name != SKELETON for path in run.checkpoints.iterdir()):
        return False
    names = {path.name for path in run.path.iterdir() if not path.name.endswith(TEMPORARY)}
    names -= {run.stages.name}
    names = {name for name in names if not _PROCESS_LOG.fullmatch(name)}
    return not names or (run.lock.name in names and names <= left)


def _check_existing(run: RunDirectory, resume: bool) -> None:
    if not resume:
        raise RunError(
            "the run directory exists and holds files",
            str(run.path),
            "continue it with --resume, or choose another by `run.name=…` or `run.dir=…`",
        )
    if not (run.recipe.is_file() and run.environment.is_file()):
        raise RunError(
            "this directory holds files, and no run that could be continued",
            str(run.path),
            "choose another by `run.dir=…`",
        )
    check_run(run)
