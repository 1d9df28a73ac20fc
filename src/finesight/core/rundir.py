"""The layout of a run directory: the only place that knows the names of its files.

| file | holds |
|---|---|
| recipe.yaml, environment.json, log.txt | resolved recipe; versions, hardware, data fingerprint; what was said |
| metrics.jsonl | one object a logged step, and one an evaluation |
| losses_log.csv, timing_logs.csv, *_curve.png | losses and seconds per step, and their plots |
| checkpoints/step-N/ | each with a manifest; `best` and `last` are files that name one |
| tensorboard/, wandb/ | files of the trackers, where the recipe asks for them |
| predictions/<split>.jsonl, pictures/ | answers; the few pictures that the report shows |
| audit.json | what learned in the first steps: gradients by group |
| results.json, faults.csv, plan.json, report.html | scores; rows left out; plan against measurement; the page |
| profile/ | traces of chosen steps, where the recipe asks for them |
| model/ or adapter/ | a plain Hugging Face folder |
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDirectory:
    """Names of the files of one run, below `path`."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def losses(self) -> Path:
        return self.path / "losses_log.csv"

    @property
    def timing(self) -> Path:
        return self.path / "timing_logs.csv"

    @property
    def loss_curve(self) -> Path:
        return self.path / "loss_curve.png"

    @property
    def timing_curve(self) -> Path:
        return self.path / "timing_curve.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def notices(self) -> Path:
        """What was dropped, cut, frozen or fell back, as JSON: a list of {"kind", "text", "count"}."""
        return self.path / "notices.json"

    @property
    def audit(self) -> Path:
        return self.path / "audit.json"

    @property
    def faults(self) -> Path:
        return self.path / "faults.csv"

    @property
    def pictures(self) -> Path:
        """Folder of the pictures that the report shows, with `index.json`: {"<split>": {"<sample id>": "<file>"}}."""
        return self.path / "pictures"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def profile(self) -> Path:
        """Folder of traces of chosen steps: `steps-<first>-<last>.json.gz`, and tables of their operators as `.txt`."""
        return self.path / "profile"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def stages(self) -> Path:
        """Runs of the stages before the last, which has this directory itself."""
        return self.path / "stages"

    @property
    def adapter(self) -> Path:
        """What a run with an `adapter` section has instead of `model`."""
        return self.path / "adapter"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """W&B's own folder, and the `id` of the run there."""
        return self.path / "wandb"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    def predictions(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.jsonl"
