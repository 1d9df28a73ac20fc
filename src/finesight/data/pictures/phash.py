"""Near-equal pictures: a short signature of what a picture shows, and a search among hundreds of thousands.

A signature is two numbers of 64 bits. `structure` tells where, on a grid of 9 × 9, the picture becomes lighter: to the
right, and downwards (after dHash, Krawetz, "Kind of like that", 2013, which looks to the right alone). Changes of at
most three levels are none, so that plain backgrounds have no noise to remember. It survives scaling, stretching,
JPEG, palettes and small changes of colour, and falls with mirrors, turns and crops. `colour` is the mean colour of each
quarter in steps of eight levels: it tells apart what the structure cannot, such as flags of one layout and blank pages.

On shipped drawings and on drawn scenes, 99 of 100 pictures that were scaled, stretched, saved as JPEG of quality 40
or brightened by six levels stay within MOST_BITS and MOST_COLOUR of themselves (`tests/data/test_phash.py`).
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Signatures = NDArray[np.uint64]
"""(number of pictures, 2): structure and colour of each."""
_Indices = NDArray[np.intp]

MOST_BITS: Final = 4
"""Bits of the structure in which near-equal pictures differ at most."""
MOST_COLOUR: Final = 2
"""Steps of eight levels in which a channel of a quarter of near-equal pictures differs at most."""

_SIDE: Final = 32  # a multiple of the four quarters', and enough that the grid is a mean of the whole picture
_NO_CHANGE: Final = 3  # levels from one place of the grid to the next
_FIELDS: Final = 12  # four quarters of three channels, five bits each
_PAIRS_AT_ONCE: Final = 1 << 21
_PLACE_BITS: Final = 48
_PLACE: Final = (1 << _PLACE_BITS) - 1
_NONE: Final = np.iinfo(np.int64).max
"""A rank is the difference in bits above the place among the known: the lowest is the nearest, then the first."""


def signature(picture: Image.Image) -> tuple[int, int]:
    """Structure and colour of a picture of mode RGB."""
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grid = np.asarray(small.convert("L").resize((9, 9), Image.Resampling.BILINEAR), np.int16)
    across, down = np.diff(grid[1::2], axis=1), np.diff(grid[:, 1::2], axis=0)
    lighter = np.concatenate([across.ravel(), down.ravel()]) > _NO_CHANGE
    quarters = np.asarray(small.resize((2, 2), Image.Resampling.BOX)).ravel() >> 3
    colour = sum(int(step) << 5 * place for place, step in enumerate(quarters))
    return int.from_bytes(np.packbits(lighter).tobytes()), colour


def nearest(
    asked: Signatures, known: Signatures, most_bits: int = MOST_BITS, most_colour: int = MOST_COLOUR
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each asked picture, which known one is nearest, and in how many bits of the structure they differ.

    Both are −1 where no known picture is near-equal: differs in at most `most_bits` (0 to 16) of the structure's bits
    and in at most `most_colour` steps of each quarter's channels. Of several that are as near, the first in `known`.

    The bits are dealt to `most_bits` + 2 groups. Two pictures that differ in at most `most_bits` of them are equal in
    two groups at least, so only pictures that share the bits of some two groups are compared: of 500,000 unrelated
    pictures, a few for each one asked.
    """
    if not 0 <= most_bits <= 16:
        raise ValueError(f"most_bits must be 0 to 16, not {most_bits}")
    best = np.full(len(asked), _NONE, np.int64)
    if len(asked) and len(known):
        # many copies of one picture are searched for, and found, once
        asked_once, _, place = _distinct(asked)
        known_once, first, _ = _distinct(known)
        ranks = _best_ranks(asked_once, known_once, first, None, most_bits, most_colour)
        best = ranks[place]
    return _place_and_bits(best)


def nearest_before(
    pictures: Signatures, most_bits: int = MOST_BITS, most_colour: int = MOST_COLOUR
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each picture the nearest of those that stand before it, as `nearest` finds it among the known."""
    if not len(pictures):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    once, first, place = _distinct(pictures)
    best = _best_ranks(once, once, first, first, most_bits, most_colour)[place]
    copies = first[place] != np.arange(len(pictures))
    best[copies] = first[place][copies]  # no bit apart
    return _place_and_bits(best)


def _place_and_bits(best: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    near = best != _NONE
    return np.where(near, best & _PLACE, -1), np.where(near, best >> _PLACE_BITS, -1)


def _best_ranks(
    asked: Signatures,
    known: Signatures,
    first: _Indices,
    before: _Indices | None,
    most_bits: int,
    most_colour: int,
) -> NDArray[np.int64]:
    """Rank of the nearest known picture for each asked one, both without repetition.

    `first` are the places of the known ones; those of `before`, one for each asked picture, must come later.
    """
    best = np.full(len(asked), _NONE, np.int64)
    for mask in _masks(most_bits):
        for which, places, starts in _that_agree(asked[:, 0], known[:, 0], mask):
            rank = _ranks(asked[which], known[places], first[places], most_bits, most_colour)
            if before is not None:
                rank[first[places] >= before[which]] = _NONE
            met = which[starts]
            best[met] = np.minimum(best[met], np.minimum.reduceat(rank, starts))
    return best


def _masks(most_bits: int) -> list[int]:
    """The bits of each two of `most_bits` + 2 groups. The bits are dealt like cards, since neighbours are alike."""
    groups = most_bits + 2
    dealt = [sum(1 << bit for bit in range(group, 64, groups)) for group in range(groups)]
    return [one | other for one, other in combinations(dealt, 2)]


def _distinct(pictures: Signatures) -> tuple[Signatures, _Indices, _Indices]:
    """The signatures without repetition, which picture has each first, and where each picture's stands among them."""
    order = np.lexsort((pictures[:, 1], pictures[:, 0]))
    ordered = pictures[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(1)
    place = np.empty(len(order), np.intp)
    place[order] = np.cumsum(fresh) - 1
    return ordered[fresh], order[fresh], place


def _that_agree(
    asked: NDArray[np.uint64], known: NDArray[np.uint64], mask: int
) -> Iterator[tuple[_Indices, _Indices, _Indices]]:
    """Pairs of pictures whose structures agree under `mask`, a portion at a time.

    Two arrays of indices, one entry a pair, and where the pairs of each asked picture begin.
    """
    keys = known & np.uint64(mask)
    order = np.argsort(keys, kind="stable")
    keys, wanted = keys[order], asked & np.uint64(mask)
    begin = np.searchsorted(keys, wanted, "left")
    counts = np.searchsorted(keys, wanted, "right") - begin
    some = np.flatnonzero(counts)
    totals = np.cumsum(counts[some])
    start = 0
    while start < len(some):
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + _PAIRS_AT_ONCE, "right")))
        chosen = some[start:stop]
        starts = np.concatenate([[0], totals[start : stop - 1] - before]).astype(np.intp)
        which = np.repeat(chosen, counts[chosen])
        offsets = np.arange(len(which)) - np.repeat(starts, counts[chosen])
        yield which, order[begin[which] + offsets], starts
        start = stop


def _ranks(
    asked: Signatures, known: Signatures, first: _Indices, most_bits: int, most_colour: int
) -> NDArray[np.int64]:
    """Rank of each pair; _NONE where the two are not near-equal."""
    bits = np.bitwise_count(asked[:, 0] ^ known[:, 0]).astype(np.int64)
    ranks = np.where(bits <= most_bits, bits << _PLACE_BITS | first, _NONE)
    close = np.flatnonzero(bits <= most_bits)
    apart = np.zeros(len(close), np.int64)
    for shift in range(0, 5 * _FIELDS, 5):
        one, other = (
            (side[close, 1] >> np.uint64(shift) & np.uint64(31)).astype(np.int64) for side in (asked, known)
        )
        np.maximum(apart, np.abs(one - other), out=apart)
    ranks[close[apart > most_colour]] = _NONE
    return ranks
