"""Any pixels that Pillow decodes → 8-bit sRGB, by the meaning of their mode.

Levels of 16-bit and float pictures are scaled first; the embedded ICC profile is applied next; transparency
is laid on white last. Pillow's plain `convert` clips the first, forgets the second and shows the hidden
colours of the third.
"""

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from finesight.data.pictures.guard import Refusal

_PROFILE_BYTES = 4 << 20  # press profiles have about 1 MiB
_BAND_PIXELS = 1 << 20  # pixels handled at a time where numpy needs wide intermediate numbers
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
_SAVE_8_BIT = "save the picture with 8 or 16 bits a channel"


def to_srgb(image: Image.Image, depth: int, inverted: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """A decoded picture as mode RGB in sRGB on white, with the notes of `load.Picture`.

    `depth` is bits a channel as stored; `inverted` says that a deep gray picture counts from white.
    Raises Refusal for levels without a known meaning.
    """
    notes: list[str] = []
    profile = image.info.get("icc_profile")
    if image.mode == "F" or image.mode.startswith("I"):
        colour, alpha = _deep_gray(image, depth, inverted)
        notes.append("levels")
    else:
        colour, alpha = _separate(image, depth)
    if profile:
        colour, note = _apply_profile(colour, profile)
        notes.extend(note)
    if colour.mode != "RGB":
        colour = colour.convert("RGB")
    if alpha is not None and cast(tuple[int, int], alpha.getextrema())[0] < 255:
        white = Image.new("RGB", colour.size, (255, 255, 255))
        white.paste(colour, mask=alpha)
        colour = white
        notes.append("transparency")
    return colour, tuple(notes)


def _separate(image: Image.Image, depth: int) -> tuple[Image.Image, Image.Image | None]:
    """Colour (mode L, RGB, CMYK or LAB) and alpha (mode L) of a picture with 8 bits a channel or fewer."""
    mode = image.mode
    key: Any = image.info.get("transparency")
    if mode == "LA" or (mode in ("1", "L") and key is not None):
        if mode == "1":
            image.info["transparency"] = 255 if key else 0
        elif mode == "L" and depth in (2, 4):  # the key counts in stored levels, the pixels are scaled
            image.info["transparency"] = key * 255 // ((1 << depth) - 1)
        gray = image.convert("LA")
        return gray.getchannel("L"), gray.getchannel("A")
    by_palette = mode == "P" and image.palette is not None and image.palette.mode == "RGBA"
    if mode in ("RGBA", "RGBa", "PA") or by_palette or (mode in ("P", "RGB") and key is not None):
        if mode == "RGB" and depth == 16:  # Pillow keeps the high byte of each channel
            image.info["transparency"] = tuple(level >> 8 for level in key)
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    if mode in _SPACES:
        return image, None
    return image.convert("L" if mode == "1" else "RGB"), None


def _deep_gray(image: Image.Image, depth: int, inverted: bool) -> tuple[Image.Image, Image.Image | None]:
    """Gray of 12, 16 or 32 bits, or float, as mode L, and alpha where one level was declared transparent."""
    width, height = image.size
    key = image.info.get("transparency")
    levels = np.empty((height, width), np.uint8)
    alpha = None if key is None else np.empty((height, width), np.uint8)
    full = 4095 if depth == 12 else 65535
    unit = _float_unit(image) if image.mode == "F" else 1.0
    for rows, band in _bands(image):
        if image.mode == "F":
            levels[rows] = np.floor(band * unit + 0.5)
            continue
        low, high = int(band.min()), int(band.max())
        if low < 0 or high > full:
            what = f"the picture's levels reach from {low} to {high}; 0 to {full} are understood"
            raise Refusal(what, _SAVE_8_BIT)
        levels[rows] = (band.astype(np.uint32) * 255 + full // 2) // full
        if alpha is not None:
            alpha[rows] = np.where(band == key, 0, 255)
    if inverted:
        np.subtract(255, levels, out=levels)
    return Image.fromarray(levels), None if alpha is None else Image.fromarray(alpha)


def _float_unit(image: Image.Image) -> float:
    """255 for floats within 0 to 1, 1 for floats within 0 to 255 of which one at least is above 1."""
    extremes = [(float(band.min()), float(band.max())) for _, band in _bands(image)]
    low, high = np.min([pair[0] for pair in extremes]), np.max([pair[1] for pair in extremes])
    if low >= 0 and high <= 255:  # a NaN is neither
        return 255.0 if high <= 1 else 1.0
    what = f"the picture's float levels reach from {low:g} to {high:g}; 0 to 1 and 0 to 255 are understood"
    raise Refusal(what, _SAVE_8_BIT)


def _bands(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Slices of rows with their levels, (rows, width), about _BAND_PIXELS at a time."""
    width, height = image.size
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        yield slice(top, bottom), np.asarray(image.crop((0, top, width, bottom)))


def _apply_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in sRGB, as browsers show it; a profile broken or for another kind of colour is ignored."""
    try:
        if len(profile) > _PROFILE_BYTES:
            return image, ("icc_ignored",)
        transform = _transform(profile, image.mode)
        if transform is None:
            return image, ()
        return transform.apply(image), ("icc",)
    except Exception:  # lcms and Pillow raise many kinds, and none of them may cost the picture
        return image, ("icc_ignored",)


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Perceptual transform to sRGB, or None where it changes no level by more than 2."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if source.profile.xcolor_space.strip() != _SPACES[mode]:
        raise ValueError(f"profile for {source.profile.xcolor_space}, picture in {mode}")
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    intent = ImageCms.Intent.PERCEPTUAL
    transform = ImageCms.ImageCmsTransform(source, target, mode, "RGB", intent)
    if mode not in ("L", "RGB"):
        return transform
    steps = np.arange(0, 256, 15).astype(np.uint8)  # 18 levels a channel, black and white among them
    grid = (
        np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 1, 3) if mode == "RGB" else steps[:, None]
    )
    probe = Image.fromarray(np.ascontiguousarray(grid))
    change = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    return transform if np.abs(change).max() > 2 else None
