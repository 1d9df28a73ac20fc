"""`finesight evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from finesight.cli.common import (
    JSON_HELP,
    OVERRIDES_HELP,
    only_json,
    plain,
    print_json,
    print_scores,
    print_table,
    silent,
)
from finesight.cli.held import MemoryOption, QuantizeOption, SpreadOption, load_from
from finesight.core.errors import FinesightError, RunError
from finesight.core.rundir import RunDirectory

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL_OR_RUN", help="A run, its model/ or adapter/, or a checkpoint; not with --predictions."
    ),
]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def evaluate(
    model: ModelArgument = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help=OVERRIDES_HELP)] = None,
    split: Annotated[
        str | None, typer.Option(help="Part of the data: train, val or test (test where a model answers).")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics with commas between, such as exact_match,cider.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json; beside the predictions where absent.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Score this table (JSON Lines) alone, without a model.")
    ] = None,
    quantize: QuantizeOption = None,
    spread: SpreadOption = False,
    max_memory: MemoryOption = None,
    debug: Annotated[
        int, typer.Option(min=0, help="Show the first N comparisons, original and normalised.", metavar="N")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Measure a model, or score a table of predictions.

    \b
    Examples
      finesight evaluate runs/quickstart --split val
      finesight evaluate runs/large --quantize nf4 --spread
      torchrun --nproc-per-node 2 -m finesight evaluate runs/quickstart
      finesight evaluate --predictions runs/quickstart/predictions/test.jsonl --metrics exact_match,cider --debug 5

    \b
    Files
      results.json           scores with bootstrap intervals, for all samples and for each tag
      predictions/           one JSON object a line: id, origin, prompt, prediction, references, tags
    """
    from finesight.runtime.ranks import place_of_process

    load = load_from(quantize, spread, max_memory)
    names, words = _names(metrics), [*(overrides or []), *load.words]
    if place_of_process().rank:  # the first of several processes scores and speaks
        with silent():
            if predictions is None:
                _with_model(model, words, split or "test", names, out)
        return
    with only_json(json):
        if predictions is None:
            result = _with_model(model, words, split or "test", names, out)
        else:
            result = _table(predictions, model, load.words, names, out, split)
        if debug:
            result = {**result, "debug": _compared(predictions, result, split or "test", debug)}
    if json:
        print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    print_scores(result)
    _show(result.get("debug", []))
    print(f"Results: {result['results']}")


def _compared(predictions: Path | None, result: dict[str, Any], split: str, count: int) -> Any:
    """The first comparisons of answers with their references."""
    from finesight.workflows.score import debug_rows

    answered = RunDirectory(Path(result["results"]).parent).predictions(split)
    return plain(debug_rows(predictions or answered, count))


def _names(metrics: str | None) -> list[str] | None:
    if metrics is None:
        return None
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    if not names:
        raise FinesightError(
            "no metric is named", "--metrics", "name some, such as --metrics exact_match,cider"
        )
    return names


def _with_model(
    model: str | None, overrides: list[str], split: str, names: list[str] | None, out: Path | None
) -> dict[str, Any]:
    if model is None:
        raise RunError(
            "there is nothing to evaluate",
            "evaluate",
            "name a run or a model, or give --predictions FILE.jsonl",
        )
    from finesight.cli.progress import ProgressBar
    from finesight.workflows.evaluate import evaluate as work

    with ProgressBar() as bar:
        result: dict[str, Any] = work(
            model, split=split, overrides=overrides, metrics=names, out=out, observer=bar
        )
    return result


def _table(
    predictions: Path,
    model: str | None,
    load: Sequence[str],
    names: list[str] | None,
    out: Path | None,
    split: str | None,
) -> dict[str, Any]:
    if load:
        mend = "leave --quantize and --spread out"
        raise FinesightError("a table of predictions needs no model", "--predictions", mend)
    if model is not None:
        raise FinesightError(
            f"`{model}` and --predictions are both given",
            "evaluate",
            "give a model or a table of predictions",
        )
    if names is None:
        raise FinesightError(
            "the metrics are missing", "--metrics", "name some, such as --metrics exact_match,token_f1,cider"
        )
    from finesight.workflows.score import score_table

    result: dict[str, Any] = score_table(predictions, names, out, split)
    return result


def _show(rows: list[dict[str, Any]]) -> None:
    if rows:
        columns = {
            "sample": "left",
            "match": "left",
            "answer": "left",
            "references": "left",
            "compared as": "left",
        }
        cells = [
            [
                *(
                    row["id"],
                    "yes" if row["match"] else "no",
                    row["prediction"],
                    "\n".join(row["references"]),
                ),
                "\n".join([row["normalised"], *(f"= {text}" for text in row["normalised_references"])]),
            ]
            for row in rows
        ]
        print_table("Comparisons", columns, cells)
