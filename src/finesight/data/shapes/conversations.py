"""From the turns of a row to messages: pictures and sounds in their places, words under the rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from finesight.config.sources import Source
from finesight.core.errors import DataError
from finesight.core.sample import Message, Part, Text
from finesight.data.shapes.columns import Layout
from finesight.data.shapes.media import Kind, Media, listed
from finesight.data.shapes.turns import TAGS, Place, Turn, read_turns
from finesight.data.shapes.values import Cells, cell

_LLAVA = "read the file by `source: llava`, where `<image>` is the place of a picture"


@dataclass(frozen=True)
class Conversations:
    """Reads whole conversations of one source."""

    source: Source
    layout: Layout
    media: Media

    def messages(self, cells: Cells, columns: Sequence[str], read: bool) -> tuple[Message, ...]:
        """The messages of the turns in these columns, in order; pictures are empty unless they are to be `read`.

        Only the answers in the last column are learned from: TRL's `prompt` stands before its `completion`.
        """
        turns: list[Turn] = []
        for column in columns:
            turns += self._turns(cells, column, learn=column == columns[-1])
        _check_order(turns, cells.where(columns[0]), columns[0])
        for key in (key for turn in turns for key in turn.unused):
            cells.count("unused", f"{self._file(cells)}: key `{key}` of turns is not read")
        for kind in ("picture", "sound"):
            turns = self._placed(kind, turns, cells, columns[0])
        self._check_pictures(turns, cells, columns[0])
        made = [Message(turn.role, self._parts(turn, cells, columns[0], read), turn.learn) for turn in turns]
        return (*self.system(cells, made), *made)

    def _turns(self, cells: Cells, column: str, learn: bool) -> list[Turn]:
        kinds: set[Kind] = {"picture", "sound"} if self.layout.columns.audio else {"picture"}
        everywhere = self.source.source == "llava"
        found = read_turns(
            cell(cells.values, column), cells.where(column), column, frozenset(kinds), everywhere
        )
        return found if learn else [replace(turn, learn=turn.role != "assistant") for turn in found]

    def _file(self, cells: Cells) -> str:
        return cells.origin.file

    def system(self, cells: Cells, made: Sequence[Message] = ()) -> Iterator[Message]:
        """The turn of the system where the conversation has none: the row's own, else the recipe's."""
        if made and made[0].role == "system":
            return
        column = self.layout.columns.system
        text = cells.words(column) if column else ""
        text = text if text.strip() else self.source.system or ""
        if text:
            yield Message("system", (Text(text),))

    def _placed(self, kind: Kind, turns: list[Turn], cells: Cells, column: str) -> list[Turn]:
        """The turns with what the row holds beside them put into its places."""
        beside = self.layout.columns.image if kind == "picture" else self.layout.columns.audio
        where = cells.where(beside or column)
        held = listed(cell(cells.values, beside), kind, where, beside) if beside else []
        places = [
            part for turn in turns for part in turn.parts if isinstance(part, Place) and part.open(kind)
        ]
        if places:
            numbers = _numbers(places, len(held))
            if numbers is None:
                raise self._mismatch(kind, len(places), len(held), turns, where, beside or column)
            filling = iter([held[number] for number in numbers])
            return [turn.filled(kind, filling) for turn in turns]
        if not held:
            return turns
        if kind == "picture":
            if self.source.source == "llava" or any(turn.tagged for turn in turns):
                raise self._mismatch(kind, 0, len(held), turns, where, beside or column)
            if any(TAGS[kind] in part for turn in turns for part in turn.parts if isinstance(part, str)):
                what = "the words hold `<image>`, which is the place of a picture in LLaVA's turns alone"
                raise DataError(
                    what, cells.where(column), f'{_LLAVA}; or write {{"type": "image"}} parts', column
                )
        cells.count("place", f"{self._file(cells)}: {kind}s without a place stand before the first question")
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        own = tuple(Place(kind, item) for item in held)
        begin = turns[first].leading(("picture",) if kind == "sound" else ())
        parts = turns[first].parts
        turns[first] = replace(turns[first], parts=(*parts[:begin], *own, *parts[begin:]))
        return turns

    def _mismatch(
        self, kind: Kind, places: int, held: int, turns: Sequence[Turn], where: str, column: str
    ) -> DataError:
        tags = self.source.source == "llava" or any(turn.tagged for turn in turns)
        name = f"`{TAGS[kind]}` tag" if tags else f"place for a {kind}"
        what = f"the turns have {_many(places, name)}, the row has {_many(held, kind)}"
        mend = f"give each {kind} its place, and each place its {kind}"
        beside = self.layout.columns.image if kind == "picture" else self.layout.columns.audio
        if beside is None:
            mend = f"name the column of the {kind}s in `columns` of the source, or take the places out"
        return DataError(what, where, mend, column)

    def _check_pictures(self, turns: Sequence[Turn], cells: Cells, column: str) -> None:
        any_place = any(isinstance(part, Place) for turn in turns for part in turn.parts)
        kind = self.source.source
        if self.layout.pictures_needed and not any_place:
            mend = "read the file by `source: messages`, which takes rows without pictures, or take such rows out"
            raise DataError("the conversation has no picture", cells.where(column), mend, column)
        if kind == "text" and any_place:
            mend = "read the file by `source: messages`, which takes pictures"
            raise DataError("rows of `source: text` are words alone", cells.where(column), mend, column)

    def _parts(self, turn: Turn, cells: Cells, column: str, read: bool) -> tuple[Part, ...]:
        parts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, str):
                parts.append(Text(part))
            elif part.kind == "picture":
                own = self.layout.columns.image or column
                parts += self.media.images([part.item], cells.where(own), own, read)
            else:
                own = self.layout.columns.audio or column
                parts += self.media.sounds([part.item], cells.where(own), own, read)
        return cells.rules.clean_parts(parts, cells.counts)


def _numbers(places: Sequence[Place], held: int) -> list[int] | None:
    """Which of the row's pictures each place takes: by the numbers it names, else in order; None where one is left."""
    numbers = [place.number for place in places]
    if all(number is None for number in numbers):
        return list(range(held)) if len(places) == held else None
    named = [-1 if number is None else number for number in numbers]
    return named if sorted(named) == list(range(held)) else None


def _many(number: int, name: str) -> str:
    plural = name.replace("place for", "places for") if name.startswith("place") else f"{name}s"
    return f"{number} {name if number == 1 else plural}"


def _check_order(turns: Sequence[Turn], where: str, column: str) -> None:
    for number, turn in enumerate(turns[1:], 2):
        if turn.role == "system":
            mend = "put it before all other turns, or into the turn of the user"
            raise DataError(f"turn {number} is the system's", where, mend, column)
    first = next((turn for turn in turns if turn.role != "system"), None)
    if first is None or first.role != "user":
        what = "there is no turn but the system's" if first is None else "the first turn is an answer"
        raise DataError(what, where, "put a turn of the user before it", column)
