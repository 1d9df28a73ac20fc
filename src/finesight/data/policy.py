"""What happens with rows that cannot be used."""

from collections.abc import Iterable
from dataclasses import dataclass

from finesight.config.data import Data
from finesight.core.errors import DataError


@dataclass(frozen=True)
class RowFault:
    """A row that cannot be used; a line of `faults.csv`."""

    file: str
    row: int
    column: str
    reason: str


class Policy:
    """What a bad row does: stop (the default), or be left out, counted and listed, up to a limit."""

    def __init__(self, data: Data) -> None:
        self._skip, self._limit = data.on_bad_row == "skip", data.bad_row_limit
        self._faults: dict[RowFault, None] = {}
        self._long: dict[RowFault, None] = {}

    @property
    def faults(self) -> list[RowFault]:
        """The bad rows so far; one that two splits read is one."""
        return list(self._faults)

    @property
    def long(self) -> list[RowFault]:
        """The rows that are left out or cut because they are too long."""
        return list(self._long)

    def recall(self, bad: Iterable[RowFault], long: Iterable[RowFault]) -> None:
        """Know what an earlier part of the run has met."""
        self._faults |= dict.fromkeys(bad)
        self._long |= dict.fromkeys(long)

    @property
    def listed(self) -> list[RowFault]:
        """What `faults.csv` lists: the bad rows, then those that were too long, as `data.on_long` has it."""
        return [*self._faults, *self._long]

    def bad_row(self, file: str, row: int, error: DataError) -> None:
        """Record a bad row, or raise where the recipe says so."""
        self._faults[RowFault(file, row, error.column, error.faults[0].what)] = None
        if not self._skip:
            raise error
        if self._limit is not None and len(self._faults) > self._limit:
            raise DataError(
                f"more than {self._limit} rows are bad",
                self.examples(),
                "mend the rows, or raise `data.bad_row_limit`",
            )

    def long_row(self, file: str, row: int, what: str) -> None:
        """List a row that is left out or cut because it is too long: the recipe wants it so, and no limit counts it."""
        self._long[RowFault(file, row, "", what)] = None

    def examples(self) -> str:
        """The first few bad rows, for a message."""
        return "; ".join(f"{fault.file}, row {fault.row}: {fault.reason}" for fault in self.faults[:5])
