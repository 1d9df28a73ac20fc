"""Facts about a row from a second table, joined by a key.

In memory are the hashes of the keys and the numbers of their rows (16 bytes a key); a fact is read when a row asks for
it. Keys are compared as text, without the blanks at their ends.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from finesight.config.sources import Knowledge
from finesight.core.errors import DataError, Fault
from finesight.data.shapes.columns import names_of
from finesight.data.shapes.values import Cells, as_text, cell, matches
from finesight.data.sources import Reader, open_table

_UTF8 = "a table of Windows' or Latin letters, such as SemArt's, is read with `knowledge.encoding: cp1252`"


@dataclass(frozen=True)
class Facts:
    """The facts of one source's rows. `columns` may be put into its prompt, `said` are notices."""

    knowledge: Knowledge
    table: Reader
    columns: tuple[str, ...]
    said: tuple[tuple[str, str], ...]
    _hashes: np.ndarray
    _rows: np.ndarray

    def of(self, cells: Cells) -> Mapping[str, str]:
        """Texts by column under the rules for words; empty ones for a row that `when` leaves out.

        Raises DataError for a row that asks for facts that the table does not have.
        """
        if not matches(cells.values, self.knowledge.when, cells.origin):
            return dict.fromkeys(self.columns, "")
        column = self.knowledge.row_key or self.knowledge.key
        key = cells.plain(column).strip()
        row = self._row(key)
        if row is None:
            what = (
                f"`{key}` is not in {self.table.file}" if key else "the key to the knowledge table is empty"
            )
            mend = f"add a row with this `{self.knowledge.key}` there, or leave rows out by `knowledge.when`"
            raise DataError(what, cells.where(column), mend, column)
        values = self.table.row(row, self.columns)
        cells.count("knowledge", f"{self.table.file}: facts put into questions")
        there = Cells(values, self.table.origin(row), cells.rules, cells.counts)
        return {name: there.words(name) for name in self.columns}

    def _row(self, key: str) -> int | None:
        """Number of the row (from 0) that has this key."""
        code = _hash(key)
        at = int(np.searchsorted(self._hashes, code))
        while at < len(self._hashes) and self._hashes[at] == code:
            row = int(self._rows[at])
            if _key(self.table, row, self.knowledge.key) == key:
                return row
            at += 1
        return None


def open_facts(knowledge: Knowledge, row_columns: Collection[str], used: Collection[str]) -> Facts:
    """Open the table and index its keys; raises DataError, as `facts_of` does."""
    return facts_of(open_table(knowledge.path, None, knowledge), knowledge, row_columns, used)


def facts_of(
    table: Reader, knowledge: Knowledge, row_columns: Collection[str], used: Collection[str]
) -> Facts:
    """Index the keys of an open table, whose columns the recipe has `used`.

    Raises DataError for missing columns, columns that the rows have too, unreadable rows, a key that comes twice, and
    where nothing of the table is used.
    """
    faults = [
        Fault(
            f"there is no column `{name}`",
            f"{table.file}, `knowledge.{role}`",
            f"it has {names_of(table.columns)}",
        )
        for role, names in (("key", (knowledge.key,)), ("columns", knowledge.columns))
        for name in names
        if name not in table.columns
    ]
    columns = knowledge.columns or tuple(name for name in table.columns if name != knowledge.key)
    both = [name for name in columns if name in row_columns]
    if both:
        verb = "are columns" if len(both) > 1 else "is a column"
        what = f"{names_of(both)} of the knowledge table {verb} of the rows, too"
        mend = "name the columns that you want in `knowledge.columns`, or rename one of the two"
        faults.append(Fault(what, f"{table.file}, `knowledge.columns`", mend))
    wanted = tuple(name for name in columns if name in used)
    if not wanted and not faults:
        mend = f"put one into the `prompt` by `{{name}}`; it has {names_of(columns)}"
        faults.append(Fault("no column of the knowledge table is used", f"{table.file}, `knowledge`", mend))
    if faults:
        raise DataError.of(faults)
    hashes, rows, blank = _index(table, knowledge.key, wanted)
    said = (("knowledge", f"{table.file}: {blank} rows have no `{knowledge.key}`"),) if blank else ()
    return Facts(knowledge, table, wanted, (*table.notes, *said), hashes, rows)


def _index(table: Reader, column: str, wanted: Collection[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Hashes of the keys in order, the row of each, and how many rows have no key; what is wanted is read once."""
    hashes = np.zeros(len(table), np.uint64)
    kept = np.zeros(len(table), bool)
    bad, first = 0, None
    for row in range(len(table)):
        try:
            values, where = table.row(row, (column, *wanted)), str(table.origin(row))
            for name in wanted:
                as_text(cell(values, name), f"{where}, column `{name}`", name)
            key = as_text(cell(values, column), f"{where}, column `{column}`", column).strip()
        except DataError as error:
            bad, first = bad + 1, first or error
            continue
        if key:
            hashes[row], kept[row] = _hash(key), True
    if first is not None:
        raise _unreadable(first, bad, table)
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    hashes = hashes[rows]
    _check_twice(table, column, hashes, rows)
    return hashes, rows, len(table) - len(rows)


def _check_twice(table: Reader, column: str, hashes: np.ndarray, rows: np.ndarray) -> None:
    """Raise DataError where two rows have the same key; equal hashes alone are no proof of that."""
    alike = np.flatnonzero(hashes[1:] == hashes[:-1])
    seen: dict[str, int] = {}
    for row in rows[np.union1d(alike, alike + 1)].tolist():
        key = _key(table, row, column)
        if key in seen:
            one, other = table.origin(seen[key]), table.origin(row)
            what = f"the key `{key}` is that of row {one.row} and of row {other.row}"
            mend = "leave one of the rows, or choose a key of which each value comes once"
            raise DataError(what, f"{table.file}, column `{column}`", mend, column)
        seen[key] = row


def _unreadable(error: DataError, bad: int, table: Reader) -> DataError:
    first = error.faults[0]
    more = f" (and so are {bad - 1} more of {len(table)})" if bad > 1 else ""
    mend = f"{first.mend}; {_UTF8}" if "UTF-8" in first.what else first.mend
    return DataError(f"a row of the knowledge table cannot be read: {first.what}{more}", first.where, mend)


def _key(table: Reader, row: int, column: str) -> str:
    where = f"{table.origin(row)}, column `{column}`"
    return as_text(cell(table.row(row, (column,)), column), where, column).strip()


def _hash(key: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little"))
