"""The quickstart's promise: three seeds, two floors, both above what needs no learning.

    python benchmarks/quickstart.py --seeds 7 8 9     # trains each, writes benchmarks/results/quickstart-DATE.json
    python benchmarks/quickstart.py --check runs/quickstart     # what CI asks of the one seed that it trains

A floor is the exact match on 40 countries never seen and on an artist never seen; the difference to each baseline
(paired bootstrap, resampled by country) must have an interval above zero. The time is that of training and evaluation.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from finesight.runtime.environment import describe_machine, git_state, versions
from finesight.runtime.files import write_json

SLICES = {"held_out=country": (0.44, 0.36), "held_out=artist": (0.88, 0.82)}
"""Floors of the median of three seeds, and of the single seed that CI trains."""

SECONDS = 240
"""Training and evaluation on two cores that do nothing else."""


def read(run: Path) -> dict[str, Any]:
    """Scores, differences to the baselines and seconds of a finished quickstart."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"seconds": sum(results["seconds"].values())}
    for name in SLICES:
        score = next(s for s in results["scores"] if s["slice"] == name and s["name"] == "exact_match")
        differences = [b for b in results["baselines"] if b["slice"] == name and b["name"] == "exact_match"]
        found[name] = {
            "exact_match": score["value"],
            "interval": [score["low"], score["high"]],
            "count": score["count"],
            "baselines": {b["baseline"]: b["value"] for b in differences},
            "lead_low": {b["baseline"]: b["low"] for b in differences},
        }
    return found


def faults(scores: dict[str, float], leads: dict[str, list[float]], floor: int) -> list[str]:
    """What falls short; `floor` is 0 for the median of three seeds, 1 for a single one."""
    short = [
        f"{name}: exact match {scores[name]:.3f} is under {SLICES[name][floor]}"
        for name in SLICES
        if scores[name] < SLICES[name][floor]
    ]
    return short + [
        f"{name}: not clearly above a baseline (lowest lead {min(low):.3f})"
        for name, low in leads.items()
        if min(low) <= 0
    ]


def check(run: Path) -> int:
    """Hold one finished run against CI's floors."""
    found = read(run)
    print(json.dumps(found, indent=1))
    scores = {name: found[name]["exact_match"] for name in SLICES}
    wrong = faults(scores, {}, floor=1)  # one seed says too little of the leads
    print(*(wrong or ["the quickstart keeps its promise"]), sep="\n")
    return 1 if wrong else 0


def train_seeds(seeds: list[int], words: list[str]) -> int:
    """Train the quickstart once a seed, and write what came out."""
    import finesight as fs

    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            began, cpu = time.perf_counter(), time.process_time()
            overrides = {word.split("=", 1)[0]: word.split("=", 1)[1] for word in words}
            fs.train("quickstart", **{"run.seed": seed, "run.dir": f"{folder}/{seed}", **overrides})
            runs[str(seed)] = {
                **read(Path(folder) / str(seed)),
                "wall_seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - cpu,
            }
            print(seed, json.dumps(runs[str(seed)]), flush=True)
    medians = {name: statistics.median(run[name]["exact_match"] for run in runs.values()) for name in SLICES}
    leads = {
        name: [low for run in runs.values() for low in run[name]["lead_low"].values()] for name in SLICES
    }
    wrong = faults(medians, leads, floor=0)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    document = {
        "date": today,
        "command": " ".join(sys.argv),
        "machine": {**describe_machine(), "load": os.getloadavg()},
        "versions": versions(),
        "git": git_state(Path.cwd()),
        "medians": medians,
        "seconds_median": statistics.median(run["seconds"] for run in runs.values()),
        "short_of": wrong,
        "runs": runs,
    }
    write_json(Path(__file__).parent / "results" / f"quickstart-{today}.json", document)
    print(json.dumps({"medians": medians, "short_of": wrong}, indent=1))
    return 1 if wrong else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--check", type=Path, help="a finished run to hold against CI's floors")
    parser.add_argument("words", nargs="*", help="overrides, KEY=VALUE")
    arguments = parser.parse_args()
    return check(arguments.check) if arguments.check else train_seeds(arguments.seeds, arguments.words)


if __name__ == "__main__":
    sys.exit(main())
