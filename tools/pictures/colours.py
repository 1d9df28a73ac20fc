"""Which of eight named colours a drawing shows, largest first, in words that a person would use.

The rule, from a drawing rendered without smoothed edges, so that each pixel is a colour its artist chose:

1. A pixel has the name of the nearest prototype shade in OKLab, a space where distance follows how different
   two colours look (Björn Ottosson, "A perceptual color space for image processing", 2020).
2. A colour is named if it fills at least ``MIN_SHARE`` of the area: the star of Vietnam is, the stars of China and
   most coats of arms are not.
3. Colours are sorted by area. Neighbours in that order whose areas differ by less than ``TIE`` of the whole
   are equals, and equals stand in the order of ``PROTOTYPES``: every tricolour of the same three colours has
   the same answer, whichever stripe a rounding favours.

The eighth name is light blue, not brown or maroon: two dozen countries fly a blue that people call light
(from Argentina to Kazakhstan), and only two a red that they call maroon (Latvia, Qatar), which is red here.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PROTOTYPES = {
    "red": ("ce1126", "e8112d", "a2001d", "8d1b3d", "a51931", "ef4135", "de3908"),
    "orange": ("ff7900", "ff9933", "e05206", "ff4e12", "f2a800", "e2ae57"),
    "yellow": ("fcd116", "ffff00", "ffb20d", "ffda44", "edb92e", "d4af37", "c09300", "a77b3b", "c7b37f"),
    "green": ("009e49", "006233", "01411c", "00c800", "6da544", "496e2d", "239e46"),
    "blue": ("0052b4", "002b7f", "00205b", "2d2a4a", "0000cd", "3d58db", "5a5a8c"),
    "light blue": ("75aadb", "338af3", "00afca", "68bfe5", "b4d7f4"),
    "black": ("000000", "272727", "333333", "606060"),
    "white": ("ffffff", "eeeeee", "c8c8c8", "909090"),
}
"""Shades of each name, as sRGB in hexadecimal; the order of the names decides between equals."""

MIN_SHARE = 0.05
"""Smallest share of the area that is named."""

TIE = 0.05
"""Two neighbouring shares closer than this, in shares of the whole area, count as equal."""


def answer(drawing: Image.Image) -> str:
    """The colours of an unsmoothed drawing, largest first: ``"red, white, blue"``."""
    named = {name: share for name, share in shares(drawing).items() if share >= MIN_SHARE}
    return ", ".join(in_order(named))


def seen(drawing: Image.Image) -> set[str]:
    """The colours that fill at least ``MIN_SHARE`` of the drawing."""
    return {name for name, share in shares(drawing).items() if share >= MIN_SHARE}


def in_order(named: dict[str, float]) -> list[str]:
    """Names by falling share; runs of nearly equal shares in the order of ``PROTOTYPES``."""
    falling = sorted(named, key=lambda name: -named[name])
    runs = [falling[:1]]
    for larger, smaller in itertools.pairwise(falling):
        if named[larger] - named[smaller] < TIE:
            runs[-1].append(smaller)
        else:
            runs.append([smaller])
    rank = list(PROTOTYPES).index
    return [name for run in runs for name in sorted(run, key=rank)]


def shares(drawing: Image.Image) -> dict[str, float]:
    """Share of the drawing's area, 0 to 1, that each named colour fills."""
    rgb, counts = np.unique(_packed(drawing), return_counts=True)
    names = [name for name, shades in PROTOTYPES.items() for _ in shades]
    prototypes = oklab(np.array([list(bytes.fromhex(s)) for shades in PROTOTYPES.values() for s in shades]))
    shades_drawn = oklab(np.stack([rgb >> 16, rgb >> 8 & 255, rgb & 255], axis=-1))
    distance = np.linalg.norm(shades_drawn[:, None] - prototypes[None], axis=-1)
    area = dict.fromkeys(PROTOTYPES, 0.0)
    for nearest, count in zip(distance.argmin(axis=1), counts, strict=True):
        area[names[nearest]] += int(count) / (drawing.width * drawing.height)
    return area


def _packed(drawing: Image.Image) -> NDArray[np.uint32]:
    """One number a pixel, red in the highest byte: rows of three are slow to count."""
    red, green, blue = np.moveaxis(np.asarray(drawing, dtype=np.uint32), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)


def oklab(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    """sRGB values 0 to 255, [N, 3], in OKLab, [N, 3]."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _LINEAR_TO_LMS.T) @ _LMS_TO_LAB.T)


_LINEAR_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
