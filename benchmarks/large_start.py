"""Starting with very many rows: cold (every row is checked), then warm (nothing has changed since).

    python -m benchmarks.large_start [--rows 500000]

Writes JSON Lines of questions about small pictures (base64) and times, each start in a fresh process, what stands
between a recipe and its first batch once the libraries are loaded: the index, the check of all rows, the split, the
tokenizer, the tokens, the order. Then examples are read at the beginning, in the middle and at the end of the file.
Exit status 1 where a warm start takes more than 3 seconds, or memory or speed depend on the number of rows.
"""

import argparse
import base64
import gc
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Result

ROWS = 500_000
LIMIT = 3.0
"""Seconds that a warm start may take."""
MOST_BYTES = 250
"""Bytes of memory a row, at the worst moment of a start, that no file holds."""
FLAT = 1.3
"""Ratio of the CPU time of reading at two places that counts as equal: single rounds scatter on a shared machine."""
READ = 1_000
"""Examples that are read at each place."""
WARM = 3
"""Warm starts."""


def write_rows(path: Path, count: int) -> None:
    """Rows with a question, an answer and one of 64 pictures; no two rows are equal."""
    pictures = [base64.b64encode(data).decode() for data in _pictures()]
    with open(path, "w", encoding="utf-8") as stream:
        for number in range(count):
            row = {
                "image": pictures[number % len(pictures)],
                "question": f"What is number {number} of {count}?",
                "answer": f"picture {number % 64} in row {number}, {' and on' * (number % 7)}",
                "group": f"group {number // 4}",
            }
            stream.write(json.dumps(row) + "\n")


def _pictures() -> Iterator[bytes]:
    from PIL import Image

    for number in range(64):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (4 * number, 255 - 4 * number, 128)).save(buffer, "PNG")
        yield buffer.getvalue()


def recipe_of(path: Path) -> dict[str, Any]:
    """A recipe over the rows: a small model from scratch, a tenth of the groups for validation."""
    size = {"layers": 1, "heads": 1, "width": 16, "mlp": 16}
    return {
        "run": {"name": "large", "seed": 7, "device": "cpu"},
        "model": {
            "scratch": {
                "vision": {"image_size": 16, "patch": 4, **size},
                "decoder": {"context": 128, **size},
                "tokenizer": {"vocabulary": 300},
            }
        },
        "data": {"train": {"source": "json", "path": str(path), "group": "group"}, "val": {"split": 0.1}},
        "train": {"max_steps": 10, "batch_size": 32},
    }


def start(path: Path) -> dict[str, Any]:
    """One start in this process, its costs, and the speed of reading at three places."""
    from finesight.config.load import parse_recipe
    from finesight.data.dataset import ExampleSet
    from finesight.data.lengths import Limit
    from finesight.data.loading.loader import windows
    from finesight.data.outline import outline
    from finesight.data.passes.parallel import cores
    from finesight.data.passes.passing import Means
    from finesight.data.policy import Policy
    from finesight.data.sets import read_splits
    from finesight.models.ports import ports_of
    from finesight.models.scratch import build_model, processor_with
    from finesight.runtime.notices import Notices
    from finesight.workflows.prepare import order_of
    from finesight.workflows.tokenizer import learned_tokenizer

    recipe = parse_recipe(recipe_of(path))
    scratch, policy, notices = recipe.model.scratch, Policy(recipe.data), Notices()
    assert scratch is not None
    with Costs() as costs:
        samples = read_splits(recipe.data, recipe.run.seed, policy, notices)
        costs.after("rows")
        processor = processor_with(scratch, learned_tokenizer(scratch.tokenizer.vocabulary, samples["train"]))
        ports = ports_of(processor, build_model(scratch, processor, 7).config)
        costs.after("tokenizer and model")
        means = Means(cores(), recipe.data.timeout, notices=notices)
        sets = {
            name: ExampleSet(part, ports, policy, limit=Limit(), name=name, means=means)
            for name, part in samples.items()
        }
        costs.after("tokens")
        facts = outline(sets)
        costs.after("outline")
        order = order_of(recipe, sets["train"])
        first = next(windows(sets["train"], order, 0, 1, 32, 0))
        costs.after("first batch")
    return {
        **costs.told(),
        "samples": {name: len(part) for name, part in sets.items()},
        "tokens": facts["train"]["tokens"],
        "fingerprint": facts["train"]["fingerprint"],
        "first": list(first[0].ids),
        "milliseconds an example": _reading(sets["train"]),
    }


def _reading(examples: Any) -> dict[str, float]:
    """CPU milliseconds of an example at three places of the file."""
    count = min(READ, len(examples) // 3)
    places = {"beginning": 0, "middle": (len(examples) - count) // 2, "end": len(examples) - count}
    found = {}
    for name, begin in places.items():
        began = time.process_time()
        for index in range(begin, begin + count):
            examples[0, index]
        found[name] = 1000 * (time.process_time() - began) / count
    return found


class Costs:
    """Seconds on the clock and of CPU (workers included), and the most memory that no file holds, of a block."""

    def __enter__(self) -> "Costs":
        gc.collect()
        self._steps: dict[str, float] = {}
        self._cpu, self._began = _cpu(), time.perf_counter()
        self._last, self._before = self._began, _private_bytes()
        self._most, self._done = self._before, threading.Event()
        self._watch = threading.Thread(target=self._watched, daemon=True)
        self._watch.start()
        return self

    def _watched(self) -> None:
        while not self._done.wait(0.01):
            self._most = max(self._most, _private_bytes())

    def after(self, step: str) -> None:
        """Seconds since the step before are this one's."""
        now = time.perf_counter()
        self._steps[step], self._last = now - self._last, now

    def __exit__(self, *_: object) -> None:
        self._seconds, self._spent = time.perf_counter() - self._began, _cpu() - self._cpu
        self._done.set()
        self._watch.join()
        self._after = _private_bytes()

    def told(self) -> dict[str, Any]:
        most = max(self._most, self._after)
        memory = {"kept": self._after - self._before, "most": most - self._before}
        return {"seconds": self._seconds, "cpu": self._spent, "steps": self._steps, "memory": memory}


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _private_bytes() -> int:
    """Memory of this process that no file holds."""
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(1024 * int(line.split()[1]) for line in stream if line.startswith("RssAnon:"))


def measure(folder: Path, rows: int, warm: int) -> list[dict[str, Any]]:
    """A cold start and some warm ones over a new file, each in a process of its own, with a cache of their own."""
    path = folder / f"rows-{rows}.jsonl"
    write_rows(path, rows)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FINESIGHT_CACHE": str(folder / f"cache-{rows}")}
    command = [sys.executable, "-m", "benchmarks.large_start", "--start", str(path)]
    told = []
    for _ in range(1 + warm):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        told.append(json.loads(done.stdout))
        print(f"{rows:,} rows: {told[-1]['seconds']:.1f} s", file=sys.stderr)
    return told


def compare(few: Sequence[Mapping[str, Any]], many: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is said of starts over few and over many rows, the first of each being cold; `faults` is what is wrong."""
    rows = [sum(told[0]["samples"].values()) for told in (few, many)]
    most = [statistics.median(one["memory"]["most"] for one in told[1:]) for told in (few, many)]
    a_row = (most[1] - most[0]) / (rows[1] - rows[0])
    reading = [one["milliseconds an example"] for told in (few, many) for one in told[1:]]
    places = {
        name: statistics.median(one[name] for one in reading[len(few) - 1 :])
        for name in ("beginning", "middle", "end")
    }
    start = statistics.median(one["milliseconds an example"]["beginning"] for one in few[1:])
    slowest = statistics.median(one["seconds"] for one in many[1:])
    faults = []
    for name, told in (("few", few), ("many", many)):
        for what in ("samples", "tokens", "fingerprint", "first"):
            if any(one[what] != told[0][what] for one in told):
                faults.append(f"{name} rows: `{what}` of a warm start is not that of the cold one")
    if slowest > LIMIT:
        faults.append(f"a warm start takes {slowest:.1f} s")
    if a_row > MOST_BYTES:
        faults.append(f"a warm start takes {a_row:.0f} bytes a row")
    if max(places.values()) > FLAT * start:
        faults.append("reading gets slower with the number of rows")
    return {
        "bytes a row of a warm start": a_row,
        **{f"CPU ms an example at the {name}": value for name, value in places.items()},
        f"CPU ms an example of {rows[0]:,}": start,
        "steps of the cold start": many[0]["steps"],
        "steps of the last warm start": many[-1]["steps"],
        "rows a second when checked": rows[1] / many[0]["seconds"],
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start is not None:
        print(json.dumps(start(given.start)))
        return 0
    with tempfile.TemporaryDirectory(prefix="finesight-benchmark-") as folder:
        few, many = (measure(Path(folder), rows, WARM) for rows in (given.rows // 10, given.rows))
    told = compare(few, many)
    costs = {
        f"{kind} start, {rows:,} rows": [one["seconds"] for one in some]
        for rows, starts in ((given.rows // 10, few), (given.rows, many))
        for kind, some in (("cold", starts[:1]), ("warm", starts[1:]))
    }
    costs["CPU of a warm start"] = [one["cpu"] for one in many[1:]]
    result = Result("large_start", "s", costs, {}, {"wanted": f"warm ≤ {LIMIT:g} s", **told})
    command = ["python", "-m", "benchmarks.large_start", *sys.argv[1:]]
    if given.rows == ROWS:
        result.keep(command)
    else:
        print(result.table())
    return 1 if told["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
