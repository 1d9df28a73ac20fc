"""What `finesight inspect` shows on the screen: samples, tables of what was found, and where the files are."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from rich.text import Text

from finesight.cli.common import console, print_table
from finesight.core.view import Piece, Shown, View
from finesight.reports.samples import deck, headline, twice, visible
from finesight.reports.words import count, decimal, percent

if TYPE_CHECKING:
    from finesight.workflows.inspect import Inspection

_MOST_KINDS = 12
_MOST_PIECES = 600
"""Tokens of a sample on the screen."""
_MOST_POSITIONS = 48
"""Rows of a table of positions."""
_SIDE = 28
"""Columns of a picture on the screen; a character shows two pixels, one above the other."""
_HALF = "▀"
_STYLES = {"word": "", "control": "dim italic", "picture": "yellow", "sound": "yellow"}
_LEARNED = "bold green"
_RANKS = ("p50", "p95", "max")


def print_inspection(found: "Inspection") -> None:
    """All of it: samples first, so that what matters stands last, above the next command."""
    for view in found.views:
        _print_view(view)
    if found.table is not None:
        _print_tensors(found)
    _print_splits(found.summary)
    _print_faults(found.summary)
    for text, _ in twice(found.summary):
        print(f"Twice:  {text}")
    print(f"Rows:   {headline(found.summary)} {' '.join(deck(found.summary))}")
    for name, path in found.files.items():
        print(f"{name.capitalize() + ':':<9}{path}")


def _print_view(view: View) -> None:
    screen = console()
    place = f"{view.split} {view.number:,}  {view.id}  {view.file}, row {view.row}"
    screen.rule(Text(place), align="left", style="dim")
    if screen.is_terminal and screen.color_system is not None:
        for before, after in zip(view.originals, view.fed, strict=True):
            for line in _side_by_side(before, after):
                screen.print(line)
    for before, after in zip(view.originals, view.fed, strict=True):
        screen.print(Text(f"picture   {_size(before)} → {_size(after)} as the model gets it", style="dim"))
    for role, parts in view.turns:
        words = "".join("[picture] " if part is None else part for part in parts)
        screen.print(Text.assemble((f"{role:<10}", "dim"), words))
    for name, values in (
        (
            "also right",
            [text for text in view.references if (text,) not in [parts for _, parts in view.turns]],
        ),
        ("tags", [f"{key}: {value}" for key, value in view.tags]),
        ("group", [view.group] if view.group else []),
        ("twice", view.alike),
        ("note", view.notes),
    ):
        if values:
            screen.print(Text.assemble((f"{name:<10}", "dim"), ", ".join(values)))
    screen.print(_tokens(view.pieces))
    visual = f", {view.visual:,} for pictures" if view.visual else ""
    screen.print(
        Text(f"{view.tokens:,} tokens{visual}, {view.supervised:,} learned: those in ⟦ ⟧\n", style="dim")
    )


def _tokens(pieces: Sequence[Piece]) -> Text:
    """The tokens with blanks between, those that are learned from in brackets, which stay where there is no colour."""
    text, before = Text.assemble(("tokens    ", "dim")), False
    for number, piece in enumerate(pieces[:_MOST_PIECES]):
        if before and not piece.learned:
            text.append("⟧", _LEARNED)
        text.append(" " if number else "")
        if piece.learned and not before:
            text.append("⟦", _LEARNED)
        text.append(visible(piece), _LEARNED if piece.learned else _STYLES[piece.kind])
        before = piece.learned
    text.append("⟧" if before else "", _LEARNED)
    if len(pieces) > _MOST_PIECES:
        text.append(f" … and {len(pieces) - _MOST_PIECES:,} more", "dim")
    return text


def _side_by_side(before: Shown, after: Shown) -> Iterator[Text]:
    """Two pictures in half blocks of two colours."""
    one, two = _blocks(before), _blocks(after)
    width = max(map(len, one))
    for number in range(max(len(one), len(two))):
        line = one[number] if number < len(one) else Text()
        line.append(" " * (width - len(line) + 2))
        yield line.append_text(two[number] if number < len(two) else Text())


def _blocks(picture: Shown) -> list[Text]:
    from PIL import Image

    with Image.open(BytesIO(picture.data)) as file:
        image = file.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    width, height = image.size
    levels = image.load()
    assert levels is not None
    lines = []
    for y in range(0, height, 2):
        line = Text()
        for x in range(width):
            upper: Any = levels[x, y]
            lower: Any = levels[x, y + 1] if y + 1 < height else (0, 0, 0)
            line.append(_HALF, "#{:02x}{:02x}{:02x} on #{:02x}{:02x}{:02x}".format(*upper, *lower))
        lines.append(line)
    return lines


def _size(picture: Shown) -> str:
    return f"{picture.width} × {picture.height}"


def _print_tensors(found: "Inspection") -> None:
    """The tensors, and for each sample a table of positions: token, what it reads, its target."""
    table = found.table
    assert table is not None
    rows = [
        [
            name,
            " × ".join(map(str, tensor.shape)),
            str(tensor.dtype),
            decimal(tensor.min()),
            decimal(tensor.max()),
        ]
        for name, tensor in table.tensors.items()
    ]
    sides = {"tensor": "left", "shape": "right", "kind": "left", "least": "right", "most": "right"}
    print_table("What the model is fed", sides, rows)
    sides = {
        "position": "right",
        "token": "right",
        "reads": "left",
        "target reads": "left",
        "learned": "left",
    }
    for view in found.views:
        print_table(f"{view.split} {view.number:,}  {view.id}", sides, list(_positions(view)))


def _positions(view: View) -> Iterator[list[str]]:
    at = 0
    for piece in view.pieces[:_MOST_POSITIONS]:
        where = str(at) if piece.count == 1 else f"{at}–{at + piece.count - 1}"
        target = "" if piece.target is None else visible(piece.target)
        yield [where, str(piece.id), visible(piece), target, "yes" if piece.learned else ""]
        at += piece.count
    if len(view.pieces) > _MOST_POSITIONS:
        yield ["…", "", f"{view.tokens - at:,} more", "", ""]


def _print_splits(summary: Mapping[str, Any]) -> None:
    sides = dict.fromkeys(
        ("samples", "faulty", "tokens p50", "p95", "max", "learned", "pictures", "sizes"), "right"
    )
    rows = []
    for name, part in summary["splits"].items():
        tokens, pictures = part["tokens"], part["pictures"]
        lengths = [count(tokens[rank]) if tokens else "–" for rank in _RANKS]
        sizes = "–"
        if pictures["count"]:
            sizes = " to ".join(
                f"{pictures['width'][rank]} × {pictures['height'][rank]}" for rank in ("min", "max")
            )
        share = percent(part["supervised_share"]) if tokens else "–"
        counted = [count(part["samples"]), count(part["faults"])]
        rows.append([name, *counted, *lengths, share, count(pictures["count"]), sizes])
    print_table("Splits", {"split": "left", **sides}, rows)


def _print_faults(summary: Mapping[str, Any]) -> None:
    kinds = summary["fault_kinds"]
    if not kinds:
        return
    rows = [
        [count(kind["count"]), kind["reason"], kind["column"], f"{kind['file']}, row {kind['row']}"]
        for kind in kinds[:_MOST_KINDS]
    ]
    left = sum(kind["count"] for kind in kinds[_MOST_KINDS:])
    if left:
        rows.append([count(left), "others", "", ""])
    print_table("Faults", {"rows": "right", "the first one": "left", "column": "left", "where": "left"}, rows)
