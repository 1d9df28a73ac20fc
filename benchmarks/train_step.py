"""CPU time of a training step under finesight's loop, a hand-written one, `Trainer`, and TRL's `SFTTrainer`.

    python -m benchmarks.train_step                 # all workloads
    python -m benchmarks.train_step quickstart      # one of them
    python -m benchmarks.train_step --rounds 4      # a quick look, which is not kept unless --keep is given

Exit status 1 where the losses differ: then the times say nothing.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import Requests, Result, Worker, interleave, largest_difference, one_thread
from benchmarks.lacking import NEEDS, missing

TOLERANCE = 1e-5
"""Largest difference of a step's loss that is still the same training, in nats."""


@dataclass(frozen=True)
class Plan:
    """`chunk` steps a round; the losses of the first `checked` steps must be equal.

    `wanted` has the ratios of interest: the variant above, the one below, and the least that is wanted (a ratio to
    `bare`: the most).
    """

    rounds: int
    chunk: int
    checked: int
    variants: tuple[str, ...]
    wanted: dict[str, tuple[str, str, float]]


_BARE = {"finesight / bare": ("finesight", "bare", 1.03)}
_FROZEN = {
    "trainer / finesight": ("trainer", "finesight", 2.2),
    "sft / finesight": ("sft", "finesight", 4.0),
    "sft by default / finesight": ("sft_default", "finesight", 4.0),
    "trainer / finesight, features kept": ("trainer", "cached", 2.5),
    **_BARE,
}
PLANS = {
    "quickstart": Plan(
        60,
        2,
        40,
        ("finesight", "bare", "trainer"),
        {**_BARE, "trainer / finesight": ("trainer", "finesight", 1.0)},
    ),
    "vocabulary": Plan(
        24,
        1,
        24,
        ("finesight", "bare", "trainer", "sft"),
        {
            **_BARE,
            "trainer / finesight": ("trainer", "finesight", 1.55),
            "sft / finesight": ("sft", "finesight", 1.55),
        },
    ),
    "frozen": Plan(16, 1, 16, ("finesight", "cached", "bare", "trainer", "sft", "sft_default"), _FROZEN),
    "small": Plan(2, 1, 2, ("finesight", "cached", "bare", "trainer", "sft", "sft_default"), _FROZEN),
}
"""`small` only shows that it runs, and is not among those that run without a name."""


def work(workload: str, variant: str) -> None:
    """What a worker process does: train, pausing between chunks. Standard output is for the answers alone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    from benchmarks.loops import loop_of
    from benchmarks.ticks import Finished, Ticks
    from benchmarks.workloads import WORKLOADS

    torch.set_num_threads(1)
    if variant in NEEDS:
        os.environ["GLIBC_TUNABLES"] = ""  # finesight then leaves malloc as `Trainer` finds it
    prepared = WORKLOADS[workload]()
    with contextlib.suppress(Finished):
        loop_of(variant)(prepared, Ticks(Requests(sys.stdin, answers)))


def measure(workload: str, rounds: int) -> tuple[Result, float]:
    """Costs by round, and the largest difference of a loss. Peers that cannot run here are left out, and told."""
    plan = PLANS[workload]
    lacking = missing(plan.variants)
    for name, package in lacking.items():
        print(f"{workload}: `{name}` is left out, since {package} is not installed", file=sys.stderr)
    variants = [name for name in plan.variants if name not in lacking]
    workers = {
        name: Worker("benchmarks.train_step", ["--work", workload, name], one_thread()) for name in variants
    }
    losses: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, float] = {}

    def chunk(name: str) -> float:
        told = workers[name].ask(plan.chunk)
        losses[name] += told["losses"]
        peaks[name] = told["peak_bytes"] / 2**20
        return 1000 * float(told["cpu"]) / plan.chunk

    try:
        costs = interleave({name: (lambda name=name: chunk(name)) for name in variants}, rounds, warm_up=2)
    finally:
        for worker in workers.values():
            worker.close()
    ours = losses["finesight"]
    difference = max(
        largest_difference(ours[: plan.checked], losses[name][: plan.checked]) for name in variants
    )
    wanted = {
        name: (above, below, bound)
        for name, (above, below, bound) in plan.wanted.items()
        if not {above, below} & set(lacking)
    }
    facts = {
        "wanted": "; ".join(
            f"{name} {'≤' if below == 'bare' else '≥'} {bound:g}"
            for name, (_, below, bound) in wanted.items()
        ),
        "left out": ", ".join(lacking) or "nobody",
        "steps compared": min(plan.checked, len(ours)),
        "largest loss difference": difference,
        "largest loss difference, all steps": max(
            largest_difference(ours, losses[name]) for name in variants
        ),
        "loss, first and last step": f"{ours[0]:.4f}, {ours[-1]:.4f}",
        "peak MiB": ", ".join(f"{name} {peaks[name]:.0f}" for name in variants),
        **{f"peak of {name} ÷ trainer": peaks[name] / peaks["trainer"] for name in shared(variants)},
    }
    compared = {name: (above, below) for name, (above, below, _) in wanted.items()}
    return Result(f"train_step-{workload}", "CPU ms a step", costs, compared, facts), difference


def shared(variants: Sequence[str]) -> list[str]:
    """Our variants, where `Trainer` is there to compare them with."""
    return [name for name in variants if name in ("finesight", "cached") and "trainer" in variants]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", nargs="?", choices=PLANS, help="default: all but `small`")
    parser.add_argument("--rounds", type=int, help="default: enough for stable medians")
    parser.add_argument("--keep", action="store_true", help="write the result though --rounds is given")
    parser.add_argument("--work", nargs=2, metavar=("WORKLOAD", "VARIANT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(*asked.work)
        return 0
    status = 0
    for name in [asked.workload] if asked.workload else [name for name in PLANS if name != "small"]:
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
