"""Samples through the loader, beside torch's `DataLoader` doing the same work; and memory over half a million samples.

    python -m benchmarks.loader                     # both parts
    python -m benchmarks.loader --rounds 2          # a quick look, which is not kept unless --keep is given

The same samples (JPEG of 640 × 480 in base64 in a CSV, read, decoded, brought to 224 × 224, in batches of 32) come
through `windows` with 0, 1 and 2 workers, and through a `DataLoader` over a map-style dataset whose items are the same
examples and whose `collate_fn` is the same function. Workers are started and ended within what is measured.
Exit status 1 where the batches of the two differ, or where memory grows.
"""

import argparse
import base64
import csv
import gc
import io
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Result, interleave
from finesight.config.data import Data
from finesight.config.model import Decoder, Scratch, Tokenizer, Vision
from finesight.config.sources import CsvSource
from finesight.core.batch import IGNORE, Batch, Example, pixel_values
from finesight.core.sample import Origin
from finesight.data.dataset import ExampleSet
from finesight.data.loading.collate import collate
from finesight.data.loading.loader import windows
from finesight.data.loading.order import Order
from finesight.data.policy import Policy
from finesight.data.sets import read_samples
from finesight.models.ports import ports_of
from finesight.models.scratch import build_config, build_processor
from finesight.runtime.notices import Notices

SAMPLES, BATCH, SEED = 512, 32, 7
WORKERS = (0, 1, 2)
ROWS = 500_000
GROWTH = 32.0
"""MiB by which the memory of all processes together may grow from the first to the last tenth of the rows."""


def jpeg(number: int, width: int = 640, height: int = 480) -> bytes:
    """A picture with shapes and some noise, as many bytes as a photograph of its size."""
    draw = np.random.default_rng(number)
    coarse = draw.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(image, dtype=np.int16) + draw.normal(0, 8, (height, width, 3)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def examples_of(folder: Path, samples: int = SAMPLES, size: int = 224) -> ExampleSet:
    """Examples of a CSV of pictures, for a model from scratch."""
    path = folder / "pictures.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "question", "answer"])
        for number in range(samples):
            cell = base64.b64encode(jpeg(number)).decode()
            table.writerow([cell, "What is in this picture?", "some words " * (1 + number % 9)])
    source = CsvSource(source="csv", path=str(path))
    policy = Policy(Data(train=source))
    read = read_samples(source, policy, Notices(), "train")
    part = {"layers": 1, "heads": 1, "width": 8, "mlp": 8}
    scratch = Scratch(
        vision=Vision(image_size=size, patch=16, **part),
        decoder=Decoder(context=512, **part),
        tokenizer=Tokenizer(vocabulary=300),
    )
    processor = build_processor(scratch, ["What is in this picture? some words"])
    return ExampleSet(read, ports_of(processor, build_config(scratch, processor)), policy)


class _Items(Dataset[Example]):
    """What one would write for a `DataLoader`."""

    def __init__(self, examples: ExampleSet) -> None:
        self._examples = examples

    def __getitem__(self, index: int) -> Example:
        return self._examples[0, index]


def ours(examples: ExampleSet, order: Order, workers: int) -> Iterator[Batch]:
    for window in windows(examples, order, 0, order.steps_per_epoch, BATCH, workers):
        yield from window


def theirs(examples: ExampleSet, order: Order, workers: int) -> Iterable[Batch]:
    batches = [order.batch(step)[1].tolist() for step in range(order.steps_per_epoch)]
    together = partial(collate, pad_id=examples.ports.pad_id)
    return DataLoader(_Items(examples), batch_sampler=batches, collate_fn=together, num_workers=workers)


def _spent() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def content(batch: Batch) -> tuple[Any, ...]:
    return (
        batch.ids,
        batch.supervised,
        *(t.numpy().tobytes() for t in (*batch.inputs.values(), batch.targets)),
    )


def measure(rounds: int, folder: Path) -> tuple[Result, bool]:
    """CPU ms a sample by variant; whether all variants gave the same batches."""
    examples = examples_of(folder)
    order = Order(examples.fingerprint, SEED, BATCH, examples.lengths)
    makers: dict[str, Callable[[], Iterable[Batch]]] = {}
    for count in WORKERS:
        makers[f"finesight, {count} workers"] = partial(ours, examples, order, count)
        makers[f"DataLoader, {count} workers"] = partial(theirs, examples, order, count)
    wall: dict[str, list[float]] = {name: [] for name in makers}

    def cost(name: str) -> float:
        gc.collect()
        began, clock = _spent(), time.perf_counter()
        seen = sum(len(batch.ids) for batch in makers[name]())
        wall[name].append(seen / (time.perf_counter() - clock))
        return 1000 * (_spent() - began) / seen

    reference = [content(batch) for batch in makers["finesight, 0 workers"]()]
    equal = all([content(batch) for batch in make()] == reference for make in makers.values())
    costs = interleave({name: partial(cost, name) for name in makers}, rounds, warm_up=1)
    compared = {
        f"DataLoader / finesight, {count} workers": (
            f"DataLoader, {count} workers",
            f"finesight, {count} workers",
        )
        for count in WORKERS
    }
    facts: dict[str, Any] = {"wanted": "DataLoader / finesight ≥ 0.97", "batches are equal": equal}
    for name, rates in wall.items():
        facts[f"samples a second on the wall: {name}"] = round(statistics.median(rates), 1)
    return Result("loader", "CPU ms a sample", costs, compared, facts), equal


class Synthetic:
    """As many examples as one likes, each made when it is asked for; as much of an `ExampleSet` as the loader sees."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.ports = SimpleNamespace(pad_id=0)
        self.lengths = 8 + np.arange(count, dtype=np.int32) % 57
        self.samples = self

    def __len__(self) -> int:
        return self._count

    def id(self, index: int) -> str:
        return f"made-up-{index}"

    def origin(self, index: int) -> Origin:
        return Origin("made up", index + 1)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        _, index = key
        tokens = np.arange(self.lengths[index], dtype=np.int32)
        picture = np.full((3, 8, 8), index % 256, dtype=np.uint8)
        return Example(self.id(index), tokens, np.where(tokens > 3, tokens, IGNORE), pixel_values([picture]))


def _memory() -> float:
    """MiB that this process and its children have for themselves, what they share counted once."""
    here = psutil.Process()
    return sum(one.memory_full_info().pss for one in [here, *here.children()]) / 2**20


def memory(rows: int = ROWS, workers: int = 2) -> dict[str, Any]:
    """Memory of all processes while an epoch of `rows` samples goes through the loader, and samples a second."""
    examples: Any = Synthetic(rows)
    order = Order("made up", SEED, 256, examples.lengths, window=50)
    steps = order.steps_per_epoch
    marks, rates = [], []
    clock = time.perf_counter()
    for step, _ in enumerate(windows(examples, order, 0, steps, 256, workers), 1):
        if step % max(1, steps // 20) == 0:
            rates.append(256 * max(1, steps // 20) / (time.perf_counter() - clock))
            marks.append(_memory())
            clock = time.perf_counter()
    tenth = max(1, len(marks) // 10)
    return {
        f"MiB at the first and the last tenth of {rows:,} samples": [
            round(statistics.fmean(part), 1) for part in (marks[:tenth], marks[-tenth:])
        ],
        "MiB of growth": round(statistics.fmean(marks[-tenth:]) - statistics.fmean(marks[:tenth]), 1),
        "thousand samples a second on the wall, first and last tenth": [
            round(statistics.fmean(part) / 1000, 1) for part in (rates[:tenth], rates[-tenth:])
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="default: enough for stable medians")
    parser.add_argument("--keep", action="store_true", help="write the result though --rounds is given")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FINESIGHT_CACHE"] = str(Path(folder) / "cache")
        result, equal = measure(asked.rounds or 12, Path(folder))
    held = memory()
    result = Result(result.name, result.unit, result.rounds, result.compared, {**result.facts, **held})
    if asked.rounds is None or asked.keep:
        result.keep(["python", "-m", "benchmarks.loader", *sys.argv[1:]])
    else:
        print(f"{result.name} (not kept)\n{result.table()}")
    if not equal:
        print("the batches differ, so the times say nothing", file=sys.stderr)
    grown = held["MiB of growth"] > GROWTH
    if grown:
        print(f"memory grew by more than {GROWTH} MiB", file=sys.stderr)
    return 1 if grown or not equal else 0


if __name__ == "__main__":
    sys.exit(main())
