"""SVG or PNG to the small pictures that are shipped."""

from __future__ import annotations

import io

import resvg_py
from PIL import Image

PICTURE_WIDTH = 64
"""Pixels across a shipped picture, which is never higher than wide."""


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
    """A PNG drawing on white, without the wholly transparent margin that an emoji has around it."""
    picture = _decode(png).convert("RGBA")
    return on_white(picture.crop(picture.getchannel("A").getbbox()))


def _decode(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))
