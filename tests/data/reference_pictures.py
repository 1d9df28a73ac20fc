"""The stored pictures that the loader is held against, and how they were made.

Each has its pixels worked out here by numpy from the same levels, not by reading the file. Written once, so that
another Pillow, libjpeg or profile engine is compared with what was true then:

    PYTHONPATH=src:tests/data python tests/data/reference_pictures.py
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import picture_files as make
from PIL import Image

FOLDER = Path(__file__).parent / "references"
PIXELS = FOLDER / "pixels.npz"

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""What a viewer does to a picture of each EXIF orientation."""


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def references() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Name, file and pixels: (H, W) gray or (H, W, 3)."""
    levels = make.gradient()
    gray, alpha = levels[..., 0], levels[..., 1]
    deep = np.linspace(0, 65535, gray.size).reshape(gray.shape)
    for orientation, turn in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation-{orientation}.jpg", make.encode(levels, "JPEG", exif=exif), turn(levels)
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("png", "webp", "tiff"):
        yield f"orientation-6.{form}", make.encode(levels, form.upper(), exif=exif), UPRIGHT[6](levels)
    yield "16-bits.png", make.encode(Image.fromarray(deep.astype("<u2")), "PNG"), deep / 257
    yield "16-bits.tiff", make.encode(Image.fromarray(deep.astype(">u2")), "TIFF"), deep / 257
    yield "32-bits.tiff", make.encode(deep.astype(np.int32), "TIFF"), deep / 257
    yield "float.tiff", make.encode((deep / 65535).astype(np.float32), "TIFF"), deep / 257
    yield "rgba.png", make.encode(np.dstack([levels, alpha]), "PNG"), on_white(levels, alpha)
    yield "rgba.webp", make.encode(np.dstack([levels, alpha]), "WEBP"), on_white(levels, alpha)
    hidden = np.zeros((5, 5, 4), np.uint8)
    hidden[..., 0] = 255
    yield "hidden-red.png", make.encode(hidden, "PNG"), np.full((5, 5), 255)
    both = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
    yield "la.png", make.encode(both, "PNG"), on_white(np.dstack([gray] * 3), alpha)
    palette = np.arange(768, dtype=np.uint8)[::-1].reshape(256, 3)
    paired = Image.new("PA", gray.shape[::-1])
    paired.putpalette(palette.tobytes())
    paired.putdata(list(zip(gray.ravel().tolist(), alpha.ravel().tolist(), strict=True)))
    yield "pa.tiff", make.encode(paired, "TIFF"), on_white(palette[gray], alpha)
    indexed = Image.fromarray(alpha)
    indexed.putpalette(palette.tobytes())
    clear = on_white(palette[alpha], np.where(alpha == 55, 0, 255))
    for form in ("png", "gif"):
        yield f"palette.{form}", make.encode(indexed, form.upper()), palette[alpha]
        yield f"palette-transparent.{form}", make.encode(indexed, form.upper(), transparency=55), clear
    yield "1-bit.png", make.encode(gray > 99, "PNG"), (gray > 99) * 255
    yield "1-bit.tiff", make.encode(gray > 99, "TIFF"), (gray > 99) * 255
    for form in ("jpg", "png", "bmp"):
        kind = "JPEG" if form == "jpg" else form.upper()
        yield f"gray.{form}", make.encode(gray, kind), gray
        yield f"colour.{form}", make.encode(levels, kind), levels
    yield "progressive.jpg", make.encode(levels, "JPEG", progressive=True), levels
    yield "restarts.jpg", make.encode(levels, "JPEG", restart_marker_blocks=2), levels
    ink = np.dstack([levels, levels[::-1, :, 0] // 2])
    cmyk = make.encode(Image.frombytes("CMYK", gray.shape[::-1], ink.tobytes()), "JPEG")
    printed = (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255
    yield "cmyk-adobe.jpg", cmyk, printed
    yield "cmyk.jpg", make.without_adobe_marker(cmyk), printed
    frames = [Image.fromarray(levels[..., channel]) for channel in range(3)]
    yield "moving.gif", make.encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), gray
    colours = [frame.convert("RGB") for frame in frames]
    yield "moving.webp", make.encode(colours[0], "WEBP", save_all=True, append_images=colours[1:]), gray
    for form in ("jpg", "png"):
        kind = "JPEG" if form == "jpg" else "PNG"
        yield f"1x1.{form}", make.encode(np.full((1, 1), 77, np.uint8), kind), np.full((1, 1), 77)
        yield (
            f"1x20000.{form}",
            make.encode(np.full((20_000, 1), 77, np.uint8), kind),
            np.full((20_000, 1), 77),
        )
        swapped = make.encode(levels, kind, icc_profile=make.swapped_profile())
        yield f"profile-swapped.{form}", swapped, levels[..., [1, 0, 2]]
    light = levels / 255
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    yield "profile-linear.png", make.encode(levels, "PNG", icc_profile=make.linear_profile()), encoded


REFUSED = {
    "cut-short.jpg": ("truncated", lambda: make.encode(make.gradient(), "JPEG")[:900]),
    "cut-short.png": ("cannot be decoded", lambda: make.encode(make.gradient(), "PNG")[:-30]),
    "float-beyond.tiff": ("300", lambda: make.encode(np.full((3, 4), 300, np.float32), "TIFF")),
    "levels-beyond.tiff": ("131070", lambda: make.encode(np.full((3, 4), 131070, np.int32), "TIFF")),
    "drawing.svg": ("no picture", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "old.ppm": ("no picture", lambda: make.encode(make.gradient(), "PPM")),
}
"""Name to a word of the refusal, and the file."""


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    pixels = {}
    for name, data, expected in references():
        (FOLDER / name).write_bytes(data)
        pixels[name] = np.clip(np.rint(expected), 0, 255).astype(np.uint8)
    for name, (_, made) in REFUSED.items():
        (FOLDER / name).write_bytes(made())
    np.savez_compressed(PIXELS, **pixels)


if __name__ == "__main__":
    write()
