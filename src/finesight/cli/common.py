"""What all commands share: what they say on errors, JSON, and tables."""

import contextlib
import errno
import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from finesight import __version__
from finesight.core.errors import FinesightError, RunError

if TYPE_CHECKING:
    from rich.console import Console

_MOST_SLICES = 12
"""Slices that a table on the screen shows; `results.json` and the report have all."""

PIPE_WIDTH = 124
"""Columns of a table that goes into a file or another command."""
JSON_HELP = "Print one JSON object on standard output, and nothing else there."
OVERRIDES_HELP = (
    "Changes of the recipe: section.key=value words such as train.lr=1e-4 or data.train.0.path=x."
)

_SYSTEM_CURES = {
    errno.ENOSPC: "free some space, or set run.dir to another disk",
    errno.EDQUOT: "free some of your quota, or set run.dir to another disk",
    errno.EACCES: "ask for the right to it, or name another place",
    errno.EPERM: "ask for the right to it, or name another place",
    errno.EROFS: "name a place that can be written",
}
"""What a person can do about errors of the system that are no fault of finesight."""


@dataclass
class Invocation:
    """What the options before a command's name said."""

    debug: bool = False


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """End by the status of an error, without its message: the first of several processes tells it."""
    try:
        yield
    except FinesightError as error:
        raise SystemExit(error.exit_status) from None


def explain(error: FinesightError, *, debug: bool = False) -> int:
    """Tell a person what to mend, and return the exit status; what a worker process said of an error is kept."""
    sign = "stopped" if error.exit_status == 75 else "error"
    print(f"{sign}: {error}", file=sys.stderr)
    for trace in getattr(error, "__notes__", ()):
        print(f"  {_kept(trace, debug=debug)}", file=sys.stderr)
    return error.exit_status


def _kept(trace: str, *, debug: bool) -> str:
    """Print a traceback, or write it to a file; where it is."""
    if debug:
        print(trace, file=sys.stderr)
        return "the traceback is above"
    with tempfile.NamedTemporaryFile(
        "w", prefix="finesight-error-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"finesight {__version__}, Python {sys.version}\n{trace}")
    return f"the traceback is in {file.name}"


def tell_our_fault(error: Exception, *, debug: bool) -> int:
    """Tell a fault of finesight itself, and return the exit status; the traceback goes to a file."""
    if isinstance(error, OSError) and error.errno in _SYSTEM_CURES:
        what = f"the system refused: {error.strerror}"
        return explain(RunError(what, str(error.filename or os.getcwd()), _SYSTEM_CURES[error.errno]))
    trace = "".join(traceback.format_exception(error))
    print(
        f"error: a fault of finesight itself, not of your input: {type(error).__name__}: {error}\n"
        f"  where: {_kept(trace, debug=debug)}\n"
        "  mend:  please report it in finesight's issue tracker with that traceback and the output of "
        "`finesight doctor`",
        file=sys.stderr,
    )
    return 1


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """With `wanted`, what libraries print meanwhile goes to standard error, so that the JSON stands alone."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object; numbers that JSON lacks become null."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=1, allow_nan=False))


def plain(value: Any) -> Any:
    """A result as JSON knows it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool | None):
        return value
    return str(value)


def console() -> "Console":
    """Where tables for people are printed."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_table(title: str, columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose `columns` map a heading to `left` or `right`."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, side in columns.items():
        table.add_column(heading, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)


def print_scores(result: Mapping[str, Any]) -> None:
    """Print all scores of all samples, the first score of each slice, and how much better they are than baselines."""
    every = plain(result).get("scores", [])
    scores = [score for score in every if score["slice"] == "all"]
    if not scores:
        return
    parts = [score for score in every if score["slice"] != "all" and score["name"] == scores[0]["name"]]
    scores += parts[:_MOST_SLICES]
    comparisons = plain(result).get("baselines", [])
    names = list(dict.fromkeys(comparison["baseline"] for comparison in comparisons))
    found = {(c["split"], c["slice"], c["name"], c["baseline"]): c for c in comparisons}
    rows = []
    for score in scores:
        key = (score["split"], score["slice"], score["name"])
        rows.append(
            [
                *(score["slice"], score["name"], _number(score["value"])),
                f"{_number(score['low'])} – {_number(score['high'])}",
                f"{score['count']:,}",
                *(_against(found.get((*key, name))) for name in names),
            ]
        )
    columns = {
        "slice": "left",
        "score": "left",
        "value": "right",
        "95 % interval": "right",
        "samples": "right",
    }
    splits = ", ".join(dict.fromkeys(score["split"] for score in scores))
    print_table(f"Scores on {splits}", columns | {name.replace("_", " "): "right" for name in names}, rows)
    if names:
        print(
            "Behind a baseline's score: by how much the model differs from it on the same samples, 95 % interval.\n"
        )


def _against(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return ""
    low, high = (f"{comparison[end]:+.3f}" for end in ("low", "high"))
    return f"{_number(comparison['value'])} ({low} – {high})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
