"""Errors that a person can cause, each in three parts: what is wrong, where, how to mend it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `where` names a file, row, column or recipe key; `mend` says what to do."""

    what: str
    where: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  mend:  {self.mend}"


class FinesightError(Exception):
    """Base of all errors that are the person's to mend. Carries one or more faults and an exit status."""

    exit_status = 2

    def __init__(self, what: str, where: str, mend: str) -> None:
        self.faults: tuple[Fault, ...] = (Fault(what, where, mend),)
        super().__init__(what, where, mend)

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> "FinesightError":
        """One error out of many faults, so that all are told at once."""
        first = faults[0]
        error = cls(first.what, first.where, first.mend)
        error.faults = tuple(faults)
        return error

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        numbered = (f"{number}. {fault}" for number, fault in enumerate(self.faults, 1))
        return f"{len(self.faults)} things are wrong:\n" + "\n".join(numbered)


class RecipeError(FinesightError):
    """A recipe or an override that cannot be used as it stands."""


class DataError(FinesightError):
    """A file, row, column or picture that cannot be learned from. `column` names the column where one is to blame."""

    def __init__(self, what: str, where: str, mend: str, column: str = "") -> None:
        super().__init__(what, where, mend)
        self.column = column


class ModelError(FinesightError):
    """A model that cannot be built, loaded or used as asked."""


class RunError(FinesightError):
    """A run directory that cannot be written, continued or read."""


class TrainingError(FinesightError):
    """Training that cannot go on, such as a loss that is no number."""


class WorkerError(FinesightError):
    """A process beside the run that was ended, does not answer, or met what nobody foresaw."""

    exit_status = 1


class Interrupted(FinesightError):
    """Stopped from outside after everything was saved; the run can be resumed."""

    exit_status = 75
