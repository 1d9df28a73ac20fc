"""What recipes promise: scores on what was never seen, above what needs no learning, in so many seconds.

    python -m benchmarks.promises quickstart --seeds 7 8 9   # trains each, and writes results/quickstart-DATE.json
    python -m benchmarks.promises things --seeds 7 8 9
    python -m benchmarks.promises quickstart --check runs/quickstart   # what CI asks of the one seed that it trains

A floor is the exact match on a slice of the test set. Where the recipe measures baselines, the difference to each
(paired bootstrap, resampled by group) must have an interval above zero. The time is that of preparing pictures, where
the recipe keeps their features, and of training and evaluation.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import circumstances, keep


@dataclass(frozen=True)
class Promise:
    """Floors of the exact match by slice: of the median of three seeds, and of the single seed that CI trains.

    `seconds` is the most of a median run on two cores that do nothing else, the command from its start to its end.
    """

    floors: Mapping[str, tuple[float, float]]
    seconds: float


PROMISES = {
    "quickstart": Promise({"held_out=country": (0.44, 0.36), "held_out=artist": (0.88, 0.82)}, 240),
    "things": Promise({"all": (0.58, 0.5)}, 120),
}


def read(run: Path, promise: Promise) -> dict[str, Any]:
    """Scores, differences to the baselines and seconds of a finished run."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"seconds": sum(results["seconds"].values())}
    for name in promise.floors:
        score = next(s for s in results["scores"] if s["slice"] == name and s["name"] == "exact_match")
        baselines = [
            b for b in results.get("baselines", []) if b["slice"] == name and b["name"] == "exact_match"
        ]
        found[name] = {
            "exact_match": score["value"],
            "interval": [score["low"], score["high"]],
            "count": score["count"],
            "baselines": {b["baseline"]: b["value"] for b in baselines},
            "lead_low": {b["baseline"]: b["low"] for b in baselines},
        }
    return found


def faults(
    promise: Promise, scores: Mapping[str, float], leads: Mapping[str, list[float]], floor: int
) -> list[str]:
    """What falls short; `floor` is 0 for the median of three seeds, 1 for a single one."""
    short = [
        f"{name}: exact match {scores[name]:.3f} is under {floors[floor]}"
        for name, floors in promise.floors.items()
        if scores[name] < floors[floor]
    ]
    return short + [
        f"{name}: not clearly above a baseline (lowest lead {min(low):.3f})"
        for name, low in leads.items()
        if low and min(low) <= 0
    ]


def check(promise: Promise, run: Path) -> int:
    """Hold one finished run against CI's floors."""
    found = read(run, promise)
    print(json.dumps(found, indent=1))
    scores = {name: found[name]["exact_match"] for name in promise.floors}
    wrong = faults(promise, scores, {}, floor=1)  # one seed says too little of the leads
    print(*(wrong or [f"{run} keeps its promise"]), sep="\n")
    return 1 if wrong else 0


def train_seeds(recipe: str, seeds: list[int], words: list[str]) -> int:
    """Train the recipe once a seed, each with an empty cache, and write what came out."""
    import finesight as fs

    promise, runs = PROMISES[recipe], {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            os.environ["FINESIGHT_CACHE"] = f"{folder}/cache-{seed}"
            began, cpu = time.perf_counter(), time.process_time()
            overrides = {word.split("=", 1)[0]: word.split("=", 1)[1] for word in words}
            fs.train(recipe, **{"run.seed": seed, "run.dir": f"{folder}/{seed}", **overrides})
            runs[str(seed)] = {
                **read(Path(folder) / str(seed), promise),
                "wall_seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - cpu,
            }
            print(seed, json.dumps(runs[str(seed)]), flush=True)
    medians = {
        name: statistics.median(run[name]["exact_match"] for run in runs.values()) for name in promise.floors
    }
    leads = {
        name: [low for run in runs.values() for low in run[name]["lead_low"].values()]
        for name in promise.floors
    }
    wall = statistics.median(run["wall_seconds"] for run in runs.values())
    wrong = faults(promise, medians, leads, floor=0)
    if wall > promise.seconds:
        wrong.append(f"{wall:.0f} s are more than {promise.seconds:.0f}")
    document = {
        **circumstances(recipe, ["python -m benchmarks.promises", *sys.argv[1:]]),
        "medians": medians,
        "seconds_median": statistics.median(run["seconds"] for run in runs.values()),
        "wall_seconds_median": wall,
        "short_of": wrong,
        "runs": runs,
    }
    keep(document)
    print(json.dumps({"medians": medians, "wall_seconds_median": wall, "short_of": wrong}, indent=1))
    return 1 if wrong else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=PROMISES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--check", type=Path, help="a finished run to hold against CI's floors")
    parser.add_argument("words", nargs="*", help="overrides, KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.check:
        return check(PROMISES[arguments.recipe], arguments.check)
    return train_seeds(arguments.recipe, arguments.seeds, arguments.words)


if __name__ == "__main__":
    sys.exit(main())
