"""Which samples may be mirrored: those whose words say nothing that a mirror would make wrong.

A mirror turns left into right and makes writing and clocks unreadable. So a sample is left as it is where its
questions, answers or references have one of the words below, as a whole word in either case.

The words are English, and so are the limits. Other languages match nothing, and what is said without any of the
words is not seen ("the man nearest the door", a count of fingers on one hand). Many samples are left alone that a
mirror would not harm ("all right"): that costs a little variety, a wrong mirror costs truth.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, Literal

from finesight.core.sample import Sample

Flip = Literal["none", "horizontal", "both", "all"]

SIDES: Final = (
    "left right leftmost rightmost leftward leftwards rightward rightwards lefthand righthand "
    "lefty righty handed handedness sideways mirror mirrors mirrored reversed backward backwards flipped "
    "clockwise counterclockwise anticlockwise starboard "
    "north south east west northern southern eastern western northeast northwest southeast southwest "
    "northeastern northwestern southeastern southwestern northward northwards southward southwards "
    "eastward eastwards westward westwards compass map maps "
    "clock clocks o'clock watch watches wristwatch time dial hour hours minute minutes "
    "text texts word words wording letter letters lettering alphabet number numbers numeral numerals digit digits "
    "read reads reading readable say says saying said spell spells spelled spelt spelling write writes writing "
    "written wrote handwriting handwritten printed inscription inscribed caption captions title titles titled headline "
    "label labels labeled labelled name names named sign signs signature signed logo logos brand brands slogan "
    "quote quotes monogram initials license licence barcode code"
)
"""Words that forbid any mirror: sides, directions of the compass, clocks, and what is written."""
HEIGHTS: Final = (
    "top bottom topmost bottommost upper lower uppermost lowermost above below beneath underneath under over "
    "up down upward upwards downward downwards upside upright inverted overhead upstairs downstairs "
    "standing lying hanging falling sky ground floor ceiling horizon"
)
"""Words that forbid a mirror of top and bottom as well."""
AXES: Final = (
    "horizontal horizontally vertical vertically diagonal diagonally row rows column columns portrait landscape "
    "wide wider widest width tall taller tallest height high higher highest long longer longest side sides sideward"
)
"""Words that forbid swapping the axes as well."""


def mirrors_allowed(sample: Sample, flip: Flip = "horizontal") -> bool:
    """Whether the words of a sample stay true in all mirrors of a kind (`data.transforms.flip` of the recipe)."""
    forbidden = _forbidden(flip)
    return forbidden is None or not any(forbidden.search(text) for text in _texts(sample))


def _texts(sample: Sample) -> Iterator[str]:
    """What is asked and answered; what the system says is the same for all samples, and tells nothing of a picture."""
    yield from (turn.text for turn in sample.messages if turn.role != "system")
    yield from sample.references


@cache
def _forbidden(flip: Flip) -> re.Pattern[str] | None:
    lists = {"none": (), "horizontal": (SIDES,), "both": (SIDES, HEIGHTS), "all": (SIDES, HEIGHTS, AXES)}
    words = [re.escape(word) for words in lists[flip] for word in words.split()]
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(words)})(?![^\W_])", re.IGNORECASE) if words else None
