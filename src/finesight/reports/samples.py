"""The page of an inspection: what is wrong, lengths, pictures, and samples as the model sees them.

One self-contained file: its only script filters what the page holds, and nothing is fetched.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finesight.core.view import Piece, Shown, View
from finesight.reports.page import data_url, fill, stylesheet
from finesight.reports.words import count, decimal, listed, named, percent, sentence

RANKS = ("p1", "p5", "p25", "p50", "p75", "p95", "p99", "max")
"""Columns of a table of lengths."""
MOST_PIECES = 1500
"""Tokens of a sample that the page shows."""
MOST_CHARACTERS = 4000
"""Characters of a turn that the page shows."""
_BLANKS = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})
"""Characters that would not be seen at the edge of a token, and what stands for them."""


def render(summary: Mapping[str, Any], views: Sequence[View]) -> str:
    """The page of `summary.json`'s content and the views of some samples and faulty rows.

    Pictures are those that the views carry.
    """
    script = (Path(__file__).parent / "samples.js").read_text(encoding="utf-8")
    tags = sorted({f"{name}: {value}" for view in views for name, value in view.tags})
    return fill(
        "samples.html.j2",
        stylesheet("samples.css"),
        {
            "name": str(summary["name"]),
            "headline": headline(summary),
            "deck": " ".join(deck(summary)),
            "kinds": summary["fault_kinds"],
            "faults": summary["faults"],
            "stops": summary["stops"],
            "twice": twice(summary),
            "notices": summary["notices"],
            "lengths": _lengths(summary),
            "ranks": RANKS,
            "pictures": _pictures(summary),
            "cards": [_card(view) for view in views],
            "splits": list(dict.fromkeys(view.split for view in views)),
            "tags": tags,
            "whole": summary["samples"] + summary["faults"],
            "script": script,
        },
    )


def headline(summary: Mapping[str, Any]) -> str:
    """The most important thing in one sentence."""
    rows, faults = summary["rows"], summary["faults"]
    if not rows:
        return "There is no row to learn from."
    if faults == rows:
        return "No row can be used."
    if faults:
        return f"{count(faults)} of {count(rows)} rows cannot be used."
    return f"All {count(rows)} rows can be used." if rows > 1 else "The row can be used."


def deck(summary: Mapping[str, Any]) -> list[str]:
    """What was read, how long the samples are, and how much of them is learned from, as sentences."""
    read, tokens = summary["read"], summary["tokens"]
    said = []
    if read["of"] is None:
        said.append(f"Read were the first {count(read['rows'])} rows of a stream: others may hold faults.")
    elif read["rows"] < read["of"]:
        said.append(
            f"Read were {count(read['rows'])} of {count(read['of'])} rows, evenly spread: the others may hold faults."
        )
    if summary["left_out"]:
        said.append(f"The recipe’s where leaves {count(summary['left_out'], 'row')} out.")
    if summary["shortened"]:
        said.append(
            f"{count(summary['shortened'], 'sample')} too long for the model lost a part, as the recipe says."
        )
    if tokens:
        said.append(
            f"Half of the samples have at most {count(tokens['p50'], 'token')}, the longest {count(tokens['max'])} "
            f"of the {count(summary['context'])} that the model takes."
        )
        said.append(f"{percent(summary['supervised_share'])} of the tokens are learned from.")
    return said


def twice(summary: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """What comes twice, as sentences; each with whether it is a leak from one split into another."""
    told = [_repeated(where, number) for where, number in summary["duplicates"].items()]
    told += [_looks_the_same(where, number) for where, number in summary["near_pictures"].items()]
    found = [sentence for sentence in told if sentence[0]]
    if any(leak for _, leak in found):
        cure = "Name a column as the source’s group: what belongs together then stays in one split."
        found.append((cure, False))
    return found


def _repeated(where: str, number: int) -> tuple[str, bool]:
    one, _, other = where.partition("/")
    verb = ("is" if number == 1 else "are") if other else ("repeats" if number == 1 else "repeat")
    rest = f"in {named(other)} too" if other else "one before"
    return f"{count(number, 'sample')} of {named(one)} {verb} {rest}, word for word." if number else "", bool(
        other
    )


def _looks_the_same(where: str, number: int) -> tuple[str, bool]:
    one, _, other = where.partition("/")
    verb, rest = "looks" if number == 1 else "look", f"in {named(other)}" if other else "before"
    said = f"{count(number, 'picture')} of {named(one)} {verb} the same as one {rest}."
    return said if number else "", bool(other)


def _lengths(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a split: percentiles of tokens, and bars of the lengths (heights in percent of the highest)."""
    rows = []
    for name, part in summary["splits"].items():
        tokens = part["tokens"]
        if not tokens:
            continue
        bars = part["lengths"]
        highest = max(bars["counts"])
        rows.append(
            {
                "name": name,
                "samples": part["samples"],
                "cells": [count(tokens[rank]) for rank in RANKS],
                "share": percent(part["supervised_share"]),
                "bars": [round(100 * number / highest, 1) for number in bars["counts"]],
                "low": count(bars["edges"][0]),
                "high": count(bars["edges"][-1]),
            }
        )
    return rows


def _pictures(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """A row a split: how many, widths, heights and width to height, each from the least over the middle to the most."""
    rows = []
    for name, part in summary["splits"].items():
        pictures = part["pictures"]
        if pictures["count"]:
            cells = [_range(pictures[what]) for what in ("width", "height", "aspect")]
            rows.append((name, [count(pictures["count"]), *cells]))
    return rows


def _range(values: Mapping[str, float]) -> str:
    if values["min"] == values["max"]:
        return decimal(values["min"])
    return " · ".join(decimal(values[rank]) for rank in ("min", "p50", "max"))


def _card(view: View) -> dict[str, Any]:
    """What the template needs of a view."""
    state = "faulty" if view.fault else "twice" if view.alike else "fine"
    facts = [
        f"{count(view.tokens, 'token')}, {count(view.supervised)} learned" if view.pieces else "",
        f"{count(view.visual)} for pictures" if view.visual else "",
    ]
    answers = [part for role, parts in view.turns if role == "assistant" for part in parts]
    others = [text for text in view.references if text not in answers]
    return {
        "view": view,
        "state": state,
        "title": f"{sentence(named(view.split))} {count(view.number)}"
        if view.number
        else sentence(named(view.split)),
        "origin": f"{view.file.split('/')[-1]}, row {view.row}",
        "facts": ", ".join(fact for fact in facts if fact),
        "references": listed(others) if others else "",
        "pictures": [*_figures(view)],
        "turns": [(role, _text(parts)) for role, parts in view.turns],
        "pieces": [_piece(piece) for piece in view.pieces[:MOST_PIECES]],
        "more": sum(piece.count for piece in view.pieces[MOST_PIECES:]),
    }


def _text(parts: Sequence[str | None]) -> list[str | None]:
    """The parts of a turn, no more of them than a page can hold."""
    left, shown = MOST_CHARACTERS, list[str | None]()
    for part in parts:
        if part is not None and len(part) > left:
            shown.append(f"{part[:left]} … and {count(len(part) - left, 'character')} more")
            break
        shown.append(part)
        left -= len(part or "")
    return shown


def _figures(view: View) -> list[tuple[str, str, str]]:
    """Data URL, kind and caption of each picture: as it is, and beside it as the model gets it."""
    found = []
    several = len(view.originals) > 1
    for number, (before, after) in enumerate(zip(view.originals, view.fed, strict=True), 1):
        which = f"{number}: " if several else ""
        found.append((data_url(before.data), "original", f"{which}as it is, {_size(before)}"))
        found.append((data_url(after.data), "fed", f"{which}as the model gets it, {_size(after)}"))
    return found


def _size(picture: Shown) -> str:
    return f"{picture.width} × {picture.height}"


_MARKS = {"word": "", "control": "c", "picture": "p", "sound": "p"}


def _piece(piece: Piece) -> dict[str, Any]:
    """What the template needs of a token: its classes tell whether it is learned from (`y`) and of what kind it is."""
    return {
        "text": visible(piece),
        "id": piece.id,
        "mark": f"{'y' if piece.learned else ''} {_MARKS[piece.kind]}".strip(),
        "target": None if piece.target is None else visible(piece.target),
        "count": piece.count,
    }


def visible(piece: Piece | str) -> str:
    """The text of a token with its blanks to be seen, and how often it stands there."""
    if isinstance(piece, str):
        return piece.translate(_BLANKS)
    return piece.text.translate(_BLANKS) + (f"×{piece.count}" if piece.count > 1 else "")
