"""The whole recipe."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from finesight.config.adapter import Adapter
from finesight.config.base import Inconsistent, Section
from finesight.config.data import Data
from finesight.config.model import Model
from finesight.config.parallel import Parallel
from finesight.config.profile import Profile
from finesight.config.stages import Stage
from finesight.config.train import Evaluation, Generation, Log, Report, Train


class Run(Section):
    """Name, place, seed and device of the run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run: letters, digits, `.`, `_` and `-`."""
    dir: str | None = None
    """Directory that holds all of the run; `runs/<name>` where absent."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 7
    """Start of every random draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it computes; `auto` takes CUDA, else an Apple GPU, else the CPU."""
    threads: PositiveInt | None = None
    """Threads of a CPU run; all cores but those of `data.workers` where absent."""


class Recipe(Section):
    """A whole experiment."""

    format: PositiveInt = 1
    """Version of the keys below; 1 where absent. finesight writes it into the recipes of its runs."""
    description: str = ""
    """One line for `finesight recipes`."""
    run: Run
    """Name, place, seed and device."""
    model: Model
    """Where the model comes from."""
    adapter: Adapter | None = None
    """Small matrices that learn while the model stays as it is; without it all of the model learns."""
    data: Data
    """What is learned from, validated on and tested on."""
    train: Train
    """How the model learns."""
    parallel: Parallel = Parallel()
    """How several processes share the work."""
    evaluation: Evaluation = Evaluation()
    """What is measured, and when."""
    generation: Generation = Generation()
    """How answers are decoded."""
    log: Log = Log()
    """What is written while training."""
    profile: Profile | None = None
    """A trace of chosen steps; none where absent."""
    report: Report = Report()
    """What the report shows."""
    stages: tuple[Stage, ...] = ()
    """Stages that are trained one after another; each begins with the model of the one before."""

    @property
    def directory(self) -> str:
        """Directory that holds all of the run."""
        return self.run.dir or f"runs/{self.run.name}"

    @field_validator("adapter")
    @classmethod
    def _adapter_needs_a_base(cls, adapter: Adapter | None, info: ValidationInfo) -> Adapter | None:
        model = info.data.get("model")
        if adapter is None or model is None:
            return adapter
        if model.scratch is not None:
            raise Inconsistent(
                "an adapter changes a model that knows something already, and `model.scratch` knows nothing",
                "give `model.pretrained`, or take `adapter` out",
            )
        if model.compose is not None:
            raise Inconsistent(
                "an adapter needs a base model that is saved somewhere, and `model.compose` has just been put together",
                "train the composed model first, such as its projector alone, and name that run in `model.pretrained`",
            )
        both = [part for part in model.freeze if part in adapter.save]
        if both:
            raise Inconsistent(
                f"`save` says that {', '.join(both)} learns whole, and `model.freeze` that it does not learn",
                "take it out of one of the two",
            )
        return adapter

    @field_validator("train")
    @classmethod
    def _stop_needs_validation(cls, train: Train, info: ValidationInfo) -> Train:
        data = info.data.get("data")
        if train.stop is not None and data is not None and data.val is None:
            raise Inconsistent(
                "`train.stop` needs `data.val`: without validation samples nothing can stop improving",
                "give `data.val`, such as `val: {split: 0.1}`, or take `train.stop` out",
            )
        return train

    @field_validator("train")
    @classmethod
    def _no_overfit_on_a_stream(cls, train: Train, info: ValidationInfo) -> Train:
        data = info.data.get("data")
        if train.overfit is not None and data is not None and data.streams:
            raise Inconsistent(
                "`train.overfit` sees a few batches again and again, and a stream gives its rows once",
                "take `stream` out of `data.train`, or `overfit` out of `train`",
            )
        return train

    @field_validator("train")
    @classmethod
    def _compiles_whole_numbers(cls, train: Train, info: ValidationInfo) -> Train:
        adapter = info.data.get("adapter")
        if train.compile and adapter is not None and adapter.quantize is not None:
            raise Inconsistent(
                f"`train.compile` and `adapter.quantize: {adapter.quantize}` do not go together: the kernels of "
                "bitsandbytes stay outside of compiled graphs, and nothing would be gained",
                "take one of the two out",
            )
        return train

    @field_validator("parallel")
    @classmethod
    def _slices_are_not_compiled(cls, parallel: Parallel, info: ValidationInfo) -> Parallel:
        train = info.data.get("train")
        if parallel.strategy == "fsdp" and train is not None and train.compile:
            raise Inconsistent(
                "`train.compile` is not for fsdp: its layers gather their weights by hooks inside of what would be "
                "compiled",
                "use `strategy: ddp`, or take `train.compile` out",
            )
        return parallel

    @field_validator("parallel")
    @classmethod
    def _slices_have_adamw(cls, parallel: Parallel, info: ValidationInfo) -> Parallel:
        train = info.data.get("train")
        if parallel.strategy == "fsdp" and train is not None and train.optimizer != "adamw":
            raise Inconsistent(
                f"with fsdp matrices are in slices, and `train.optimizer: {train.optimizer}` needs them whole",
                "use `strategy: ddp`, or `train.optimizer: adamw`",
            )
        return parallel

    @field_validator("train")
    @classmethod
    def _no_tokens_on_a_stream(cls, train: Train, info: ValidationInfo) -> Train:
        data = info.data.get("data")
        if train.batch_tokens is not None and data is not None and data.streams:
            raise Inconsistent(
                "`train.batch_tokens` puts samples together by length, which nobody knows before a stream is read",
                "give `train.batch_size` (`packing` works with it), or take `stream` out of `data.train`",
            )
        return train

    @field_validator("evaluation")
    @classmethod
    def _best_needs_validation(cls, evaluation: Evaluation, info: ValidationInfo) -> Evaluation:
        data = info.data.get("data")
        if evaluation.best_by not in ("val_loss", "last") and data is not None and data.val is None:
            raise Inconsistent(
                f"`best_by: {evaluation.best_by}` needs `data.val`: nothing is measured while training without it",
                "give `data.val`, such as `val: {split: 0.1}`, or set `best_by: last`",
            )
        return evaluation
