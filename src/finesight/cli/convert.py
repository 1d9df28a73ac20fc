"""`finesight convert`."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from finesight.cli.common import JSON_HELP, only_json, print_json
from finesight.core.errors import FinesightError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class To(StrEnum):
    """Formats of shards."""

    TAR = "tar"
    PARQUET = "parquet"


class BadRow(StrEnum):
    """As `data.on_bad_row` of a recipe."""

    STOP = "stop"
    SKIP = "skip"


_Given = Annotated[
    str,
    typer.Argument(metavar="RECIPE_OR_SOURCE", help="A recipe, or data: a file, folder, pattern or address."),
]
_Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes of the recipe, or keys of the source, such as columns.answer=title or source=coco.",
    ),
]
_Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the shards; a new one.")]
_Split = Annotated[str, typer.Option(help="Which part of a recipe's data: train, val or test.")]
_Size = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="About how large a shard is, such as 512MB (the default) or 2GiB."),
]
_Rows = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Rows of the source for each shard, instead of a size.")
]
_Jobs = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Processes that write; as many as cores where absent.")
]
_BadRow = Annotated[
    BadRow | None, typer.Option(help="What a bad row does; as the recipe says where absent, else stop.")
]


@app.command(no_args_is_help=True)
def convert(
    given: _Given,
    overrides: _Overrides = None,
    out: _Out = None,
    to: Annotated[To, typer.Option(help="Format of the shards.")] = To.TAR,
    split: _Split = "train",
    shard_size: _Size = None,
    shard_rows: _Rows = None,
    jobs: _Jobs = None,
    on_bad_row: _BadRow = None,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Write any data as checked shards: tar or parquet, with a manifest.

    \b
    Examples
      finesight convert pictures.csv --out shards
      finesight convert captions.json source=coco root=train2017 --out coco --shard-size 1GB
      finesight convert mine.yaml --split val --to parquet --out val-shards

    \b
    Files, in the folder that --out names
      shard-00000.tar, …     WebDataset: 00000001.jpg beside 00000001.json, which has the row's other columns;
                             or shard-00000.parquet, …: pictures as bytes
      manifest.json          counts, and sha256 of every shard and picture; what reads the shards checks them by it
      faults.csv             rows that were left out, with the reason, where --on-bad-row skip let them be

    Every row is checked: its pictures are decoded, its words must be there, and read back it makes the same
    sample. Stopped or killed, the same command goes on: shards that are finished are kept, and the files are the
    same as without the stop. Rows keep their columns, so a recipe reads the shards with the same prompt, tags and
    columns; only `source` and `path` change, as is printed at the end.
    """
    if out is None:
        raise FinesightError("no folder is named", "--out", "name a new one, such as --out shards")
    if shard_size is not None and shard_rows is not None:
        raise FinesightError("--shard-size and --shard-rows are both given", "convert", "keep one of them")
    settings = {
        "to": to.value,
        "split": split,
        "shard_bytes": _bytes(shard_size) if shard_size is not None else None,
        "shard_rows": shard_rows,
        "jobs": jobs,
        "on_bad_row": None if on_bad_row is None else on_bad_row.value,
    }
    result = _work(given, overrides or (), out, settings, json)
    if json:
        print_json(result)
        return
    for part in result.get("sources", [result]):
        _show(part)


def _work(
    given: str, overrides: Sequence[str], out: Path, settings: dict[str, Any], json: bool
) -> dict[str, Any]:
    from finesight.cli.progress import ProgressBar
    from finesight.workflows.converted import recipe_or_source

    chosen = recipe_or_source(given, overrides)
    from finesight.workflows.convert import convert as work  # after the recipe is checked

    with only_json(json), ProgressBar() as bar:
        return work(chosen, out, observer=bar, **settings)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    unit = found[2].upper() if found else ""
    if found is None or (found[3] and not unit) or float(found[1]) <= 0:
        raise FinesightError(f"`{text}` is no size", "--shard-size", "write it as 512MB, 2GB or 1GiB")
    return max(1, int(float(found[1]) * (_BINARY[unit] if found[3] else _UNITS[unit])))


def _show(result: dict[str, Any]) -> None:
    same = " (all of them were there, and whole)" if result["status"] == "unchanged" else ""
    kept = f", {result['kept']:,} of them from before" if result["kept"] and not same else ""
    print(f"Shards:   {result['shards']:,} in {result['out']}{kept}{same}")
    print(
        f"Rows:     {result['rows']:,}, with {result['pictures']:,} pictures; {result['bytes'] / 1e6:,.1f} MB"
    )
    if result["left_out"]:
        print(f"Left out: {result['left_out']:,} rows that the source's `where` does not want")
    if result["faults"]:
        print(f"Faults:   {result['faults']:,} rows, listed in {result.get('faults_file', 'faults.csv')}")
    print(f"Manifest: {result['manifest']}")
    print(f"Next:     in the recipe, `train: {_flow(result['read_back'])}`")


def _flow(value: Any) -> str:
    """A source as YAML in one line."""
    import json

    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
