"""CPU time of a training step under finesight's loop, a hand-written one, and Hugging Face's `Trainer`.

    python -m benchmarks.train_step                 # both workloads
    python -m benchmarks.train_step quickstart      # one of them
    python -m benchmarks.train_step --rounds 4      # a quick look, which is not kept unless --keep is given

Exit status 1 where the losses of the three differ: then the times say nothing.
"""

import argparse
import contextlib
import os
import sys
from dataclasses import dataclass

from benchmarks.harness import Requests, Result, Worker, interleave, largest_difference

TOLERANCE = 1e-5
"""Largest difference of a step's loss that is still the same training, in nats."""

VARIANTS = ("finesight", "bare", "trainer")


@dataclass(frozen=True)
class Plan:
    """`chunk` steps a round; the losses of the first `checked` steps must be equal."""

    rounds: int
    chunk: int
    checked: int
    wanted: str


PLANS = {
    "quickstart": Plan(60, 2, 40, "finesight ≤ 1.03 × bare; trainer > 1 × finesight"),
    "vocabulary": Plan(24, 1, 24, "trainer ≥ 1.55 × finesight"),
}


def work(workload: str, variant: str) -> None:
    """What a worker process does: train, pausing between chunks. Standard output is for the answers alone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    from benchmarks.loops import LOOPS
    from benchmarks.ticks import Finished, Ticks
    from benchmarks.workloads import WORKLOADS

    torch.set_num_threads(1)
    if variant == "trainer":
        os.environ["GLIBC_TUNABLES"] = ""  # finesight then leaves malloc as `Trainer` finds it
    prepared = WORKLOADS[workload]()
    with contextlib.suppress(Finished):
        LOOPS[variant](prepared, Ticks(Requests(sys.stdin, answers)))


def measure(workload: str, rounds: int) -> tuple[Result, float]:
    """Costs by round, and the largest difference of a loss."""
    plan = PLANS[workload]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    workers = {
        name: Worker("benchmarks.train_step", ["--work", workload, name], environment) for name in VARIANTS
    }
    losses: dict[str, list[float]] = {name: [] for name in VARIANTS}
    peaks: dict[str, float] = {}

    def chunk(name: str) -> float:
        told = workers[name].ask(plan.chunk)
        losses[name] += told["losses"]
        peaks[name] = told["peak_bytes"] / 2**20
        return 1000 * float(told["cpu"]) / plan.chunk

    try:
        costs = interleave({name: (lambda name=name: chunk(name)) for name in VARIANTS}, rounds, warm_up=2)
    finally:
        for worker in workers.values():
            worker.close()
    ours = losses["finesight"]
    difference = max(
        largest_difference(ours[: plan.checked], losses[name][: plan.checked]) for name in VARIANTS[1:]
    )
    facts = {
        "wanted": plan.wanted,
        "steps compared": min(plan.checked, len(ours)),
        "largest loss difference": difference,
        "largest loss difference, all steps": max(
            largest_difference(ours, losses[name]) for name in VARIANTS[1:]
        ),
        "loss, first and last step": f"{ours[0]:.4f}, {ours[-1]:.4f}",
        "peak MiB of finesight, bare, trainer": ", ".join(f"{peaks[name]:.0f}" for name in VARIANTS),
    }
    compared = {
        "finesight / bare": ("finesight", "bare"),
        "trainer / finesight": ("trainer", "finesight"),
    }
    return Result(f"train_step-{workload}", "CPU ms a step", costs, compared, facts), difference


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", nargs="?", choices=PLANS, help="default: all")
    parser.add_argument("--rounds", type=int, help="default: enough for stable medians")
    parser.add_argument("--keep", action="store_true", help="write the result though --rounds is given")
    parser.add_argument("--work", nargs=2, metavar=("WORKLOAD", "VARIANT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(*asked.work)
        return 0
    status = 0
    for name in [asked.workload] if asked.workload else PLANS:
        result, difference = measure(name, asked.rounds or PLANS[name].rounds)
        if not difference <= TOLERANCE:
            print(f"{name}: the losses differ by {difference:.3g}, more than {TOLERANCE}", file=sys.stderr)
            status = 1
        if asked.rounds is None or asked.keep:
            result.keep(["python", "-m", "benchmarks.train_step", *sys.argv[1:]])
        else:
            print(f"{result.name} (not kept)\n{result.table()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
