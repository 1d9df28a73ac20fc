"""The things: one concept drawn by five artists, with "name, a kind" as the caption.

A concept is an emoji of a subgroup in ``KINDS`` that all five artists draw. Its name is emojibase's English
label, lower case, or the plainer one in ``NAMES``. Concepts in ``UNCLEAR`` are left out: pictures that people
name differently, that look like another concept's, or whose kind would be wrong.

Split by artist: four are ``train``, twemoji is ``test``. There is no ``val``: whether to keep an artist or a
share of the rows for it is the recipe's choice.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pictures.render import PICTURE_WIDTH, palette_png, render
from pictures.sources import (
    EMOJIBASE,
    FLUENT_FLAT,
    FXEMOJI,
    NOTO,
    NOTO_V1,
    TWEMOJI,
    IconSet,
    Library,
)

ARTISTS = {
    "noto": NOTO,
    "noto-v1": NOTO_V1,
    "fxemoji": FXEMOJI,
    "fluent-flat": FLUENT_FLAT,
    "twemoji": TWEMOJI,
}
TEST_ARTIST = "twemoji"

KINDS = {
    "animal-mammal": "an animal",
    "animal-bird": "a bird",
    "animal-amphibian": "an animal",
    "animal-reptile": "an animal",
    "animal-marine": "a sea animal",
    "animal-bug": "a bug",
    "plant-flower": "a flower",
    "plant-other": "a plant",
    "food-fruit": "a fruit",
    "food-vegetable": "a vegetable",
    "food-prepared": "a dish",
    "food-asian": "a dish",
    "food-sweet": "a sweet",
    "drink": "a drink",
    "dishware": "a tool",
    "place-geographic": "a landscape",
    "place-building": "a building",
    "place-religious": "a building",
    "transport-ground": "a vehicle",
    "transport-water": "a vehicle",
    "transport-air": "a vehicle",
    "time": "a device",
    "sky-weather": "a thing in the sky",
    "event": "a decoration",
    "award-medal": "a prize",
    "sport": "a piece of sports gear",
    "game": "a game",
    "clothing": "a thing to wear",
    "sound": "a device",
    "music": "a device",
    "musical-instrument": "an instrument",
    "phone": "a device",
    "computer": "a device",
    "light-video": "a device",
    "book-paper": "a thing to read",
    "mail": "a piece of mail",
    "writing": "a writing tool",
    "office": "an office supply",
    "lock": "a tool",
    "tool": "a tool",
    "science": "a device",
    "medical": "a medical supply",
    "household": "a part of a house",
}
"""Kind by emojibase subgroup, in the words of a caption."""


def _labels(text: str) -> frozenset[str]:
    return frozenset(re.split(r",\s+", text.strip()))


UNCLEAR = _labels(
    """
    admission tickets, anchor, baby bottle, bar chart, battery, black nib, blossom, blue book, bomb,
    bookmark, bouquet, bread, bug, bus stop, camera with flash, camping, candle, card file box, card index,
    card index dividers, clamp, clapper board, clinking beer mugs, club suit, computer disk, construction,
    convenience store, cooking, cow face, crystal ball, cyclone, department store, diamond suit, droplet,
    e-mail, ewe, film frames, fire, first quarter moon face, flag in hole, flower playing cards, fog,
    fork and knife, fuel pump, full moon face, green book, handbag, hatching chick, heart suit,
    high-speed train, honey pot, horizontal traffic light, horse face, house with garden, houses,
    inbox tray, incoming envelope, Japanese post office, joker, keyboard, kitchen knife, label,
    last quarter moon, last quarter moon face, ledger, level slider, light rail, link, linked paperclips,
    lipstick, locked with pen, love hotel, memo, metro, milky way, monkey face, moon viewing ceremony,
    mountain railway, musical note, musical notes, musical score, national park, new moon face, old key,
    oncoming automobile, oncoming bus, oncoming police car, oncoming taxi, open file folder, optical disk,
    orange book, ox, page facing up, page with curl, paw prints, police car light, post office, poultry leg,
    railway car, rat, red paper lantern, rolled-up newspaper, rosette, round pushpin, rugby football,
    satellite antenna, seat, shooting star, snowman without snow, spade suit, sparkler, sparkles,
    speaker low volume, spider web, spiral calendar, spiral notepad, spiral shell, sport utility vehicle,
    sports medal, station, sun behind large cloud, suspension railway, tanabata tree, teacup without handle,
    thermometer, ticket, tram, tram car, trolleybus, two-hump camel, umbrella, umbrella with rain drops,
    unlocked, vertical traffic light, waning crescent moon, wastebasket, water buffalo,
    waxing crescent moon, waxing gibbous moon, wedding, white flower
    """
)
"""Emojibase labels of concepts that a person would not name so, or not tell apart."""

NAMES = {
    "lady beetle": "ladybird",
    "sheaf of rice": "rice plant",
    "ear of corn": "corn",
    "meat on bone": "meat",
    "hot beverage": "coffee",
    "articulated lorry": "lorry",
    "mount fuji": "mountain",
    "hourglass done": "hourglass",
    "sun with face": "sun",
    "game die": "die",
    "pool 8 ball": "pool ball",
    "woman’s hat": "sun hat",
    "closed book": "book",
    "locked": "padlock",
    "postbox": "post box",
    "headphone": "headphones",
}
"""Plainer names than emojibase's labels."""

PALETTE = 48
"""Palette entries of a picture: shaded drawings need more than flags."""


@dataclass(frozen=True)
class Concept:
    """A thing that every artist draws, and the name of each one's drawing."""

    name: str
    kind: str
    drawn_as: dict[str, str]


def build(library: Library, folder: Path) -> None:
    """Write ``rows.json`` and ``images/<artist>/<slug>.png`` into ``folder``."""
    sets = {artist: IconSet(library, package) for artist, package in ARTISTS.items()}
    rows = []
    for concept in read_concepts(library, sets):
        for artist, drawings in sets.items():
            path = Path("images", artist, f"{slug(concept.name)}.png")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            drawing = render(drawings.svg(concept.drawn_as[artist]), PICTURE_WIDTH)
            (folder / path).write_bytes(palette_png(drawing, PALETTE))
            rows.append(_row(path, concept, artist))
    text = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
    (folder / "rows.json").write_text(text, encoding="utf-8", newline="\n")


def read_concepts(library: Library, sets: dict[str, IconSet]) -> list[Concept]:
    """The concepts that every artist draws, by name."""
    subgroups = library.json(EMOJIBASE, "meta/groups.json")["subgroups"]
    unicode_names = library.json(EMOJIBASE, "meta/unicode-names.json")
    found = []
    for emoji in library.json(EMOJIBASE, "en/data.json"):
        label = emoji["label"]
        kind = KINDS.get(subgroups.get(str(emoji.get("subgroup")), ""))
        if kind is None or label in UNCLEAR:
            continue
        drawn_as = _drawn_as(label, unicode_names.get(emoji["hexcode"].removesuffix("-FE0F"), ""), sets)
        if drawn_as.keys() == sets.keys():
            found.append(Concept(NAMES.get(label, label).lower(), kind, drawn_as))
    return sorted(found, key=lambda concept: concept.name)


def slug(label: str) -> str:
    """A label in lower case, its words joined by hyphens, which is how Iconify names most sets' drawings."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "")).strip("-")


def _drawn_as(label: str, unicode_name: str, sets: dict[str, IconSet]) -> dict[str, str]:
    """Name of the drawing by artist; FxEmoji joins words, and prefers Unicode's names."""
    joined = [slug(name).replace("-", "") for name in (label, unicode_name)]
    candidates = {artist: joined if artist == "fxemoji" else [slug(label)] for artist in sets}
    return {artist: name for artist, names in candidates.items() for name in names if name in sets[artist]}


def _row(path: Path, concept: Concept, artist: str) -> dict[str, str]:
    return {
        "image": path.as_posix(),
        "caption": f"{concept.name}, {concept.kind}",
        "name": concept.name,
        "kind": concept.kind,
        "artist": artist,
        "split": "test" if artist == TEST_ARTIST else "train",
    }
