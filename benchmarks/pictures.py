"""CPU time from a JPEG file's bytes to what a model is given, beside the PIL processor of `transformers`.

    python -m benchmarks.pictures               # both sizes
    python -m benchmarks.pictures vga           # one of them
    python -m benchmarks.pictures --rounds 3    # a quick look, which is not kept unless --keep is given

No photographs are shipped, so the files are made here from the one that matplotlib brings (a portrait of 512 × 600):
cut, enlarged to a camera's size, given grain, and saved at the quality that makes them as large as camera files are.
Exit status 1 where the pixels differ by more than one level from the processor's: then the times say nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import Result, interleave

PICTURES = 8
MOST = 1
"""Largest difference in levels that is still the same picture."""


@dataclass(frozen=True)
class Plan:
    """Pictures of `width` × `height` and about `kilobytes`, for a model of `side` × `side`."""

    width: int
    height: int
    kilobytes: int
    side: int
    rounds: int
    wanted: str


PLANS = {
    "vga": Plan(640, 480, 62, 224, 40, "PIL processor ≥ 3.5 × finesight, difference ≤ 1 level"),
    "camera": Plan(2016, 1512, 578, 384, 20, "difference ≤ 1 level"),
}


def photographs(plan: Plan, count: int = PICTURES) -> list[bytes]:
    """JPEG files (4:2:0) of the plan's size, each another cut of the photograph with grain of its own."""
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photograph = Image.open(file).convert("RGB")
    random = np.random.default_rng(7)
    files = []
    for _ in range(count):
        wide = int(random.integers(300, photograph.width))
        high = min(photograph.height, wide * plan.height // plan.width)
        left, top = random.integers(photograph.width - wide), random.integers(photograph.height - high)
        cut = photograph.crop((int(left), int(top), int(left) + wide, int(top) + high))
        levels = np.asarray(cut.resize((plan.width, plan.height), Image.Resampling.BICUBIC), np.float32)
        grain = random.normal(0, 5, levels.shape[:2]).astype(np.float32)[..., None]
        files.append(_saved(np.clip(levels + grain, 0, 255).astype(np.uint8), plan.kilobytes * 1000))
    return files


def _saved(levels: np.ndarray, size: int) -> bytes:
    """The JPEG of the quality whose size comes nearest to `size` bytes."""
    low, high, best = 5, 96, b""
    while low < high:
        quality = (low + high) // 2
        file = BytesIO()
        Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=2)
        data = file.getvalue()
        if not best or abs(len(data) - size) < abs(len(best) - size):
            best = data
        if len(data) < size:
            low = quality + 1
        else:
            high = quality
    return best


def routes(side: int) -> dict[str, Callable[[bytes], Any]]:
    """From a file's bytes to a model's input, by name: bytes as finesight's models take them, floats as others do."""
    import torch
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from finesight.data.pictures.load import load_picture, resize

    processor = CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) * 255 for values in (processor.image_mean, processor.image_std)
    )

    def ours(data: bytes) -> np.ndarray:
        return resize(load_picture(data, "a picture"), side, side, "bicubic")

    def floats(data: bytes) -> Any:
        return torch.from_numpy(ours(data)).float().sub_(mean).div_(std)

    def by_pillow(data: bytes) -> Any:
        with without_simplejpeg():
            return ours(data)

    def theirs(data: bytes) -> Any:
        return processor(Image.open(BytesIO(data)).convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def bare(data: bytes) -> np.ndarray:
        small = Image.open(BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(small).transpose(2, 0, 1)

    return {
        "finesight": ours,
        "finesight, as floats": floats,
        "finesight without simplejpeg": by_pillow,
        "PIL processor": theirs,
        "Pillow alone": bare,
    }


@contextmanager
def without_simplejpeg() -> Any:
    """finesight as it is where `simplejpeg` is not installed."""
    from finesight.data.pictures import jpeg

    kept = jpeg.turbo
    jpeg.turbo = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        jpeg.turbo = kept  # type: ignore[assignment]


def differences(
    files: Sequence[bytes], one: Callable[[bytes], Any], other: Callable[[bytes], Any]
) -> dict[str, float]:
    """Largest and mean difference in levels of two routes that give bytes."""
    apart = [
        np.abs(np.asarray(one(data)).astype(int) - np.asarray(other(data)).astype(int)) for data in files
    ]
    return {
        "largest difference, levels": int(max(each.max() for each in apart)),
        "mean difference, levels": float(np.mean([each.mean() for each in apart])),
    }


def measure(name: str, rounds: int, count: int = PICTURES) -> tuple[Result, int]:
    """Costs by round, and the largest difference in levels."""
    import torch

    torch.set_num_threads(1)
    plan = PLANS[name]
    files, ways = photographs(plan, count), routes(plan.side)

    def cost(way: Callable[[bytes], Any]) -> float:
        began = time.process_time()
        for data in files:
            way(data)
        return 1000 * (time.process_time() - began) / len(files)

    costs = interleave({way: (lambda way=way: cost(ways[way])) for way in ways}, rounds, warm_up=2)
    # `Pillow alone` gives the processor's own levels, before it makes floats of them
    apart = differences(files, ways["finesight"], ways["Pillow alone"])
    facts = {
        "wanted": plan.wanted,
        "pictures": f"{count} of {plan.width} × {plan.height}, {np.mean([len(data) for data in files]) / 1000:.0f} kB",
        "model input": f"3 × {plan.side} × {plan.side}",
        **apart,
    }
    compared = {
        "PIL processor / finesight": ("PIL processor", "finesight"),
        "PIL processor / finesight, as floats": ("PIL processor", "finesight, as floats"),
        "PIL processor / finesight without simplejpeg": ("PIL processor", "finesight without simplejpeg"),
    }
    result = Result(f"pictures-{name}", "CPU ms a picture", costs, compared, facts)
    return result, int(apart["largest difference, levels"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", nargs="?", choices=PLANS, help="default: all")
    parser.add_argument("--rounds", type=int, help="default: enough for stable medians")
    parser.add_argument("--keep", action="store_true", help="write the result though --rounds is given")
    asked = parser.parse_args()
    status = 0
    for name in [asked.size] if asked.size else PLANS:
        result, difference = measure(name, asked.rounds or PLANS[name].rounds)
        if difference > MOST:
            print(f"{name}: the pixels differ by {difference} levels, more than {MOST}", file=sys.stderr)
            status = 1
        if asked.rounds is None or asked.keep:
            result.keep(["python", "-m", "benchmarks.pictures", *sys.argv[1:]])
        else:
            print(f"{result.name} (not kept)\n{result.table()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
