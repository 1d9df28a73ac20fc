"""The `train`, `evaluation`, `generation`, `log` and `report` sections."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from finesight.config.base import Inconsistent, Section, Switch, as_switch, by_shape
from finesight.config.duration import seconds_of
from finesight.config.sampling import ScheduledSampling, StepsOrShare

MetricName = Literal["exact_match", "exact_match_strict", "token_f1", "bleu", "cider", "rouge_l"]
"""Keys of the metrics table in `evaluation/metrics`; a test holds the two equal."""

BestBy = Literal[
    "last",
    "val_loss",
    "exact_match",
    "exact_match_strict",
    "token_f1",
    "bleu_1",
    "bleu_2",
    "bleu_3",
    "bleu_4",
    "cider",
    "rouge_l",
]
"""What decides the best checkpoint. `val_loss` is better when lower, all others when higher; `last`: the newest."""

SCORES: Mapping[MetricName, tuple[BestBy, ...]] = MappingProxyType(
    {
        "exact_match": ("exact_match",),
        "exact_match_strict": ("exact_match_strict",),
        "token_f1": ("token_f1",),
        "bleu": ("bleu_1", "bleu_2", "bleu_3", "bleu_4"),
        "cider": ("cider",),
        "rouge_l": ("rouge_l",),
    }
)
"""Names of the scores that each metric gives."""


class Stop(Section):
    """Early stopping on `evaluation.best_by`."""

    patience: Annotated[
        Annotated[int, Field(ge=1), Tag("a whole number")]
        | Annotated[float, Field(gt=0, lt=1), Tag("a number")],
        by_shape,
    ]
    """Evaluations without improvement before stopping; below 1, a share of the run's steps without one."""
    threshold: NonNegativeFloat = 0.0
    """Improvement smaller than this is none, in units of the metric."""


def _default_size(known: dict[str, Any]) -> int | None:
    """`batch_size` where a recipe does not say it."""
    return 32 if known.get("batch_tokens") is None else None


class Group(Section):
    """Parameters that learn in their own way."""

    match: str
    """A part (`vision_tower`, `projector`, `language_model`, …), `adapter` for what an adapter adds, or a pattern of
    parameter names, in which `*` stands for anything. One that matches nothing is an error."""
    lr: PositiveFloat | None = None
    """Highest learning rate of these; the schedule is that of all."""
    weight_decay: NonNegativeFloat | None = None
    """Decay of these, biases, norms and embeddings among them."""

    @model_validator(mode="after")
    def _says_something(self) -> "Group":
        if self.lr is None and self.weight_decay is None:
            raise Inconsistent(f"the group of `{self.match}` changes nothing", "give `lr` or `weight_decay`")
        return self


class Train(Section):
    """How the model learns."""

    epochs: PositiveInt | None = None
    """Times that each sample is seen. Give this or `max_steps`."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps. Give this or `epochs`."""
    batch_tokens: PositiveInt | None = None
    """Most tokens that one optimizer step computes, padding among them; as many samples as go into them. With `packing`
    samples are chosen so that little room is left, without it samples of like length come together. Give this or
    `batch_size`."""
    batch_size: PositiveInt | None = Field(default_factory=_default_size)
    """Samples that one optimizer step sees; 32 where neither this nor `batch_tokens` is there."""
    packing: Switch = False
    """Put the samples of a micro-batch one after another into one row, without padding; none sees another."""
    micro_batch: Annotated[
        Annotated[Literal["auto"], Tag("text")] | Annotated[PositiveInt, Tag("a whole number")], by_shape
    ] = "auto"
    """Samples of one forward and backward pass; the whole batch where `auto`. Changes memory, not what is learned."""
    micro_tokens: PositiveInt | None = None
    """Most tokens of one forward and backward pass, padding among them; no bound where absent."""
    lr: PositiveFloat = 1e-3
    """Highest learning rate."""
    schedule: Literal["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "wsd"] = "cosine"
    """What the learning rate does after warming up: stay, fall in a line, in half a cosine, as a `power` of what is
    left, as one over the root of the steps, or stay and fall in a line at the end (`wsd`: warm-up, stable, decay)."""
    power: PositiveFloat | None = None
    """With `schedule: polynomial`: 1 is a line, 2 where absent."""
    decay: StepsOrShare | None = None
    """With `schedule: wsd`: the last steps, in which the rate falls; below 1, a share of all. 0.2 where absent."""
    warmup: StepsOrShare = 0.03
    """Steps over which the learning rate rises from 0; below 1, a share of all steps."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end, as a share of `lr`."""
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    """`adamw8bit` keeps AdamW's averages in 8 bits (bitsandbytes); `adafactor` keeps of each matrix's squares a row and
    a column alone, and no average of gradients. Both learn a little differently, with less memory."""
    weight_decay: NonNegativeFloat = 0.1
    """Decay of matrices; biases, norms and embeddings do not decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW's averaging of gradients and of their squares."""
    eps: PositiveFloat = 1e-8
    """AdamW's smallest divisor."""
    groups: tuple[Group, ...] = ()
    """Parameters with a rate or a decay of their own; of several that match the first counts."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread over all tokens while learning; validation losses are without it."""
    scheduled_sampling: ScheduledSampling | None = None
    """Feed a share of the answers' inputs from the model's own predictions while learning; targets stay as they are.
    Each such step costs a second forward pass. None where absent."""
    loss_chunk: Annotated[
        Annotated[Literal["auto", "none"], Tag("text")] | Annotated[PositiveInt, Tag("a whole number")],
        by_shape,
    ] = "auto"
    """Supervised positions whose logits are there at once; `auto` bounds their bytes, `none` keeps all those of a
    micro-batch. Changes memory, not what is learned."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of all gradients together; 0 does not clip."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numbers of the forward pass (weights stay fp32); `auto` is bf16 on GPUs that compute it, else fp32."""
    gradient_checkpointing: Switch = False
    """Keep no activations inside the layers and compute them again when they are needed: less memory, more time."""
    compile: Switch = False
    """Compile the layers of the model by `torch.compile`; the first steps then take seconds to minutes longer."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What happens where the loss or a gradient is no finite number. The weights stay as they were in any case; `skip`
    goes on with the next step, and the step is written down as it was."""
    nan_limit: PositiveInt = 10
    """With `on_nan: skip`: steps that may be skipped in a run before it stops."""
    on_oom: Literal["stop", "shrink"] = "stop"
    """What happens where memory does not suffice for a step: `stop` ends the run with the numbers, saved;
    `shrink` makes the same step again in micro-batches of half the size, and keeps to them (one process alone)."""
    async_save: Annotated[
        Annotated[Literal["auto"], Tag("text")] | Annotated[bool, Tag("true or false")],
        by_shape,
        BeforeValidator(as_switch),
    ] = "auto"
    """Write checkpoints from a copy while the training goes on; `auto` where a copy takes a quarter of the free memory
    or less."""
    length_window: NonNegativeInt = 50
    """Batches within which samples are sorted by length or, with `batch_tokens`, put together by it; 0 does not sort.
    With `packing` and `batch_size` lengths do not matter, and nothing is sorted."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints; at each evaluation where absent."""
    keep_last: PositiveInt = 2
    """Newest checkpoints that are kept; the best one is kept beside them. With 1, a checkpoint that is damaged on the
    disk leaves none to go on from but the best."""
    time_limit: (
        Annotated[Annotated[PositiveInt, Tag("a whole number")] | Annotated[str, Tag("text")], by_shape]
        | None
    ) = None
    """Wall-clock time after which the run is to be over, from the start of the command: seconds, `90m`, `2h30m`,
    `1:30:00` or `2-00:00:00`. It saves and ends with status 75 in time, for `--resume` to go on."""
    stop: Stop | None = None
    """Early stopping; none where absent."""
    overfit: PositiveInt | None = None
    """Train on this many batches alone, again and again: a sanity run whose loss must fall to nearly 0."""

    @model_validator(mode="after")
    def _one_size(self) -> "Train":
        if (self.batch_size is None) == (self.batch_tokens is None):
            given = "neither" if self.batch_size is None else "both"
            raise Inconsistent(
                f"exactly one of `batch_size` and `batch_tokens` says how much a step sees; {given} is there",
                "give one; `train.batch_size=null` on the command line takes one out",
            )
        return self

    @model_validator(mode="after")
    def _samples_unpacked(self) -> "Train":
        if self.scheduled_sampling is not None and self.packing:
            raise Inconsistent(
                "`scheduled_sampling` and `packing` do not go together: a predicted token would belong to another "
                "place of the row than that of its sample",
                "take one of the two out; `batch_tokens` without `packing` puts samples of like length together",
            )
        return self

    @model_validator(mode="after")
    def _compiles(self) -> "Train":
        if self.compile and self.packing and self.gradient_checkpointing:
            raise Inconsistent(
                "`compile`, `packing` and `gradient_checkpointing` do not go together: a compiled layer that is "
                "computed again does not know the boundaries of its row",
                "take one of the three out",
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.max_steps is None):
            given = "neither" if self.epochs is None else "both"
            raise Inconsistent(
                f"exactly one of `epochs` and `max_steps` says how long it trains; {given} is there",
                "give one; `train.max_steps=null` on the command line takes one out",
            )
        return self

    @model_validator(mode="after")
    def _fits_its_schedule(self) -> "Train":
        for key, kind in (("power", "polynomial"), ("decay", "wsd")):
            if getattr(self, key) is not None and self.schedule != kind:
                raise Inconsistent(
                    f"`{key}` is of `schedule: {kind}`, and the schedule is {self.schedule}",
                    f"take `{key}` out, or set `schedule: {kind}`",
                )
        return self

    @field_validator("time_limit")
    @classmethod
    def _is_a_time(cls, limit: str | int | None) -> str | int | None:
        try:
            if limit is None or seconds_of(limit) > 0:
                return limit
        except ValueError:
            pass
        raise Inconsistent(
            f"`time_limit: {limit}` is no time", "write it as 90m, 2h30m, 1:30:00 or 2-00:00:00"
        )

    @model_validator(mode="after")
    def _micro_fits(self) -> "Train":
        if (
            self.micro_tokens is not None
            and self.batch_tokens is not None
            and self.micro_tokens > self.batch_tokens
        ):
            raise Inconsistent(
                f"`micro_tokens: {self.micro_tokens}` is larger than `batch_tokens: {self.batch_tokens}`",
                "lower `micro_tokens`, or take it out",
            )
        if self.batch_size is None or self.micro_batch == "auto":
            return self
        if self.micro_batch > self.batch_size:
            raise Inconsistent(
                f"`micro_batch: {self.micro_batch}` is larger than `batch_size: {self.batch_size}`",
                "lower `micro_batch`, or set it to auto",
            )
        return self


class Evaluation(Section):
    """What is measured, and when."""

    metrics: tuple[MetricName, ...] = ("exact_match", "token_f1")
    """Scores of the answers."""
    every: PositiveInt | None = None
    """Steps between evaluations while training; once an epoch where absent."""
    max_samples: NonNegativeInt = 256
    """Validation samples that are answered at each evaluation while training (0: the loss alone)."""
    best_by: BestBy = "val_loss"
    """What decides the best checkpoint, which becomes the finished model; `last` takes the end of the run as it is."""
    batch_size: PositiveInt = 64
    """Samples that are answered or scored together."""
    probe: NonNegativeInt = 64
    """Samples with pictures whose loss is also measured with blank pictures and with each other's, to see whether the
    model looks at them (0: none)."""
    baselines: Switch = False
    """Compare the final scores with the majority answer and with the nearest training picture's answer."""
    resamples: PositiveInt = 1000
    """Bootstrap resamples of the intervals."""

    @model_validator(mode="after")
    def _best_is_measured(self) -> "Evaluation":
        best = self.best_by
        if best in ("val_loss", "last"):
            return self
        metric = next(name for name, scores in SCORES.items() if best in scores)
        if metric not in self.metrics:
            raise Inconsistent(
                f"`best_by: {best}` is not measured: `metrics` lacks {metric}",
                f"add {metric} to `metrics`, or choose by val_loss or by a score of {', '.join(self.metrics)}",
            )
        if self.max_samples == 0:
            raise Inconsistent(
                f"`best_by: {best}` needs answers, but `max_samples: 0` answers no sample",
                "raise `max_samples`, or set `best_by: val_loss`",
            )
        return self


class Generation(Section):
    """How answers are decoded."""

    max_new_tokens: PositiveInt = 32
    """Longest answer in tokens."""
    num_beams: PositiveInt = 1
    """Beams; 1 is greedy."""
    length_penalty: float = 1.0
    """With beams: above 0 favours longer answers."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1 makes repeated tokens less likely."""


class Wandb(Section):
    """A run of Weights & Biases."""

    project: str
    """Project that it belongs to."""
    entity: str | None = None
    """Account or team that has the project; your own where absent."""
    name: str | None = None
    """What it is called; `run.name` where absent."""
    group: str | None = None
    """Runs that belong together."""
    tags: tuple[str, ...] = ()
    """Words to find it by."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """`offline` writes files below the run that `wandb sync` sends later; `auto` does so, too, unless WANDB_API_KEY is
    set. Where nothing can be reached, `online` becomes offline, which is told."""


class Log(Section):
    """What is written while training."""

    every: PositiveInt = 10
    """Steps between lines in `metrics.jsonl`."""
    samples: Switch = False
    """Write the ids of each step's samples to `samples.jsonl`."""
    tensorboard: Switch = False
    """Write event files for TensorBoard to `tensorboard/` in the run."""
    wandb: Wandb | None = None
    """Tell Weights & Biases, too."""


class Report(Section):
    """What the report shows."""

    pictures: NonNegativeInt = 20
    """Most pictures embedded in `report.html`; 0 for private data."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Words for slices, by `tag=value`; the first one leads the report's headline."""
