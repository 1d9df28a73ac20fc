"""Does the composed model learn? `compose-llava` against the same parts before a step.

    python -m benchmarks.composed                   # trains the recipe; writes results/composed-DATE.json
    python -m benchmarks.composed --run runs/mine   # measures a run that is finished

Both answer the same questions about drawings by an artist that neither saw. The difference, paired and resampled by
thing, must have an interval above zero. The recipe's own baselines stand beside it.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import finesight as fs
from benchmarks.harness import circumstances, keep
from finesight.config.load import load_recipe
from finesight.config.recipe import Recipe
from finesight.core.prediction import Prediction
from finesight.core.rundir import RunDirectory
from finesight.data.dataset import ExampleSet
from finesight.data.policy import Policy
from finesight.data.sets import read_splits
from finesight.evaluation.compare import compare
from finesight.evaluation.table import read
from finesight.generation.predict import predict
from finesight.runtime.notices import Notices
from finesight.workflows.composed import composed_model

METRICS = ("exact_match", "token_f1")
RECIPE = "compose-llava"


def untuned(recipe: Recipe, tuned: Recipe) -> list[Prediction]:
    """What the parts answer before a step."""
    assert recipe.model.compose is not None
    loaded = composed_model(recipe.model.compose, recipe.run.seed, lambda size: "", Notices())
    policy = Policy(tuned.data)
    splits = read_splits(tuned.data, tuned.run.seed, policy, Notices())
    examples = ExampleSet(splits["test"], loaded.ports, policy, None, tuned.run.seed)
    return predict(loaded.model, examples, tuned.generation, tuned.evaluation.batch_size)


def measured(run: Path) -> dict[str, Any]:
    """Scores of a finished run, and how far they are above those of the untuned parts and of the baselines."""
    recipe, tuned = load_recipe(RECIPE), load_recipe(str(RunDirectory(run).recipe))
    ours = read(RunDirectory(run).predictions("test"))
    before = untuned(recipe, tuned)
    results = json.loads(RunDirectory(run).results.read_text(encoding="utf-8"))
    leads = [asdict(row) for row in compare(ours, before, METRICS, "test", "untuned")]
    return {
        "scores": [row for row in results["scores"] if row["slice"] == "all"],
        "leads": [row for row in [*leads, *results["baselines"]] if row["slice"] == "all"],
        "examples": [
            {"tuned": tuned.prediction, "untuned": first.prediction, "references": tuned.references}
            for tuned, first in list(zip(ours, before, strict=True))[:10]
        ],
    }


def main() -> int:
    """Read the command line, train where no run is named, and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a finished run of the recipe")
    parser.add_argument("words", nargs="*", help="overrides, KEY=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began, run = time.perf_counter(), arguments.run or Path(folder) / "run"
        if arguments.run is None:
            words = {word.split("=", 1)[0]: word.split("=", 1)[1] for word in arguments.words}
            fs.train(RECIPE, **{"run.dir": str(run), **words})
        found = {"seconds": time.perf_counter() - began if arguments.run is None else None, **measured(run)}
    keep({**circumstances("composed", ["python -m benchmarks.composed", *sys.argv[1:]]), **found})
    print(json.dumps(found, indent=1))
    return int(any(lead["low"] <= 0 for lead in found["leads"] if lead["baseline"] == "untuned"))


if __name__ == "__main__":
    sys.exit(main())
