"""The number of each file format that finesight writes, and the one check of what it reads. docs/formats.md says more.

A number is raised where a reader of the old form would go wrong; files of the old form are then still read, or the
error names their migration. Caches have numbers of their own, and are made anew where those differ.
"""

from typing import Final, Literal

from finesight.core.errors import FinesightError

Kind = Literal[
    "recipe",
    "run",
    "checkpoint",
    "predictions",
    "results",
    "plan",
    "inspection",
    "tensors",
    "adapter",
    "composed",
    "shards",
]

FORMATS: Final[dict[Kind, int]] = {
    "recipe": 1,
    "run": 1,
    "checkpoint": 1,
    "predictions": 1,
    "results": 1,
    "plan": 1,
    "inspection": 1,
    "tensors": 1,
    "adapter": 1,
    "composed": 1,
    "shards": 1,
}
"""What is written now. A file without a number of its own goes by that of its run, or of the folder it lies in."""


def check_format(
    kind: Kind, written: object, where: str, error: type[FinesightError], *, others: bool = False
) -> None:
    """Raise `error` for what a newer finesight wrote, and for what says no number though finesight always writes one.

    With `others`, people and other programs write such files, too: there, no number is 1, and what is no number is
    something of theirs.
    """
    known = FORMATS[kind]
    if type(written) is int and written > known:
        raise error(
            f"this is format {written} of `{kind}`, and this finesight reads formats up to {known}",
            where,
            "it was made by a newer finesight: update finesight",
        )
    if not others and not (type(written) is int and written > 0):
        told = "it does not say" if written is None else f"`format: {written!r}` does not say"
        raise error(
            f"{told} of which format of `{kind}` it is", where, "put back the file that finesight wrote"
        )
