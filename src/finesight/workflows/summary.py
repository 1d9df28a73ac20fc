"""The summary of an inspection as plain values: what `summary.json`, `faults.csv` and `twice.csv` hold."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from finesight.config.data import Data
from finesight.core.errors import DataError
from finesight.core.formats import FORMATS
from finesight.data.inspection.distributions import picture_figures, token_figures
from finesight.data.inspection.leaks import Twice
from finesight.data.inspection.survey import Bad, joined
from finesight.data.inspection.surveys import Surveyed

FAULT_COLUMNS = ("file", "row", "column", "reason")
TWICE_COLUMNS = ("kind", "split", "file", "row", "other_split", "other_file", "other_row")
MOST_KINDS = 50
"""Kinds of faults that the summary tells apart; `faults.csv` has every row."""

FaultRow = tuple[str, int, str, str]

_OWN = re.compile(r"`[^`]*`|'[^']*'|\"[^\"]*\"|(?<![\w.])/\S+|\d[\d,.]*")
"""What belongs to one row alone in the reason of a fault: quoted text, paths and numbers."""


def summarise(
    name: str, parts: Mapping[str, Surveyed], twice: Sequence[Twice], context: int
) -> dict[str, Any]:
    """What `summary.json` holds but the policy and the notices.

    `rows` are those that the recipe wants, `left_out` those that it does not: in the whole as in each split, rows are
    samples and faults. A faulty row that several splits read is one in the whole.
    """
    faults = fault_rows(parts.values())
    samples, counts = sum(map(len, parts.values())), [part.of for part in parts.values()]
    return {
        "format": FORMATS["inspection"],
        "name": name,
        "read": {
            "rows": sum(part.read for part in parts.values()),
            "of": None if None in counts else sum(filter(None, counts)),
        },
        "rows": samples + len(faults),
        "samples": samples,
        "faults": len(faults),
        "shortened": len(long_rows(parts.values())),
        "left_out": sum(part.left_out for part in parts.values()),
        "context": context,
        **_figures(list(parts.values())),
        "duplicates": {found.where: len(found) for found in twice if found.kind == "sample"},
        "near_pictures": {found.where: len(found) for found in twice if found.kind == "picture"},
        "fault_kinds": _kinds(faults),
        "splits": {name: _split(part) for name, part in parts.items()},
    }


def _split(part: Surveyed) -> dict[str, Any]:
    faults = len(fault_rows([part]))
    counts = {"rows": len(part) + faults, "samples": len(part), "faults": faults}
    return counts | {"shortened": len(part.long), "left_out": part.left_out} | _figures([part])


def _figures(parts: Sequence[Surveyed]) -> dict[str, Any]:
    tokens = np.concatenate([part.tokens for part in parts])
    supervised = np.concatenate([part.supervised for part in parts])
    survey = parts[0].survey if len(parts) == 1 else joined(part.survey for part in parts)
    return {**token_figures(tokens, supervised), "pictures": picture_figures(survey)}


def fault_rows(parts: Iterable[Surveyed]) -> list[FaultRow]:
    """Lines of `faults.csv`: every row that cannot be used, once."""
    return _lines(bad for part in parts for bad in part.bad)


def long_rows(parts: Iterable[Surveyed]) -> list[FaultRow]:
    """Lines of `faults.csv` about rows that are used, shorter than they were."""
    return _lines(long for part in parts for long in part.long)


def _lines(rows: Iterable[Bad]) -> list[FaultRow]:
    return list(dict.fromkeys((bad.file, bad.line, bad.column, bad.reason) for bad in rows))


def kind_of(reason: str) -> str:
    """The reason of a fault without what belongs to one row alone."""
    return _OWN.sub("…", reason)


def _kinds(faults: Sequence[FaultRow]) -> list[dict[str, Any]]:
    """Faults of one kind together, the commonest first, each with its first row."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file, row, column, reason in faults:
        kind = kind_of(reason)
        first = {"kind": kind, "column": column, "count": 0, "file": file, "row": row, "reason": reason}
        found.setdefault((column, kind), first)["count"] += 1
    return sorted(found.values(), key=lambda kind: -kind["count"])[:MOST_KINDS]


def twice_rows(parts: Mapping[str, Surveyed], twice: Sequence[Twice]) -> Iterator[tuple[object, ...]]:
    """Lines of `twice.csv`: each sample or picture that comes twice, and where it stands the first time."""
    for found in twice:
        for at, partner in zip(found.samples.tolist(), found.partners.tolist(), strict=True):
            one, other = origin(parts[found.one], at), origin(parts[found.other], partner)
            yield found.kind, found.one, *one, found.other, *other


def origin(part: Surveyed, index: int) -> tuple[str, int]:
    """File and row of a sample."""
    source, row = part.opened(index)
    place = source.reader.origin(row)
    return place.file, place.row


def verdict(data: Data, parts: Mapping[str, Surveyed]) -> DataError | None:
    """What would stop training: faulty rows where the policy says so, too many of them, or a split without samples."""
    faults = _lines(bad for part in parts.values() for bad in part.bad if not bad.wished)
    first = "; ".join(f"{file}, row {row}: {reason}" for file, row, _, reason in faults[:5])
    first += f"; and {len(faults) - 5:,} more" if len(faults) > 5 else ""
    empty = [f"data.{name}" for name, part in parts.items() if not len(part)]
    if empty:
        what = f"no rows are left for `{', '.join(empty)}`"
        return DataError(what, first or "its `where`", "mend the rows, or check the source")
    if faults and data.on_bad_row == "stop":
        rows = "1 row" if len(faults) == 1 else f"{len(faults):,} rows"
        mend = "mend the rows, or set `data.on_bad_row: skip` to leave them out"
        return DataError(f"{rows} cannot be used, and training would stop", first, mend)
    if data.bad_row_limit is not None and len(faults) > data.bad_row_limit:
        what = f"more than {data.bad_row_limit} rows are bad: {len(faults):,}, and training would stop"
        return DataError(what, first, "mend the rows, or raise `data.bad_row_limit`")
    return None
