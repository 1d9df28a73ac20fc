"""Prediction tables as JSON Lines, one object a row, and the document of `results.json`."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finesight.core.errors import DataError, Fault
from finesight.core.formats import FORMATS, check_format
from finesight.core.prediction import Comparison, Prediction, Score

FAULTS_AT_ONCE = 20

_REFERENCES = 'Write "references": ["…"], a list of texts or one text.'


def read(path: Path) -> list[Prediction]:
    """The predictions of a JSON Lines file (UTF-8), read line by line.

    Raises DataError where the file cannot be read, and as `parse` does.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return parse(lines, str(path))
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file is not UTF-8 text: {error.reason}.",
            str(path),
            "Save it as UTF-8, one JSON object a line.",
        ) from error
    except OSError as error:
        raise DataError(
            f"The file cannot be read: {error.strerror}.", str(path), "Check its path and its permissions."
        ) from error


def parse(lines: Iterable[str], file: str) -> list[Prediction]:
    """The predictions of JSON Lines; `file` names them in messages.

    Each line is an object with `prediction` (text) and `references` (a text or a list of texts). It may have
    `id` (text or whole number; else the line's number, the first being 1), `origin` (else file and row),
    `prompt`, `group` (texts, else empty) and `tags` (texts, numbers, true or false by name; null is as if it
    were not there). Other keys are ignored, and so are lines of white space. Raises DataError for a line of a
    newer `format`, and with up to 20 faults at once: a line that is no JSON object, a key that is missing or of
    the wrong type, an id that stands twice, no rows at all.
    """
    predictions: list[Prediction] = []
    faults: list[Fault] = []
    first_row: dict[str, int] = {}
    for row, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parsed = _row(line, file, row, faults)
        if parsed is not None:
            before = first_row.setdefault(parsed.id, row)
            if before != row:
                what = f"The id {parsed.id} stands already at line {before}."
                faults.append(
                    Fault(what, _at(file, row, "id"), "Give every row an id of its own, or none an id.")
                )
            predictions.append(parsed)
        if len(faults) >= FAULTS_AT_ONCE:
            break
    if faults:
        raise DataError.of(faults)
    if not predictions:
        raise DataError("The file holds no predictions.", file, "Give it one JSON object a line.")
    return predictions


def dump(predictions: Iterable[Prediction]) -> str:
    """The predictions as JSON Lines; `parse` gives them back as they were.

    Each line has all seven keys and its `format`, which holds wherever lines are taken out, or put together.
    """
    return "".join(f"{_json({'format': FORMATS['predictions'], **asdict(item)})}\n" for item in predictions)


def results_document(scores: Sequence[Score], comparisons: Sequence[Comparison] = ()) -> dict[str, Any]:
    """What `results.json` holds: `format`, and lists of plain objects in `scores` and `baselines`."""
    return {
        "format": FORMATS["results"],
        "scores": [asdict(item) for item in scores],
        "baselines": [asdict(item) for item in comparisons],
    }


def _json(row: Mapping[str, Any]) -> str:
    """One line of JSON with its letters readable, unless half of a surrogate pair makes them no text."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return text


def _row(line: str, file: str, row: int, faults: list[Fault]) -> Prediction | None:
    """The prediction of one line, or None after adding its faults."""
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        what = f"The line is not valid JSON: {error.msg} at character {error.colno}."
        faults.append(Fault(what, _at(file, row), "Write one JSON object on one line."))
        return None
    if not isinstance(data, dict):
        what = f"The line holds {_kind(data)} in place of an object."
        faults.append(Fault(what, _at(file, row), 'Write {"prediction": "…", "references": ["…"]}.'))
        return None
    check_format("predictions", data.get("format"), _at(file, row, "format"), DataError, others=True)
    before = len(faults)
    reader = _Row(data, file, row, faults)
    prediction = Prediction(
        id=reader.id(),
        origin=reader.text("origin") or f"{file}, row {row}",
        prompt=reader.text("prompt"),
        prediction=reader.text("prediction", 'Write "prediction": "…", what the model answered.'),
        references=reader.references(),
        tags=reader.tags(),
        group=reader.text("group"),
    )
    return prediction if len(faults) == before else None


class _Row:
    """One object of a table: gives its values, and adds to `faults` what cannot be used."""

    def __init__(self, data: Mapping[str, Any], file: str, row: int, faults: list[Fault]) -> None:
        self.data, self.file, self.row, self.faults = data, file, row, faults

    def id(self) -> str:
        value = self.data.get("id")
        if value is None:
            return str(self.row)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
        self._wrong("id", value, "a text or a whole number")
        return ""

    def text(self, key: str, required: str = "") -> str:
        """The text of a key; `required` is the cure where the key must be there."""
        value = self.data.get(key)
        if isinstance(value, str):
            return value
        if value is not None:
            self._wrong(key, value, "a text")
        elif required:
            self._missing(key, required)
        return ""

    def references(self) -> tuple[str, ...]:
        value = self.data.get("references")
        if isinstance(value, str):
            return (value,)
        if value is None:
            self._missing("references", _REFERENCES)
        elif not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self._wrong("references", value, "a text or a list of texts")
        else:
            return tuple(value)
        return ()

    def tags(self) -> dict[str, str]:
        value = self.data.get("tags")
        if value is None:
            return {}
        if not isinstance(value, dict) or any(isinstance(each, list | dict) for each in value.values()):
            self._wrong("tags", value, 'an object of plain values, such as {"kind": "indoor"}')
            return {}
        return {
            key: each if isinstance(each, str) else json.dumps(each)
            for key, each in value.items()
            if each is not None
        }

    def _missing(self, key: str, mend: str) -> None:
        state = "is null" if key in self.data else "is missing"
        near = (
            difflib.get_close_matches(key, self.data.keys(), n=1, cutoff=0.6) if key not in self.data else []
        )
        hint = f" The row has {near[0]!r}: rename it if that is meant." if near else ""
        self.faults.append(Fault(f"The key {key!r} {state}.", _at(self.file, self.row, key), f"{mend}{hint}"))

    def _wrong(self, key: str, value: object, wanted: str) -> None:
        what = f"The key {key!r} holds {_kind(value)} in place of {wanted}."
        self.faults.append(Fault(what, _at(self.file, self.row, key), f"Make it {wanted}."))


def _at(file: str, row: int, key: str = "") -> str:
    return f"{file}, line {row}, key {key!r}" if key else f"{file}, line {row}"


def _kind(value: object) -> str:
    """The name of a JSON value's type, for messages."""
    if isinstance(value, list) and not all(isinstance(each, str) for each in value):
        return "a list that is not all texts"
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
