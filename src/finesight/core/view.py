"""One sample as the model sees it: what `inspect` makes, and pages and the screen show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SOUND = "[sound] "
"""Stands for a sound among the words of a turn."""


@dataclass(frozen=True)
class Piece:
    """A token, or a run of equal placeholders that stand for one picture, or for sounds.

    `learned` tells whether the model learns to say it; `target` is what it must say next, where that is learned.
    """

    text: str
    id: int
    kind: Literal["word", "control", "picture", "sound"] = "word"
    learned: bool = False
    target: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Shown:
    """A picture to be shown: the bytes of a small PNG or JPEG file, and the size in pixels of what it shows."""

    data: bytes = field(repr=False)
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """A sample, or what could be read of a row that cannot be used; `fault` then says why.

    `number` counts the samples of its split from 1; it is 0 for a faulty row. `turns` are roles with their parts, None
    where a picture stands, and SOUND where a sound does. `originals` are the pictures as their files have them
    (upright, on white), `fed` what the model gets: before the normalisation, which moves levels and no pixel. `alike`
    names what it comes twice with.
    """

    split: str
    number: int
    id: str
    file: str
    row: int
    turns: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    pieces: tuple[Piece, ...] = ()
    originals: tuple[Shown, ...] = ()
    fed: tuple[Shown, ...] = ()
    notes: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    group: str = ""
    fault: str = ""
    column: str = ""
    kind: str = ""
    alike: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return sum(piece.count for piece in self.pieces)

    @property
    def supervised(self) -> int:
        """Tokens that are learned from."""
        return sum(piece.count for piece in self.pieces if piece.learned)

    @property
    def visual(self) -> int:
        """Tokens that stand for pictures."""
        return sum(piece.count for piece in self.pieces if piece.kind == "picture")

    def document(self) -> Mapping[str, Any]:
        """The view as JSON knows it, without its pixels."""
        fed = {"fed": [[after.width, after.height] for after in self.fed]} if self.fed else {}
        return {
            "split": self.split,
            "number": self.number,
            "id": self.id,
            "origin": {"file": self.file, "row": self.row},
            "turns": [{"role": role, "parts": list(parts)} for role, parts in self.turns],
            "tokens": self.tokens,
            "supervised_tokens": self.supervised,
            "visual_tokens": self.visual,
            "pieces": [vars(piece) for piece in self.pieces],
            "pictures": [[before.width, before.height] for before in self.originals],
            **fed,
            "references": list(self.references),
            "tags": dict(self.tags),
            "group": self.group,
        }
