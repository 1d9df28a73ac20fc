"""How variants are compared on a machine that other work shares.

Variants take turns round by round, the first of a round changing each time, so that a busy minute meets all of them
alike. What counts is CPU time (user + system, all threads of the process), not the clock on the wall. A ratio is taken
within each round and its median reported, never the ratio of two medians.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from finesight.runtime.environment import describe_machine, git_state, versions
from finesight.runtime.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some numbers."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}–{self.high:.4g}]"


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError where there are no values."""
    if not values:
        raise ValueError("there is nothing to take the median of")
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Ratio of each round; raises ValueError where the two have not the same rounds."""
    return [a / b for a, b in zip(above, below, strict=True)]


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest absolute difference, position by position; no number at all (NaN) differs infinitely."""
    differences = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return max((d if d == d else float("inf") for d in differences), default=0.0)


def interleave(
    variants: Mapping[str, Callable[[], float]], rounds: int, warm_up: int
) -> dict[str, list[float]]:
    """What each variant returns (a cost, such as CPU seconds) by round, after `warm_up` rounds that do not count."""
    names = list(variants)
    costs: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            cost = variants[name]()
            if number >= warm_up:
                costs[name].append(cost)
    return costs


@dataclass(frozen=True)
class Result:
    """Costs of each variant by round, with the ratios that matter: name → (cost above, cost below)."""

    name: str
    unit: str
    rounds: Mapping[str, Sequence[float]]
    compared: Mapping[str, tuple[str, str]]
    facts: Mapping[str, Any]

    def spreads(self) -> dict[str, Spread]:
        return {name: spread(costs) for name, costs in self.rounds.items()}

    def ratios(self) -> dict[str, list[float]]:
        return {
            name: paired_ratios(self.rounds[above], self.rounds[below])
            for name, (above, below) in self.compared.items()
        }

    def document(self, command: Sequence[str]) -> dict[str, Any]:
        ratios = self.ratios()
        return {
            **circumstances(self.name, command),
            "unit": self.unit,
            "summary": {name: asdict(value) for name, value in self.spreads().items()},
            "ratios": {name: asdict(spread(values)) for name, values in ratios.items()},
            "facts": dict(self.facts),
            "rounds": {name: list(costs) for name, costs in self.rounds.items()},
            "ratio_rounds": ratios,
        }

    def table(self) -> str:
        rows = [(name, f"{value} {self.unit}") for name, value in self.spreads().items()]
        rows += [(name, f"× {spread(values)}") for name, values in self.ratios().items()]
        rows += [
            (name, f"{value:.3g}" if isinstance(value, float) else str(value))
            for name, value in self.facts.items()
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)

    def keep(self, command: Sequence[str], folder: Path = RESULTS) -> Path:
        """Print the table, write `<name>-YYYY-MM-DD.json` whole or not at all, and return its path."""
        path = keep(self.document(command), folder)
        print(f"{self.name} (median [smallest–largest])\n{self.table()}\n  → {path.name}")
        return path


class Worker:
    """A variant in a warm process of its own. Each line sent to it asks for one chunk of work; it answers in JSON."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, amount: int) -> dict[str, Any]:
        """The answer to a chunk of `amount`; raises RuntimeError where the process has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{amount}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(
                f"a variant died with status {self._process.wait()}; what it said stands above"
            )
        told: dict[str, Any] = json.loads(answer)
        return told

    def close(self) -> None:
        """End the process: it sees its input closed."""
        self._process.communicate()


def one_thread() -> dict[str, str]:
    """This environment, for a worker that computes in one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Requests:
    """The worker's side: amounts of work in, one JSON object out for each."""

    def __init__(self, read: TextIO, write: TextIO) -> None:
        self._read, self._write = read, write

    def next(self) -> int | None:
        """The next amount asked for; None where no more will come."""
        line = self._read.readline()
        return int(line) if line else None

    def answer(self, **told: Any) -> None:
        self._write.write(json.dumps(told) + "\n")
        self._write.flush()


def circumstances(name: str, command: Sequence[str]) -> dict[str, Any]:
    """What every result says beside its numbers."""
    return {
        "format": 1,
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(ROOT),
        "command": " ".join(command),
        "machine": {**describe_machine(), "load": os.getloadavg()},
        "versions": versions(),
    }


def keep(document: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result as `<name>-YYYY-MM-DD.json`, whole or not at all, and return its path."""
    path = folder / f"{document['name']}-{document['date'][:10]}.json"
    write_json(path, document)
    return path
