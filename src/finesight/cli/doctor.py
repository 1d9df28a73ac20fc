"""`finesight doctor`."""

from typing import Annotated

import typer

from finesight.cli.common import JSON_HELP, only_json, print_json, print_table

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False) -> None:
    """Tell what this machine has, what works and what to install.

    \b
    Examples
      finesight doctor
      finesight doctor --json > machine.json

    Looks at Python, the libraries, the processor, GPUs (a small product of matrices is really computed on each),
    memory, disk and the optional extras. It changes nothing, and a missing thing is told, not an error.
    """
    from finesight.workflows.doctor import examine

    with only_json(json):
        found = examine()
    if json:
        print_json({"checks": found})
        return
    signs = {True: "works", False: "missing", None: ""}
    rows = [[item["area"], item["name"], signs[item["works"]], item["found"], item["mend"]] for item in found]
    columns = {"": "left", "what": "left", "state": "left", "found": "left", "to mend": "left"}
    print_table("This machine", columns, rows)
