"""`finesight train`."""

import shlex
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from finesight.cli.common import JSON_HELP, OVERRIDES_HELP, only_json, print_json, print_scores, silent

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's file, or the name of one that ships with finesight.")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help=OVERRIDES_HELP)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run; one that is finished only gets a new report.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --resume: go on over changed data or recipe; recorded.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send one batch through everything and write nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Train a model as a recipe says, evaluate it and write a report.

    \b
    Examples
      finesight train quickstart
      finesight train mine.yaml train.epochs=3 train.max_steps=null run.name=longer
      finesight train mine.yaml --resume

    \b
    Files, all in runs/<name>/ unless the recipe's run.dir says otherwise
      report.html            what was learned, with pictures, answers and scores
      results.json           scores with intervals, also by tag
      predictions/           what the model answered, one JSON object a line
      model/                 a folder that plain transformers loads
      checkpoints/           what --resume continues from

    A run that exists is never overwritten: give --resume or another run.name. Ctrl-C saves first and exits
    with status 75.
    """
    from finesight.cli.progress import ProgressBar
    from finesight.config.load import load_recipe, stage_recipes
    from finesight.runtime.ranks import place_of_process

    rank = place_of_process().rank
    with silent() if rank else nullcontext():
        checked = load_recipe(recipe, overrides or ())
        stage_recipes(checked)  # their faults are told before torch is imported
    from finesight.workflows.train import train as work  # after the recipe is checked: torch takes seconds

    if rank:  # the first of several processes speaks
        with silent():
            work(checked, resume=resume, force=force, dry_run=dry_run)
        return
    with only_json(json), ProgressBar() as bar:
        result = work(checked, resume=resume, force=force, dry_run=dry_run, observer=bar)
    if dry_run:  # the workflow does not know by which words the recipe was named
        result = {**result, "next": shlex.join(["finesight", "train", recipe, *(overrides or ())])}
    print_json(result) if json else _print(result)


def _print(result: dict[str, Any]) -> None:
    print_scores(result)
    for heading, key in (("Status", "status"), ("Run", "run"), ("Report", "report"), ("Next", "next")):
        if result.get(key):
            print(f"{heading + ':':<8}{result[key]}")
