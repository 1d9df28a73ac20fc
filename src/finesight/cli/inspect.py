"""`finesight inspect`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finesight.cli.common import JSON_HELP, OVERRIDES_HELP, only_json, print_json

if TYPE_CHECKING:
    from finesight.config.recipe import Recipe
    from finesight.workflows.inspect import Inspection

app = typer.Typer(rich_markup_mode=None, add_completion=False)


_Recipe = Annotated[
    str, typer.Argument(help="A recipe's file, or the name of one that ships with finesight.")
]
_Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help=OVERRIDES_HELP)]
_Out = Annotated[
    Path | None, typer.Option(help="Folder for samples.html, faults.csv, twice.csv and summary.json.")
]
_Samples = Annotated[
    list[int] | None,
    typer.Option(
        "--sample", min=1, metavar="N", help="Show sample N of the split, from 1; may be given again."
    ),
]
_Ids = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="Show the sample of this id; may be given again."),
]
_Split = Annotated[str | None, typer.Option(help="The split whose samples are shown: train, val or test.")]
_Stage = Annotated[
    str | None, typer.Option(metavar="NAME", help="The stage whose data are shown, of a recipe with stages.")
]
_Show = Annotated[
    int, typer.Option(min=0, metavar="N", help="Samples to show, drawn at random, where none is named.")
]
_Rows = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Read only N rows of each source, evenly spread, instead of all."),
]
_Jobs = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Processes that read rows; as many as cores where absent."),
]
_Pictures = Annotated[
    int, typer.Option(min=0, metavar="N", help="Pictures that samples.html shows at most; 0 for none.")
]
_Tensors = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Show as tables what the model is fed of these samples, and save it: .safetensors, .arrow or .parquet.",
    ),
]


@app.command(no_args_is_help=True)
def inspect(
    recipe: _Recipe,
    overrides: _Overrides = None,
    out: _Out = None,
    samples: _Samples = None,
    ids: _Ids = None,
    split: _Split = None,
    stage: _Stage = None,
    show: _Show = 3,
    rows: _Rows = None,
    jobs: _Jobs = None,
    pictures: _Pictures = 200,
    tensors: _Tensors = None,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Show what the model will see, and every row that is wrong.

    \b
    Examples
      finesight inspect mine.yaml --out look
      finesight inspect mine.yaml --split val --sample 1 --sample 7
      finesight inspect quickstart --rows 500 --show 1 --tensors fed.safetensors

    \b
    Files, in the folder that --out names
      samples.html           samples as the model sees them, faulty rows, filters; one self-contained page
      faults.csv             file, row, column and reason of every row that cannot be used
      twice.csv              samples and near-equal pictures that come twice, within and across splits
      summary.json           counts, percentiles of lengths and sizes, by split

    All rows are read, their pictures decoded and their words encoded for the model, whose weights are not needed.
    Exit status 2 where a row is faulty and the recipe says `on_bad_row: stop`.
    """
    from finesight.config.load import inspected_stage, load_recipe

    found = _found(
        inspected_stage(load_recipe(recipe, overrides or ()), stage),
        json,
        {"samples": samples or (), "ids": ids or (), "split": split, "show": show, "rows": rows}
        | {"jobs": jobs, "out": out, "pictures": pictures, "tensors": tensors},
    )
    if json:
        print_json(found.document())
    else:
        from finesight.cli.inspected import print_inspection

        print_inspection(found)
    if found.fault is not None:
        raise found.fault


def _found(recipe: "Recipe", json: bool, options: Mapping[str, Any]) -> "Inspection":
    from finesight.cli.progress import ProgressBar
    from finesight.workflows.inspect import (
        inspect as work,  # after the recipe is checked: torch takes seconds
    )

    with only_json(json), ProgressBar() as bar:
        return work(recipe, **options, observer=bar)
