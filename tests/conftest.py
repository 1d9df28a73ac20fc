"""How long the acceptance tests run, and the record that `make proof` keeps of them.

`FINESIGHT_PROOF_FACTOR` multiplies the counts of the acceptance tests: 1 in the ordinary suite, 10 in `make proof`.
With `FINESIGHT_PROOF_RECORD` set, a JSON file of that name gets each test's outcome and duration.
"""

import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import pytest

PROOF_FACTOR = int(os.environ.get("FINESIGHT_PROOF_FACTOR", "1"))

hypothesis.settings.register_profile(
    "finesight",
    max_examples=30 if PROOF_FACTOR == 1 else 100 * PROOF_FACTOR,
    deadline=None,  # a shared machine's clock says nothing about the code
    derandomize=PROOF_FACTOR == 1,
    database=None,
)
hypothesis.settings.load_profile("finesight")


@pytest.fixture(scope="session")
def proof_factor() -> int:
    """By how much the counts of the acceptance tests are multiplied."""
    return PROOF_FACTOR


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, empty at the start; it comes before all other fixtures."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINESIGHT_CACHE", str(folder))
        yield folder


class ProofRecord:
    """Collects the outcome and the seconds of every test, and writes them at the end of the session."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.tests: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = float(str(self.tests.get(report.nodeid, {}).get("seconds", 0.0))) + report.duration
        if report.when == "call" or report.outcome != "passed":
            self.tests[report.nodeid] = {"outcome": report.outcome, "seconds": round(seconds, 3)}

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        outcomes = [str(test["outcome"]) for test in self.tests.values()]
        record = {
            "format": 1,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "factor": PROOF_FACTOR,
            "exit_status": int(exitstatus),
            "counts": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "tests": self.tests,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests start processes and wait come first: a long one must not be what is left at the end."""
    items.sort(key=lambda item: item.path.parent.name not in ("parallel", "resume", "workflows"))


def pytest_configure(config: pytest.Config) -> None:
    file = os.environ.get("FINESIGHT_PROOF_RECORD")
    if file and not hasattr(
        config, "workerinput"
    ):  # under pytest-xdist, the session that collects the reports
        config.pluginmanager.register(ProofRecord(Path(file)), "finesight-proof")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 40 small pictures with questions and answers."""
    from tiny_runs import write_pictures

    return write_pictures(tmp_path_factory.mktemp("data") / "pictures.csv")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have no report: drawing it takes longer than the training of a tiny run."""
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A finished tiny run, report and all; tests must leave it as it is."""
    from tiny_runs import tiny_recipe

    from finesight.workflows.train import train

    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny_recipe(tiny_data, folder))
    return folder


@pytest.fixture(scope="session")
def overfit_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A finished run on one batch of eight, again and again: a model that knows its few pictures apart."""
    from tiny_runs import tiny_mapping

    from finesight.config.load import parse_recipe
    from finesight.workflows import train as workflow

    folder = tmp_path_factory.mktemp("runs") / "overfit"
    train = {
        "max_steps": 150,
        "batch_size": 8,
        "micro_batch": 8,
        "overfit": 1,
        "lr": 1e-2,
        "weight_decay": 0.0,
    }
    mapping = tiny_mapping(
        tiny_data, folder, train=train, evaluation={"every": 150}, generation={"max_new_tokens": 12}
    )
    for part in ("vision", "decoder"):
        mapping["model"]["scratch"][part]["dropout"] = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        workflow.train(parse_recipe(mapping))
    return folder
