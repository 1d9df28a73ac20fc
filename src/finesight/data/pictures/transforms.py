"""Small random changes of training pictures: a crop, flips, one geometric warp, one colour matrix.

A transform is a pure function of (seed, epoch, sample id): which worker, rank, process or order asks does not
matter. Each change has draws of its own, so that switching one on or off leaves the others as they were.

Geometry: an output pixel takes its colour from one place of the source, found by the inverse affine map about
the centre plus the wave, and read bilinearly. What comes from outside repeats the nearest edge pixel: flags
and photographs go on as they end, and there is no border colour for the model to learn. Or it is white, for
things drawn on white. Bilinear reading skips pixels where the picture shrinks to less than half, and time and
memory grow with the source (8 bytes a pixel, twice): say which size is enough, and larger pictures are shrunk first.

H and W are height and width in pixels.
"""

import math
import struct
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import blake2b
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from finesight.data.pictures.mirrors import Flip

Fill = Literal["edge", "white"]

Key = tuple[int, int, str]
"""(seed, epoch, sample id). A sample with several pictures adds the picture's number to its id."""

_BAND_PIXELS: Final = 1 << 12  # warped at a time: the intermediate arrays stay in a core's cache
_MIRRORS: Final[dict[Flip, tuple[Image.Transpose, ...]]] = {
    "none": (),
    "horizontal": (Image.Transpose.FLIP_LEFT_RIGHT,),
    "both": (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM),
    "all": (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE),
}
_HALF: Final = np.uint64(0x0080_0080_0080_0080)
# RGB to YIQ (ITU-R BT.601 luma). Turning hue by t: luma part + cos t · chroma part + sin t · across part.
_YIQ: Final = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB: Final = np.linalg.inv(_YIQ)
_LUMA_PART: Final = np.outer(np.ones(3), _YIQ[0]).tolist()
_CHROMA_PART: Final = (np.eye(3) - np.outer(np.ones(3), _YIQ[0])).tolist()
_ACROSS_PART: Final = (np.outer(_RGB[:, 2], _YIQ[1]) - np.outer(_RGB[:, 1], _YIQ[2])).tolist()


@dataclass(frozen=True)
class TransformSettings:
    """How far each change may go; each is drawn uniformly, in both directions. The defaults change nothing.

    rotate: degrees, 0 to 180. scale: smallest and largest factor of size, 0.25 to 4. translate: share of the
    width and of the height, 0 to 1. shear: degrees along x and along y, 0 to 30. wave: amplitude of a sine
    displacement like that of cloth in wind, as a share of the side, 0 to 0.25, with half to one and a half
    periods across the picture. brightness, contrast, saturation: share around 1 of a factor, 0 to 1.
    hue: share of a full turn, 0 to 0.5.
    stretch: share around 1 of a factor of the height alone, 0 to 0.75.
    crop: share of the area that is cut away at most, 0 to 0.9; what stays is at most a third wider or higher for its
    size than the picture was.

    fill: what comes from outside the picture in the warp, its nearest edge pixel or white. flip: which mirrors
    are made, each with probability ½: left and right; also top and bottom; or `all`, which also swaps the axes
    (and so width and height). Flips are for pictures whose words and answers do not speak of sides.
    """

    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    shear: float = 0.0
    wave: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    stretch: float = 0.0
    crop: float = 0.0
    fill: Fill = "edge"
    flip: Flip = "none"

    def __post_init__(self) -> None:
        highest = {"rotate": 180, "shear": 30, "wave": 0.25, "hue": 0.5, "stretch": 0.75, "crop": 0.9}
        words = {"fill": get_args(Fill), "flip": get_args(Flip)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in words:
                if value not in words[field.name]:
                    raise ValueError(f"{field.name} must be one of {words[field.name]}, not {value!r}")
            elif field.name != "scale" and not 0 <= value <= highest.get(field.name, 1):
                raise ValueError(f"{field.name} must be 0 to {highest.get(field.name, 1)}, not {value}")
        if not 0.25 <= self.scale[0] <= self.scale[1] <= 4:
            raise ValueError(
                f"scale must be two factors within 0.25 to 4, the smaller first, not {self.scale}"
            )


@dataclass(frozen=True)
class PictureTransform:
    """A random change of a mode RGB picture: `transform(image, (seed, epoch, id))`.

    The result has the size of the picture, of what a crop leaves of it, or for `flip: all` that with the sides swapped.
    """

    settings: TransformSettings

    @cached_property
    def _warps(self) -> bool:
        s = self.settings
        return bool(s.rotate or s.translate or s.shear or s.wave or s.stretch) or s.scale != (1.0, 1.0)

    @cached_property
    def _colours(self) -> bool:
        s = self.settings
        return bool(s.brightness or s.contrast or s.saturation or s.hue)

    def __call__(
        self, image: Image.Image, key: Key, enough: tuple[int, int] | None = None, mirror: bool = True
    ) -> Image.Image:
        """The changed picture; the very same object where nothing is changed.

        Where width and height are several times `enough`, the picture is first shrunk by whole factors, to no less.
        Without `mirror` there is no flip (`mirrors.mirrors_allowed`), and all else is as it would be.
        """
        if self.settings.crop:
            image = image.crop(_crop_box(*image.size, self.settings.crop, key))
        if enough is not None:
            image = _nearer(image, *enough)
        if mirror and self.settings.flip != "none":
            image = _flip(image, self.settings.flip, key)
        if not self._warps and not self._colours:
            return image
        draws = _draws(key)
        if self._warps:
            image = _warp(image, self.settings, [*draws[:12], _stretch_draw(key)])
        if self._colours:
            image = image.convert("RGB", _colour_matrix(self.settings, draws[12:]))
        return image


def _draws(key: Key) -> list[float]:
    """Sixteen numbers, uniform in [−1, 1): the 512 bits of the key's hash, 32 for each.

    A hash is a counter-based generator without the counter, and forty times quicker to set up than numpy's.
    """
    return [word / 2**31 - 1 for word in struct.unpack("<16I", blake2b(_bytes(key)).digest())]


def _bytes(key: Key) -> bytes:
    seed, epoch, sample_id = key
    return f"{seed}/{epoch}/{sample_id}".encode("utf-8", "surrogatepass")


def _stretch_draw(key: Key) -> float:
    """A number, uniform in [−1, 1), beside the sixteen."""
    word = int.from_bytes(blake2b(_bytes(key), digest_size=4, person=b"stretch").digest(), "little")
    return word / 2**31 - 1


def _crop_box(width: int, height: int, most: float, key: Key) -> tuple[int, int, int, int]:
    """Left, top, right and lower side of what a crop leaves: at least 1 − `most` of the area, anywhere."""
    draws = struct.unpack("<4I", blake2b(_bytes(key), digest_size=16, person=b"crop").digest())
    area, lean, x, y = (draw / 2**32 for draw in draws)
    kept = 1 - most * area
    across = min(1.0, math.sqrt(kept * (4 / 3) ** (2 * lean - 1)))
    down = kept / across
    if down > 1:
        across, down = kept, 1.0
    wide, high = min(width, math.ceil(across * width)), min(height, math.ceil(down * height))
    left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
    return left, top, left + wide, top + high


def _nearer(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A large picture shrunk by whole factors to no less than `width` × `height`."""
    factors = max(1, picture.width // width), max(1, picture.height // height)
    return picture if factors == (1, 1) else picture.reduce(factors)


def _flip(image: Image.Image, flip: Flip, key: Key) -> Image.Image:
    """The picture mirrored by coins of its key; the very same object where none falls."""
    coins = blake2b(_bytes(key), digest_size=1, person=b"flip").digest()[0]
    for number, mirror in enumerate(_MIRRORS[flip]):
        if coins >> number & 1:
            image = image.transpose(mirror)
    return image


def _inverse_affine(settings: TransformSettings, draws: list[float]) -> tuple[float, float, float, float]:
    """Matrix (a, b, c, d) from output to source about the centre: the inverse of rotation · shear · scale · stretch."""
    turn = math.radians(settings.rotate * draws[0])
    low, high = settings.scale
    size = low * (high / low) ** ((draws[1] + 1) / 2)  # as likely twice as large as half as large
    along_x, along_y = (math.tan(math.radians(settings.shear * draw)) for draw in draws[2:4])
    cos, sin = math.cos(turn) * size, math.sin(turn) * size
    a, b = cos - sin * along_y, cos * along_x - sin
    c, d = sin + cos * along_y, sin * along_x + cos
    determinant = a * d - b * c
    stretched = (1 + settings.stretch * draws[12]) * determinant
    return d / determinant, -b / determinant, -c / stretched, a / stretched


def _wave(
    positions: NDArray[np.float32], amplitude: float, periods: float, phase: float
) -> NDArray[np.float32]:
    """Sine displacement in pixels at each position, which runs over one side of the picture."""
    step = 2 * math.pi * (1 + 0.5 * periods) / len(positions)
    wave: NDArray[np.float32] = np.sin(np.float32(step) * positions + np.float32(math.pi * phase))
    return wave * np.float32(amplitude)


def _warp(image: Image.Image, settings: TransformSettings, draws: list[float]) -> Image.Image:
    """The picture seen through the inverse affine map and the wave."""
    width, height = image.size
    a, b, c, d = _inverse_affine(settings, draws)
    x = np.arange(width, dtype=np.float32) - np.float32(
        (width - 1) / 2 + settings.translate * width * draws[4]
    )
    y = np.arange(height, dtype=np.float32) - np.float32(
        (height - 1) / 2 + settings.translate * height * draws[5]
    )
    # White comes from a frame of one white pixel, at which reading stops as it does at the edge without one.
    frame = 1 if settings.fill == "white" else 0
    if frame:
        image = ImageOps.expand(image, frame, (255, 255, 255))
    # Source x and y are each a row (W) plus a column (H), in 256ths of a pixel.
    x_row, x_column = a * x + np.float32((width - 1) / 2 + frame), b * y
    y_row, y_column = c * x, d * y + np.float32((height - 1) / 2 + frame)
    if settings.wave:
        x_column += _wave(y, settings.wave * width * draws[6], draws[8], draws[10])
        y_row += _wave(x, settings.wave * height * draws[7], draws[9], draws[11])
    x_row, x_column, y_row, y_column = (part * np.float32(256) for part in (x_row, x_column, y_row, y_column))
    # Four 16-bit lanes in each uint64: 8-bit levels times weights that sum to 256 fill a lane, never more.
    across, down = image.size
    source = np.empty(down * across + across + 1, np.uint64)
    source[down * across :] = 0
    source.view("<u2")[: 4 * down * across] = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
    out = np.empty((height, width), np.uint64)
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        _sample(source, down, across, x_row + x_column[rows, None], y_row + y_column[rows, None], out[rows])
    return Image.frombuffer("RGB", (width, height), out, "raw", "RGBX;16L", 0, 1)


def _sample(
    source: NDArray[np.uint64],
    height: int,
    width: int,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    out: NDArray[np.uint64],
) -> None:
    """Bilinear levels times 256 into `out`; the nearest edge pixel's for places outside.

    `x` and `y` are in 256ths of a pixel. `source` has width + 1 pixels after its last, which are read with
    weight 0 at the right and the lower edge.
    """
    x_fixed = np.clip(x, 0, 256 * (width - 1), out=x).astype(np.int32)
    y_fixed = np.clip(y, 0, 256 * (height - 1), out=y).astype(np.int32)
    place = ((y_fixed >> 8) * width + (x_fixed >> 8)).astype(np.intp)
    x_fixed &= 255
    y_fixed &= 255
    both = (x_fixed * y_fixed) >> 8
    right, lower = x_fixed - both, y_fixed - both
    rest = 256 - x_fixed - lower
    # mode="clip" spares numpy a check of every index; they are within the source.
    np.multiply(source.take(place, mode="clip"), rest.astype(np.uint64), out=out)
    out += source[1:].take(place, mode="clip") * right.astype(np.uint64)
    out += source[width:].take(place, mode="clip") * lower.astype(np.uint64)
    out += source[width + 1 :].take(place, mode="clip") * both.astype(np.uint64)
    out += _HALF


def _colour_matrix(settings: TransformSettings, draws: list[float]) -> list[float]:
    """Twelve numbers, row by row: red, green and blue out of red, green, blue and 1.

    Saturation scales what differs from the pixel's luma, hue turns it in the plane of I and Q (YIQ), contrast
    scales about the middle level 127.5, brightness multiplies: one matrix, so nothing is clipped in between.
    """
    brightness = 1 + settings.brightness * draws[0]
    contrast = 1 + settings.contrast * draws[1]
    saturation = 1 + settings.saturation * draws[2]
    turn = 2 * math.pi * settings.hue * draws[3]
    gain = brightness * contrast
    chroma, across = gain * saturation * math.cos(turn), gain * saturation * math.sin(turn)
    offset = brightness * (1 - contrast) * 127.5
    matrix: list[float] = []
    for luma_row, chroma_row, across_row in zip(_LUMA_PART, _CHROMA_PART, _ACROSS_PART, strict=True):
        parts = zip(luma_row, chroma_row, across_row, strict=True)
        matrix += [gain * g + chroma * c + across * s for g, c, s in parts]
        matrix.append(offset)
    return matrix
