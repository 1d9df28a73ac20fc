"""Everything that a run directory holds, read so that a file that is missing or cut short is told, never fatal."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from finesight.core.errors import DataError, RunError
from finesight.core.formats import Kind, check_format
from finesight.core.prediction import Comparison, Prediction, Score
from finesight.core.rundir import RunDirectory

Row = Mapping[str, float | None]
"""A row of a CSV file of numbers; None where the file says nothing. A number may be NaN or infinite."""
Rows = Sequence[Row]
T = TypeVar("T")


@dataclass(frozen=True)
class Notice:
    """Something that was dropped, cut, frozen or fell back."""

    kind: str
    text: str
    count: int


@dataclass(frozen=True)
class Tables:
    """What was read. `notices` and `faults` are None where the file is missing; `problems` tells what was unreadable.

    `steps` are the logged steps of metrics.jsonl and `evaluations` its other rows; `seconds` are results.json's, of
    `train`, of `validation` and `saving` along the way, and of `evaluate` (the last evaluation), as `energy` is its
    entry. `pictures` maps a split to sample ids and files that exist.
    """

    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, Any]
    plan: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    losses: Rows
    timings: Rows
    seconds: Mapping[str, Any]
    energy: Mapping[str, Any]
    scores: Sequence[Score]
    comparisons: Sequence[Comparison]
    answers: Mapping[str, Sequence[Prediction]]
    pictures: Mapping[str, Mapping[str, Path]]
    notices: Sequence[Notice] | None
    faults: Sequence[Mapping[str, str]] | None
    problems: Sequence[str]
    effect: Mapping[str, Any]
    """What results.json says of the worth of pictures."""
    audit: Mapping[str, Any]


def read(path: Path) -> Tables:
    """All tables of the run directory at `path`; raises RunError where a newer finesight wrote them."""
    run, problems = RunDirectory(path), list[str]()
    rows = _json_lines(run.metrics, problems)
    steps = [row for row in rows if {"step", "loss"} <= row.keys() and isinstance(row["step"], int)]
    evaluations = [
        row
        for row in rows
        if {"step", "split", "name", "value"} <= row.keys() and isinstance(row["step"], int)
    ]
    results = _object(run.results, problems, "results")
    recipe_text = _text(run.recipe, problems)
    recipe = _yaml(recipe_text, run.recipe, problems)
    check_format("recipe", recipe.get("format"), str(run.recipe), RunError, others=True)
    notices = _json(run.notices, problems)
    return Tables(
        recipe=recipe,
        recipe_text=recipe_text,
        environment=_object(run.environment, problems, "run"),
        plan=_object(run.plan, problems, "plan"),
        steps=steps,
        evaluations=evaluations,
        losses=numbers(run.losses, problems) or _losses(steps, evaluations),
        timings=numbers(run.timing, problems),
        seconds=seconds if isinstance(seconds := results.get("seconds"), dict) else {},
        energy=energy if isinstance(energy := results.get("energy"), dict) else {},
        scores=_items(results.get("scores"), _score, run.results, problems),
        comparisons=_items(results.get("baselines"), _comparison, run.results, problems),
        answers=_answers(path / "predictions", problems),
        pictures=_pictures(run.pictures, problems),
        notices=None if notices is None else _items(notices, _notice, run.notices, problems),
        faults=_records(run.faults, problems),
        problems=problems,
        effect=effect if isinstance(effect := results.get("pictures"), dict) else {},
        audit=_object(run.audit, problems),
    )


def numbers(path: Path, problems: list[str] | None = None) -> list[Row]:
    """The rows of a CSV file of numbers, such as losses_log.csv; none where it is missing."""
    return [{name: _number(text) for name, text in row.items()} for row in _records(path, problems) or ()]


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _text(path: Path, problems: list[str] | None) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        _tell(problems, f"{path.name} could not be read: {error.strerror}")
        return ""


def _tell(problems: list[str] | None, text: str) -> None:
    if problems is not None:
        problems.append(text)


def _records(path: Path, problems: list[str] | None) -> list[dict[str, str]] | None:
    if not path.exists():
        return None
    whole: list[dict[str, str]] = []
    try:
        whole.extend(csv.DictReader(io.StringIO(_text(path, problems).replace("\0", ""), newline="")))
    except csv.Error as error:
        _tell(problems, f"{path.name} is damaged after {len(whole)} rows: {error}")
    kept = [row for row in whole if None not in row and None not in row.values()]
    if len(kept) < len(whole):
        _tell(problems, f"{path.name}: incomplete rows that are left out: {len(whole) - len(kept)}")
    return kept


def _json(path: Path, problems: list[str]) -> Any:
    text = _text(path, problems)
    try:
        return json.loads(text) if text else None
    except ValueError:
        problems.append(f"{path.name} is damaged or was not written to its end")
        return None


def _object(path: Path, problems: list[str], kind: Kind | None = None) -> dict[str, Any]:
    value = _json(path, problems)
    if isinstance(value, dict):
        if kind is not None:  # a report tells all that it can read: only what is newer is refused
            check_format(kind, value.get("format"), str(path), RunError, others=True)
        return value
    if value is not None:
        problems.append(f"{path.name} does not hold a JSON object")
    return {}


def _json_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    rows, bad = [], 0
    for line in _text(path, problems).split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    if bad:
        problems.append(f"{path.name}: damaged lines that are left out: {bad}")
    return rows


def _yaml(text: str, path: Path, problems: list[str]) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(f"{path.name} is no readable YAML")
        return {}
    return value if isinstance(value, dict) else {}


def _items(value: Any, make: Callable[[Mapping[str, Any]], T], path: Path, problems: list[str]) -> list[T]:
    items = []
    for entry in value if isinstance(value, list) else []:
        try:
            items.append(make(entry))
        except (KeyError, TypeError, ValueError, AttributeError):
            problems.append(f"{path.name}: left out {json.dumps(entry)[:120]}")
    return items


def _score(entry: Mapping[str, Any]) -> Score:
    value = float(entry["value"])
    low, high = (value if entry.get(key) is None else float(entry[key]) for key in ("low", "high"))
    return Score(
        str(entry["split"]),
        str(entry["slice"]),
        str(entry["name"]),
        value,
        low,
        high,
        int(entry.get("count") or 0),
    )


def _comparison(entry: Mapping[str, Any]) -> Comparison:
    value, difference = float(entry["value"]), float(entry["difference"])
    low, high = (difference if entry.get(key) is None else float(entry[key]) for key in ("low", "high"))
    split, part, name, baseline = (str(entry[key]) for key in ("split", "slice", "name", "baseline"))
    count, groups = int(entry.get("count") or 0), int(entry.get("groups") or 0)
    return Comparison(split, part, name, baseline, value, difference, low, high, count, groups)


def _notice(entry: Mapping[str, Any]) -> Notice:
    return Notice(str(entry["kind"]), str(entry["text"]), int(entry.get("count") or 0))


def _answers(folder: Path, problems: list[str]) -> dict[str, list[Prediction]]:
    tables = {}
    for path in sorted(folder.glob("*.jsonl")):
        rows = _json_lines(path, problems)
        for row in rows:
            check_format("predictions", row.get("format"), str(path), DataError, others=True)
        tables[path.stem] = _items(rows, _prediction, path, problems)
    return {split: rows for split, rows in tables.items() if rows}


def _prediction(row: Mapping[str, Any]) -> Prediction:
    return Prediction(
        id=str(row["id"]),
        origin=str(row.get("origin") or ""),
        prompt=str(row.get("prompt") or ""),
        prediction=str(row["prediction"]),
        references=tuple(str(text) for text in row["references"]),
        tags={str(tag): str(value) for tag, value in (row.get("tags") or {}).items()},
        group=str(row.get("group") or ""),
    )


def _pictures(folder: Path, problems: list[str]) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for split, files in _object(folder / "index.json", problems).items():
        for name, file in files.items() if isinstance(files, dict) else ():
            path = folder / str(file)
            if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
                found.setdefault(split, {})[name] = path
            else:
                problems.append(f"pictures/index.json names {str(file)!r}, which is no file below pictures/")
    return found


def _losses(steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> list[Row]:
    """losses_log.csv as metrics.jsonl tells it, for a run that has no losses_log.csv."""
    learned: list[Row] = [
        {"epoch": row.get("epoch"), "step": row["step"], "train_loss": row["loss"], "val_loss": None}
        for row in steps
    ]
    validated: list[Row] = [
        {"epoch": None, "step": row["step"], "train_loss": None, "val_loss": row["value"]}
        for row in evaluations
        if row["name"] == "val_loss"
    ]
    return learned + validated
