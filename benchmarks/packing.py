"""CPU time of a pass over samples of unlike lengths: packed, or in steps of so many tokens, beside `Trainer`.

    python -m benchmarks.packing                    # all workloads
    python -m benchmarks.packing text               # one of text, pictures, seq2seq
    python -m benchmarks.packing --rounds 2         # a quick look, which is not kept unless --keep is given

Exit status 1 where the mean losses of a pass differ: then the times say nothing.
"""

import argparse
import contextlib
import os
import sys

from benchmarks.harness import Requests, Result, Worker, interleave, largest_difference, one_thread
from benchmarks.lacking import missing
from benchmarks.mixed_lengths import PLANS, SMALL, Size, arranged, weights

TOLERANCE = 1e-5
"""Largest difference of a pass's mean loss that is still the same computation, in nats."""


def work(workload: str, variant: str, size: Size) -> None:
    """What a worker process does: train, pausing between passes. Standard output is for the answers alone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    from benchmarks.loops import loop_of
    from benchmarks.ticks import Finished, Ticks

    torch.set_num_threads(1)
    plan = PLANS[workload].variants[variant]
    if plan.loop == "trainer":
        os.environ["GLIBC_TUNABLES"] = ""  # finesight then leaves malloc as `Trainer` finds it
    prepared = arranged(workload, variant, size)
    with contextlib.suppress(Finished):
        loop_of(plan.loop)(prepared, Ticks(Requests(sys.stdin, answers)))


def measure(workload: str, rounds: int, size: Size, warm_up: int = 1) -> tuple[Result, float]:
    """Costs by round, and the largest difference of a pass's mean loss."""
    plan = PLANS[workload]
    lacking = missing(variant.loop for variant in plan.variants.values())
    if lacking:
        raise SystemExit(
            f"{workload}: there is nobody to compare with: pip install {' '.join(lacking.values())}"
        )
    small = ["--small"] if size == SMALL else []
    workers = {
        name: Worker("benchmarks.packing", ["--work", workload, name, *small], one_thread())
        for name in plan.variants
    }
    learned = {name: weights(arranged(workload, name, size)) for name in plan.variants}
    losses: dict[str, list[float]] = {name: [] for name in plan.variants}
    peaks: dict[str, float] = {}

    def whole_pass(name: str) -> float:
        counts = learned[name]
        told = workers[name].ask(len(counts))
        pairs = zip(told["losses"], counts, strict=True)
        losses[name].append(sum(loss * count for loss, count in pairs) / sum(counts))
        peaks[name] = told["peak_bytes"] / 2**20
        return float(told["cpu"])

    try:
        chunks = {name: (lambda name=name: whole_pass(name)) for name in plan.variants}
        costs = interleave(chunks, rounds, warm_up=warm_up)
    finally:
        for worker in workers.values():
            worker.close()
    ours = losses["finesight"]
    difference = max(largest_difference(ours, found) for found in losses.values())
    examples = [example for step in arranged(workload, "padded", size).steps for example in step]
    tokens = sum(len(one.tokens) + (0 if one.source is None else len(one.source)) for one in examples)
    facts = {
        "wanted": "; ".join(f"{name} ≥ {least:g}" for name, (_, _, least) in plan.wanted.items()),
        "samples and tokens of a pass": f"{len(examples)}, {tokens:,}",
        "steps of a pass": ", ".join(f"{name} {len(counts)}" for name, counts in learned.items()),
        "largest difference of the mean loss": difference,
        "mean loss": f"{ours[0]:.4f}",
        "peak MiB": ", ".join(f"{name} {peaks[name]:.0f}" for name in plan.variants),
    }
    compared = {name: (above, below) for name, (above, below, _) in plan.wanted.items()}
    return Result(f"packing-{workload}", "CPU s a pass", costs, compared, facts), difference


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", nargs="?", choices=PLANS, help="default: all")
    parser.add_argument("--rounds", type=int, help="default: enough for stable medians")
    parser.add_argument("--keep", action="store_true", help="write the result though --rounds is given")
    parser.add_argument(
        "--small", action="store_true", help="of a size that only shows that it runs; never kept"
    )
    parser.add_argument("--work", nargs=2, metavar=("WORKLOAD", "VARIANT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = SMALL if asked.small else Size()
    if asked.work:
        work(*asked.work, size)
        return 0
    status = 0
    for name in [asked.workload] if asked.workload else PLANS:
        result, difference = measure(name, asked.rounds or PLANS[name].rounds, size)
        if not difference <= TOLERANCE:
            print(f"{name}: the losses differ by {difference:.3g}, more than {TOLERANCE}", file=sys.stderr)
            status = 1
        if not asked.small and (asked.rounds is None or asked.keep):
            result.keep(["python", "-m", "benchmarks.packing", *sys.argv[1:]])
        else:
            print(f"{result.name} (not kept)\n{result.table()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
