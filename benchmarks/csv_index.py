"""Opening a 1 GiB CSV of base64 pictures, and reading its rows at random, beside what one would use without finesight.

    python -m benchmarks.csv_index

`open` counts the CPU seconds of an opening in a fresh process, after all imports: finesight for the first time (the
index is made and the file hashed) and again (the index is mapped), `pandas.read_csv`, and the standard library's `csv`
read through once. `rows` counts what a random row costs until its picture's bytes are there: finesight's row, and the
same bytes cut by the same index, parsed by `csv`; both decode base64 by `pybase64`. `many` opens a CSV of 500,000
short rows again. Exit status 1 where a figure is beyond its limit.
"""

import argparse
import base64
import csv
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Result, interleave, spread
from finesight.data.pictures.load import decode_base64
from finesight.data.sources.csv import CsvReader

CPU_SECONDS, PRIVATE_BYTES, TIMES, WARM_SECONDS = 1.0, 100_000_000, 10.0, 3.0
"""Limits: of a first opening, and of the memory that it takes; of the ratio of rows; of 500,000 rows with an index."""

_PICTURES = 64
_COLUMN = "b64string_images"


def write_pictures(path: Path, size: int) -> None:
    """A CSV of at least `size` bytes: base64 of 20 to 90 kB, a caption, and a quoted note with a line break."""
    draw = random.Random(0)
    pictures = [base64.b64encode(draw.randbytes(3 * draw.randint(7_000, 30_000))) for _ in range(_PICTURES)]
    with open(path, "wb", buffering=1 << 20) as stream:
        stream.write(f"{_COLUMN},caption,note\r\n".encode())
        number = 0
        while stream.tell() < size:
            picture = pictures[draw.randrange(_PICTURES)]
            turn = 4 * draw.randrange(len(picture) // 4)  # no two rows are alike
            words = b',a picture with number %d,"it says ""%d"",\r\nand more"\r\n' % (number, number)
            stream.write(picture[turn:] + picture[:turn] + words)
            number += 1


def write_short(path: Path, rows: int) -> None:
    """A CSV of short rows."""
    with open(path, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("image", "question", "answer"))
        table.writerows(
            (f"{n}.png", f"What is number {n}, and why?", f"a picture\nof {n}") for n in range(rows)
        )


def opener(kind: str) -> Callable[[Path], int]:
    """What opens a CSV as `kind` does and tells the number of its rows, with all that it imports."""
    if kind == "finesight":
        return lambda path: len(CsvReader(path, ",", path.parent))
    if kind == "pandas":
        import pandas

        return lambda path: len(pandas.read_csv(path))
    csv.field_size_limit(1 << 30)
    return _read_through


def _read_through(path: Path) -> int:
    with open(path, encoding="utf-8", newline="") as stream:
        return sum(1 for _ in csv.reader(stream)) - 1


def opened(kind: str, path: Path) -> Mapping[str, float]:
    """What one opening in this process costs: CPU seconds, bytes beyond the imports, and of the whole process."""
    open_it, unit = opener(kind), 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF)
    rows = open_it(path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    more, whole = (after.ru_maxrss - before.ru_maxrss) * unit, after.ru_maxrss * unit
    return {"cpu": seconds, "bytes": more, "peak": whole, "rows": rows}


def in_a_fresh_process(kind: str, path: Path, cache: Path) -> Mapping[str, float]:
    """The same in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FINESIGHT_CACHE": str(cache)}
    command = [sys.executable, "-m", "benchmarks.csv_index", "--opened", kind, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind} ended with status {done.returncode}: {done.stderr.strip()}")
    told: dict[str, float] = json.loads(done.stdout)
    return told


class Rows:
    """Two ways to the bytes of a random row's picture."""

    def __init__(self, path: Path) -> None:
        self._reader = CsvReader(path, ",", path.parent)
        self._descriptor = os.open(path, os.O_RDONLY)
        self._offsets = self._reader._index.offsets
        csv.field_size_limit(1 << 30)

    def finesight(self, index: int) -> bytes:
        return decode_base64(self._reader.row(index, (_COLUMN,))[_COLUMN], "")

    def parsed(self, index: int) -> bytes:
        start, end = int(self._offsets[index + 1]), int(self._offsets[index + 2])
        text = os.pread(self._descriptor, end - start, start).decode()
        return decode_base64(next(csv.reader(io.StringIO(text, newline="")))[0], "")

    def cost(self, way: Callable[[int], bytes], seed: int, count: int) -> float:
        """CPU microseconds a row, over `count` random rows; the same for both ways."""
        chosen = random.Random(seed).choices(range(len(self._reader)), k=count)
        began = time.process_time()
        for index in chosen:
            way(index)
        return 1e6 * (time.process_time() - began) / count

    def differ(self, count: int) -> int:
        """Rows, of some at random, whose bytes are not equal."""
        chosen = random.Random(0).choices(range(len(self._reader)), k=count)
        return sum(self.finesight(index) != self.parsed(index) for index in chosen)


def measure_open(path: Path, rounds: int, folder: Path) -> Result:
    told: dict[str, list[Mapping[str, float]]] = {}

    def variant(name: str, kind: str, cold: bool) -> Callable[[], float]:
        def run() -> float:
            cache = Path(tempfile.mkdtemp(dir=folder)) if cold else folder / "warm"
            told.setdefault(name, []).append(in_a_fresh_process(kind, path, cache))
            return told[name][-1]["cpu"]

        return run

    variants = {
        "finesight": variant("finesight", "finesight", cold=True),
        "finesight again": variant("finesight again", "finesight", cold=False),
        "pandas": variant("pandas", "pandas", cold=False),
        "csv": variant("csv", "csv", cold=False),
    }
    costs = interleave(variants, rounds, 1)
    facts: dict[str, Any] = {
        "wanted": f"finesight ≤ {CPU_SECONDS} CPU s and ≤ {PRIVATE_BYTES / 1e6:.0f} MB beyond the imports",
        "bytes of the file": path.stat().st_size,
        "rows": {name: sorted({one["rows"] for one in all_}) for name, all_ in told.items()},
        "MB beyond the imports": {
            name: max(one["bytes"] for one in all_) / 1e6 for name, all_ in told.items()
        },
        "MB of the whole process": {
            name: max(one["peak"] for one in all_) / 1e6 for name, all_ in told.items()
        },
    }
    compared = {f"{other} / finesight": (other, "finesight") for other in ("pandas", "csv")}
    return Result("csv_index-open", "CPU s", costs, compared, facts)


def measure_rows(path: Path, rounds: int, count: int) -> Result:
    rows = Rows(path)
    turn = [0]

    def variant(way: Callable[[int], bytes]) -> Callable[[], float]:
        def run() -> float:
            turn[0] += 1
            return rows.cost(way, (turn[0] - 1) // 2, count)  # both meet the same rows in a round

        return run

    costs = interleave(
        {"finesight": variant(rows.finesight), "index and csv": variant(rows.parsed)}, rounds, 1
    )
    facts = {
        "wanted": f"index and csv / finesight ≥ {TIMES:.0f}",
        "rows a round": count,
        "rows that differ, of 500": rows.differ(500),
    }
    compared = {"index and csv / finesight": ("index and csv", "finesight")}
    return Result("csv_index-rows", "CPU µs a row", costs, compared, facts)


def measure_many(path: Path, rounds: int, cache: Path) -> Result:
    variants = {"500,000 rows again": lambda: in_a_fresh_process("finesight", path, cache)["cpu"]}
    costs = interleave(variants, rounds, 1)
    facts = {"wanted": f"≤ {WARM_SECONDS} CPU s", "bytes of the file": path.stat().st_size}
    return Result("csv_index-many", "CPU s", costs, {}, facts)


def kept(results: Sequence[Result]) -> bool:
    """Whether all figures are within their limits."""
    found = {result.name: result for result in results}
    first = found["csv_index-open"]
    return (
        first.spreads()["finesight"].median <= CPU_SECONDS
        and first.facts["MB beyond the imports"]["finesight"] * 1e6 <= PRIVATE_BYTES
        and len({tuple(rows) for rows in first.facts["rows"].values()}) == 1
        and spread(found["csv_index-rows"].ratios()["index and csv / finesight"]).median >= TIMES
        and found["csv_index-rows"].facts["rows that differ, of 500"] == 0
        and found["csv_index-many"].spreads()["500,000 rows again"].median <= WARM_SECONDS
    )


def measure(size: int, short: int, rounds: int, count: int) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="finesight-csv-") as name:
        folder = Path(name)
        os.environ["FINESIGHT_CACHE"] = str(folder / "warm")
        write_pictures(folder / "pictures.csv", size)
        write_short(folder / "short.csv", short)
        time.sleep(2.1)  # a file that has just been changed is read once more before its index is believed
        return [
            measure_open(folder / "pictures.csv", rounds, folder),
            measure_rows(folder / "pictures.csv", max(rounds, 3), count),
            measure_many(folder / "short.csv", rounds, folder / "warm"),
        ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=1 << 30, help="size of the file of pictures")
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the file of short rows")
    parser.add_argument("--opened", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.opened:
        print(json.dumps(opened(asked.opened[0], Path(asked.opened[1]))))
        return 0
    results = measure(asked.bytes, asked.rows, asked.rounds, 400)
    for result in results:
        result.keep(["python", "-m", "benchmarks.csv_index", *sys.argv[1:]])
    return 0 if kept(results) else 1


if __name__ == "__main__":
    sys.exit(main())
