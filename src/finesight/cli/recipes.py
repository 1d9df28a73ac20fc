"""`finesight recipes`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from finesight.cli.common import print_table
from finesight.core.errors import RunError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List, show and copy the recipes that ship with finesight.

    \b
    Examples
      finesight recipes
      finesight recipes show quickstart
      finesight recipes copy quickstart mine.yaml

    A recipe is one YAML file that describes a whole experiment: data, model, training, evaluation and report.
    """
    if context.invoked_subcommand is None:
        from finesight.config.load import shipped_recipes

        print_table("Recipes", {"name": "left", "what it does": "left"}, list(shipped_recipes().items()))
        print("Next:   finesight recipes show NAME, or finesight train NAME")


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")]) -> None:
    """Print a recipe."""
    from finesight.config.load import recipe_text

    print(recipe_text(name), end="")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")],
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
) -> None:
    """Copy a recipe into a file of your own."""
    from finesight.config.load import recipe_text

    text = recipe_text(name)
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError as error:
        raise RunError(f"{file} exists", str(file), "name another file; none is overwritten") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"the folder {file.parent} does not exist", str(file), "make it first") from error
    print(f"{file} is written. Next: finesight train {file}")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from finesight.config.load import schema as recipe_schema

    print(json.dumps(recipe_schema(), ensure_ascii=False, indent=1))
