"""`finesight report`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
) -> None:
    """Rebuild the HTML report of a run.

    \b
    Examples
      finesight report runs/quickstart
      finesight train quickstart --resume      (rebuilds the report of a finished run, too)

    The report is one self-contained page, <run>/report.html, made from the run's other files alone: results.json,
    metrics.jsonl, predictions/, pictures/ and recipe.yaml. Its path is printed.
    """
    from finesight.workflows.report import build_report

    print(build_report(run))
