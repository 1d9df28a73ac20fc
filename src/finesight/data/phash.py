"""Near-equal pictures: a short signature of what a picture shows, and a search among hundreds of thousands.

A signature is two numbers of 64 bits. `structure` is a perceptual hash (pHash, after Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010): the signs, against their median, of the 64 lowest
frequencies of the picture's luma, the mean left out. It survives scaling, JPEG and small changes of colour, and
falls with mirrors, turns and crops. `colour` is the mean colour of each quarter in steps of eight levels: it tells
apart what the structure cannot, such as flags of one layout, and pictures without any structure.

A picture with less contrast than JPEG's own noise has structure 0.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Signatures = NDArray[np.uint64]
"""(number of pictures, 2): structure and colour of each."""
_Indices = NDArray[np.intp]

MOST_BITS: Final = 4
"""Bits of the structure in which near-equal pictures differ at most. Unrelated ones differ in 32, give or take 4."""
MOST_COLOUR: Final = 2
"""Steps of eight levels in which a channel of a quarter of near-equal pictures differs at most."""

_SIDE: Final = 32
_FLAT: Final = 2.0  # standard deviation, in levels of luma, below which there is no structure to speak of
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
_FIELDS: Final = 12  # four quarters of three channels, five bits each
_PAIRS_AT_ONCE: Final = 1 << 21
_PLACE_BITS: Final = 48
_PLACE: Final = (1 << _PLACE_BITS) - 1
_NONE: Final = np.iinfo(np.int64).max
"""A rank is the difference in bits above the place among the known: the lowest is the nearest, then the first."""


@cache
def _frequencies() -> tuple[NDArray[np.float32], _Indices]:
    """Rows of the DCT-II, and the places of the 64 lowest frequencies but the mean, in a square of 12."""
    places = np.arange(_SIDE, dtype=np.float64)
    rows = np.cos(np.pi / _SIDE * (places[None, :] + 0.5) * np.arange(12)[:, None])
    down, across = np.divmod(np.arange(144), 12)
    lowest = np.lexsort((down, np.maximum(down, across), down + across))[1:65]
    return rows.astype(np.float32), lowest


def signature(picture: Image.Image) -> tuple[int, int]:
    """Structure and colour of a picture of mode RGB."""
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    levels = np.asarray(small, np.float32)
    luma = levels @ _LUMA
    structure = 0
    if luma.std() >= _FLAT:
        rows, lowest = _frequencies()
        found = (rows @ luma @ rows.T).ravel()[lowest]
        structure = int.from_bytes(np.packbits(found > np.median(found)).tobytes())
    half = _SIDE // 2
    quarters = levels.reshape(2, half, 2, half, 3).mean((1, 3)).ravel().astype(int) >> 3
    return structure, sum(int(step) << 5 * place for place, step in enumerate(quarters))


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
        ranks = np.full(len(asked_once), _NONE, np.int64)
        for mask in _masks(most_bits):
            for which, places, starts in _that_agree(asked_once[:, 0], known_once[:, 0], mask):
                rank = _ranks(asked_once[which], known_once[places], first[places], most_bits, most_colour)
                met = which[starts]
                ranks[met] = np.minimum(ranks[met], np.minimum.reduceat(rank, starts))
        best = ranks[place]
    near = best != _NONE
    return np.where(near, best & _PLACE, -1), np.where(near, best >> _PLACE_BITS, -1)


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
