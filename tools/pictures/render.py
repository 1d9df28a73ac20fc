"""SVG or PNG to the small pictures that are shipped."""

from __future__ import annotations

import io

import resvg_py
from PIL import Image

PICTURE_WIDTH = 64
"""Pixels across a shipped picture, which is never higher than wide."""

MARGIN = 2
"""Pixels of white that are left around an emoji: what it has at its sides."""


def render(svg: str, width: int, *, crisp: bool = False) -> Image.Image:
    """Draw ``svg`` on white, ``width`` pixels wide; ``crisp`` leaves edges without smoothing.

    Every drawing used here is square or wider than high, so ``width`` is its longer side.
    """
    drawn = resvg_py.svg_to_bytes(
        svg_string=svg,
        skip_system_fonts=True,
        width=width,
        shape_rendering="crisp_edges" if crisp else "geometric_precision",
    )
    return on_white(_decode(drawn))


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB, its transparent parts on white, where finesight's image loader would put them."""
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def palette_png(picture: Image.Image, colours: int) -> bytes:
    """An RGB picture as a PNG of at most ``colours`` palette entries, the same bytes for the same picture."""
    palette = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    file = io.BytesIO()
    palette.save(file, format="PNG", optimize=True)
    return file.getvalue()


def png_picture(png: bytes) -> Image.Image:
    """A PNG drawing on white, its transparent margin cut to ``MARGIN`` on every side.

    An emoji stands on a square: what is wider than high has a large margin above and below.
    """
    picture = _decode(png).convert("RGBA")
    left, upper, right, lower = picture.getchannel("A").getbbox() or (0, 0, *picture.size)
    return on_white(picture.crop((left - MARGIN, upper - MARGIN, right + MARGIN, lower + MARGIN)))


def _decode(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))
