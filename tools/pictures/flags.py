"""The flags: five drawings of each country, with the colours of its flag as the answer.

The answer of a country is computed from its flag-icons 4x3 drawing by the rule in ``colours.py``, and is the
same for each of its drawings. Three things keep it true, and the splits apart:

- Territories in ``OTHERS_FLAG`` are left out: some artist draws the flag of another country for them.
- A drawing is left out if a large colour of the answer is missing from it: the artist drew another flag
  (Syria's before 2024) or chose a shade with another name (a light blue Ukraine).
- Countries whose flags look alike in any artist's drawings stand on one side of the split.

Split by country and by artist: every drawing of forty countries is ``test``, the flat drawings of ten are
``val`` (``draw.py`` chooses both), those of all others ``train``. The waving drawings are an artist that is
never trained on: ``test`` for trained countries, left out for validation countries.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pictures import colours
from pictures.draw import Sides, held_out
from pictures.render import PICTURE_WIDTH, palette_png, png_picture, render
from pictures.sources import (
    CIRCLE_FLAGS,
    COUNTRIES,
    FLAG_ICONS,
    FLAGPACK,
    NOTO_WAVING,
    IconSet,
    Library,
)

QUESTION = "Which colours are in this flag?"
COLUMNS = ("b64string_images", "caption", "question", "country", "artist", "split", "code", "held_out")
WAVING = "noto-waving"


def _codes(words: str) -> frozenset[str]:
    return frozenset(words.split())


OTHERS_FLAG = _codes("BL BV GF GP HM MF MQ NC PM RE SH SJ UM WF YT")
"""Territories to which an artist gives the flag of Australia, Britain, France, Norway or the United States,
or whose artists disagree on whether to."""

LARGE_SHARE = 0.07
"""A colour that fills this share of the answer's drawing must be seen in every drawing of the country."""

LOOK_ALIKE = 12.0
"""Two drawings look alike if their 16 by 16 reductions differ by less than this on average, in levels of 255.

The most alike drawings of Chad and Romania differ by 0, of Indonesia and Monaco by 6, of Italy and Mexico
by 13.
"""

ANSWER_WIDTH = 320
"""Pixels across the unsmoothed drawing that colours are counted in."""

PALETTE = 32
"""Palette entries of a flag: its flat colours and the blends at their edges."""


Pixels = NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """One artist's drawing of one country's flag, as shipped and as measured."""

    artist: str
    picture: Image.Image
    measured: Image.Image


@dataclass(frozen=True)
class Country:
    """A country with its answer and the drawings that agree with it."""

    code: str
    name: str
    answer: str
    drawings: tuple[Drawing, ...]


def build(library: Library, folder: Path) -> None:
    """Write ``flags.csv`` into ``folder``."""
    countries = read_countries(library)
    sides = held_out(look_alikes(countries), {country.code: country.answer for country in countries})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row for country in countries for row in rows(country, sides))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flags.csv").write_text(text.getvalue(), encoding="utf-8", newline="\n")


def read_countries(library: Library) -> list[Country]:
    """Every country that all five artists draw, by code."""
    drawer = _Drawer(library)
    names = library.json(COUNTRIES, "minimal/countries.en.min.json")
    codes = [code for code in sorted(names) if code not in OTHERS_FLAG and drawer.knows(code)]
    return [_country(code, names[code], drawer.drawings(code)) for code in codes]


def rows(country: Country, sides: Sides) -> list[tuple[str, ...]]:
    """The country's rows, in the order of ``COLUMNS``."""
    found: list[tuple[str, ...]] = []
    for drawing in country.drawings:
        split, held_out = side(country.code, drawing.artist, sides)
        if not split:
            continue
        picture = base64.b64encode(palette_png(drawing.picture, PALETTE)).decode("ascii")
        found.append(
            (picture, country.answer, QUESTION, country.name, drawing.artist, split, country.code, held_out)
        )
    return found


def side(code: str, artist: str, sides: Sides) -> tuple[str, str]:
    """Split and reason for holding out of a drawing; an empty split means that it is left out."""
    if code in sides["test"]:
        return "test", "country"
    if code in sides["val"]:
        return ("", "") if artist == WAVING else ("val", "")
    return ("test", "artist") if artist == WAVING else ("train", "")


def look_alikes(countries: list[Country]) -> list[list[str]]:
    """Codes of all countries, in groups whose members look alike, directly or through others of the group."""
    reduced = {country.code: _reduced(country) for country in countries}
    group_of = {code: [code] for code in reduced}
    for one, other in itertools.combinations(reduced, 2):
        if group_of[one] is not group_of[other] and _alike(reduced[one], reduced[other]):
            group_of[one].extend(group_of[other])
            for code in group_of[other]:
                group_of[code] = group_of[one]
    return [sorted(group) for code, group in group_of.items() if code == min(group)]


def _country(code: str, name: str, drawings: list[Drawing]) -> Country:
    expected = colours.shares(drawings[0].measured)
    large = {colour for colour, share in expected.items() if share >= LARGE_SHARE}
    agreeing = tuple(drawing for drawing in drawings if large <= colours.seen(drawing.measured))
    return Country(code, name, colours.answer(drawings[0].measured), agreeing)


def _reduced(country: Country) -> dict[str, Pixels]:
    return {
        drawing.artist: np.asarray(drawing.picture.resize((16, 16), Image.Resampling.BOX), dtype=float)
        for drawing in country.drawings
        if drawing.artist != WAVING
    }


def _alike(one: dict[str, Pixels], other: dict[str, Pixels]) -> bool:
    return any(
        np.abs(one[artist] - other[artist]).mean() < LOOK_ALIKE for artist in one.keys() & other.keys()
    )


class _Drawer:
    """The five artists' drawings by ISO 3166-1 alpha-2 code."""

    def __init__(self, library: Library) -> None:
        self._flag_icons = library.files(FLAG_ICONS, lambda path: path.endswith(".svg"))
        self._circle_flags = library.files(CIRCLE_FLAGS, lambda path: path.endswith(".svg"))
        self._flagpack = IconSet(library, FLAGPACK)
        self._waving = library.files(NOTO_WAVING, lambda path: path.startswith("img/google/64/1f1"))

    def knows(self, code: str) -> bool:
        """Whether every artist draws the flag."""
        return (
            f"flags/4x3/{code.lower()}.svg" in self._flag_icons
            and f"flags/1x1/{code.lower()}.svg" in self._flag_icons
            and f"flags/{code.lower()}.svg" in self._circle_flags
            and _flagpack_name(code) in self._flagpack
            and _waving_path(code) in self._waving
        )

    def drawings(self, code: str) -> list[Drawing]:
        """The drawings, flag-icons 4x3 first, from which the answer is read."""
        flat = {
            "flag-icons-4x3": self._flag_icons[f"flags/4x3/{code.lower()}.svg"].decode(),
            "flag-icons-1x1": self._flag_icons[f"flags/1x1/{code.lower()}.svg"].decode(),
            "circle-flags": self._circle_flags[f"flags/{code.lower()}.svg"].decode(),
            "flagpack": self._flagpack.svg(_flagpack_name(code)),
        }
        waving = png_picture(self._waving[_waving_path(code)])
        return [
            *(
                Drawing(artist, render(svg, PICTURE_WIDTH), render(svg, ANSWER_WIDTH, crisp=True))
                for artist, svg in flat.items()
            ),
            Drawing(WAVING, waving, waving),
        ]


def _flagpack_name(code: str) -> str:
    """Flagpack's ``gb`` is the flag of England; the Union Jack is ``gb-ukm``."""
    return "gb-ukm" if code == "GB" else code.lower()


def _waving_path(code: str) -> str:
    """Emoji flags are two regional indicators, U+1F1E6 for A and on."""
    return "img/google/64/" + "-".join(f"{ord(letter) - ord('A') + 0x1F1E6:x}" for letter in code) + ".png"
