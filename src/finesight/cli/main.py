"""The `finesight` command: its list of commands, its exit status and what it says when something is wrong."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from finesight import __version__
from finesight.cli.common import Invocation, explain, tell_our_fault
from finesight.core.errors import FinesightError, Interrupted

COMMANDS = {
    "train": "Train a model as a recipe says, evaluate it and write a report.",
    "inspect": "Show what the model will see, and every row that is wrong.",
    "evaluate": "Measure a model, or score a table of predictions.",
    "generate": "Answer a question about pictures.",
    "export": "Write a model, or a merged adapter, as a plain folder.",
    "convert": "Write any data as checked shards: tar or parquet, with a manifest.",
    "report": "Rebuild the HTML report of a run.",
    "recipes": "List, show and copy the recipes that ship with finesight.",
    "doctor": "Tell what this machine has, what works and what to install.",
}
"""Each command's first line of help, so that the list is shown without importing any of them."""

_KEYBOARD_INTERRUPT = 130
"""What typer makes of a Ctrl-C that no command caught."""


class _Commands(TyperGroup):
    """Commands that are imported from `finesight.cli.<name>` when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(f"finesight.cli.{cmd_name}").app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {
            name: TyperCommand(name) for name in COMMANDS
        }  # what a misspelt name is compared with
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"finesight {__version__}")
        raise typer.Exit


@app.callback()
def finesight(
    context: typer.Context,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="FINESIGHT_DEBUG", help="Show the traceback of a fault of finesight."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Train, evaluate and explain vision-language models from one YAML recipe.

    \b
    Begin with
      finesight train quickstart      four minutes on two cores; ends with a report
      finesight recipes               what else can be trained
      finesight COMMAND --help        what a command does, with examples

    \b
    Exit status: 0 done, 2 the input is wrong, 75 interrupted and resumable,
    1 a fault of finesight itself.
    """
    context.obj.debug = debug


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; whatever goes wrong is told on standard error."""
    invocation = Invocation()
    try:
        typer.main.get_command(app).main(arguments, prog_name="finesight", obj=invocation)
    except SystemExit as ended:  # typer told a wrong option itself, or the command is done
        if ended.code == _KEYBOARD_INTERRUPT:
            return explain(
                Interrupted("stopped before there was anything to save", "this command", "give it again")
            )
        return ended.code if isinstance(ended.code, int) else 0
    except FinesightError as error:
        return explain(error, debug=invocation.debug)
    except Exception as error:
        return tell_our_fault(error, debug=invocation.debug)
    return 0


def main() -> None:
    """Entry point of the `finesight` command."""
    # On a machine that does other things, too, threads that spin while they wait for each other cost the most: they
    # keep the core from the thread that they wait for. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run())
