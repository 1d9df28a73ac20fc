"""The whole recipe."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from finesight.config.base import Section
from finesight.config.data import Data
from finesight.config.model import Model
from finesight.config.train import Evaluation, Generation, Log, Report, Train


class Run(Section):
    """Name, place, seed and device of the run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run: letters, digits, `.`, `_` and `-`."""
    dir: str | None = None
    """Directory that holds all of the run; `runs/<name>` where absent."""
    seed: NonNegativeInt = 7
    """Start of every random draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it computes; `auto` takes CUDA, else an Apple GPU, else the CPU."""
    threads: PositiveInt | None = None
    """Threads of a CPU run; all cores where absent."""


class Recipe(Section):
    """A whole experiment."""

    description: str = ""
    """One line for `finesight recipes`."""
    run: Run
    """Name, place, seed and device."""
    model: Model
    """Where the model comes from."""
    data: Data
    """What is learned from, validated on and tested on."""
    train: Train
    """How the model learns."""
    evaluation: Evaluation = Evaluation()
    """What is measured, and when."""
    generation: Generation = Generation()
    """How answers are decoded."""
    log: Log = Log()
    """What is written while training."""
    report: Report = Report()
    """What the report shows."""

    @property
    def directory(self) -> str:
        """Directory that holds all of the run."""
        return self.run.dir or f"runs/{self.run.name}"

    @model_validator(mode="after")
    def _best_is_measured(self) -> "Recipe":
        best = self.evaluation.best_by
        if best != "val_loss" and best.split("_")[0] not in {name.split("_")[0] for name in self.evaluation.metrics}:
            raise ValueError(f"`evaluation.best_by` is {best}, which is not among `evaluation.metrics`")
        if best != "val_loss" and self.evaluation.max_samples == 0:
            raise ValueError(f"`evaluation.best_by` is {best}, but `evaluation.max_samples: 0` answers no sample")
        return self

    @model_validator(mode="after")
    def _best_needs_validation(self) -> "Recipe":
        if self.train.stop is not None and self.data.val is None:
            raise ValueError("`train.stop` needs `data.val`: without validation samples nothing can stop improving")
        return self
