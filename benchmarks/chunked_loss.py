"""Output embeddings and cross-entropy, forward and backward, with all logits at once and in chunks.

`python benchmarks/chunked_loss.py [--rows N] [--vocabulary V] [--width H] [--rounds R]` prints one line a way: process
CPU time (median and range) and the memory at the peak above weights and inputs, each way in a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

WAYS = ("whole", "1024", "256")


def measured(way: str, rows: int, vocabulary: int, width: int, rounds: int, frozen: bool) -> dict[str, Any]:
    """CPU milliseconds of each round, and MiB at the peak above what was there before."""
    import torch
    from torch import Tensor, nn

    from finesight.core.batch import Batch
    from finesight.training.chunks import Chunked

    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = nn.Linear(width, vocabulary, bias=False)
    head.requires_grad_(not frozen)
    hidden = torch.randn(rows, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (1, rows))
    batch = Batch(("a",), {}, targets, rows, rows)

    class Apart:
        learning = () if frozen else (head.weight,)

        def rows(self, _: Batch) -> Tensor:
            return hidden

        def logits(self, some: Tensor) -> Tensor:
            return head(some)

    chunked = Chunked(lambda _: head(hidden), Apart(), rows if way == "whole" else int(way))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(rounds + 1):
        began = time.process_time()
        chunked.loss(batch).backward()
        times.append(1e3 * (time.process_time() - began))
        head.zero_grad()
        hidden.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"way": way, "ms": times[1:], "mib": peak / 1024}


def main() -> None:
    """One line a way."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=4096)
    options.add_argument("--vocabulary", type=int, default=32_000)
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--frozen", action="store_true")
    options.add_argument("--way")
    asked = options.parse_args()
    sizes = (asked.rows, asked.vocabulary, asked.width, asked.rounds, asked.frozen)
    if asked.way:
        print(json.dumps(measured(asked.way, *sizes)))
        return
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        low, middle, high = min(told["ms"]), statistics.median(told["ms"]), max(told["ms"])
        print(f"{way:>6}: {middle:7.0f} ms [{low:.0f}-{high:.0f}], {told['mib']:6.0f} MiB")


if __name__ == "__main__":
    main()
