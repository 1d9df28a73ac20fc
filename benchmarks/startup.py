"""CPU time of starting: `finesight --help` beside Python itself and the imports that it does without.

    python -m benchmarks.startup

Each start is a fresh process; user and system time of it and its children count. Exit status 1 where `--help` takes
more than 0.2 CPU seconds, or fails.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.harness import ROOT, Result, interleave

LIMIT = 0.2
"""CPU seconds that `finesight --help` may take."""

HELP = "finesight --help"
_FINESIGHT = ("-c", "from finesight.cli.main import main; main()")  # what the installed command runs
COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c pass": ("-c", "pass"),
    HELP: (*_FINESIGHT, "--help"),
    "finesight train --help": (*_FINESIGHT, "train", "--help"),
    "import torch": ("-c", "import torch"),
    "import transformers": ("-c", "import transformers"),
    "import Trainer": ("-c", "from transformers import Trainer"),
}


def start(arguments: Sequence[str]) -> float:
    """CPU seconds of one start; raises RuntimeError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = _spent()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    spent = _spent() - before
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()}"
        )
    return spent


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    began = time.monotonic()
    costs = interleave(
        {name: (lambda words=words: start(words)) for name, words in COMMANDS.items()}, rounds, 1
    )
    compared = {f"import Trainer / {HELP}": ("import Trainer", HELP)}
    facts = {"wanted": f"{HELP} ≤ {LIMIT}", "seconds on the wall": time.monotonic() - began}
    result = Result("startup", "CPU s", costs, compared, facts)
    result.keep(["python", "-m", "benchmarks.startup", *sys.argv[1:]])
    return 0 if result.spreads()[HELP].median <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
