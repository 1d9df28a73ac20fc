"""The `data` section: sources, splits, what happens with bad rows, and training-time picture transforms."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from finesight.config.base import Inconsistent, Section, Switch, shape
from finesight.config.sources import Source, SourceBase
from finesight.config.speech import Speech

Ratio = Annotated[float, Field(gt=0, lt=1)]


class ByColumn(Section):
    """Rows of the training data that a column's value assigns to this split."""

    column: str
    """Column to look at."""
    values: tuple[str, ...]
    """Values that belong to this split."""


def _share_or_column(value: Any) -> str:
    found = shape(value)
    return "a share" if found in ("a number", "a whole number") else found


class Split(Section):
    """A part of the training data, taken out of it."""

    split: Annotated[
        Annotated[Ratio, Tag("a share")] | Annotated[ByColumn, Tag("a mapping")],
        Discriminator(_share_or_column),
    ]
    """Share of all samples that `train` names, or a column and its values."""
    group: str | None = None
    """Column whose values stay on one side of a share; the source's `group` where absent."""

    @model_validator(mode="after")
    def _group_needs_a_share(self) -> "Split":
        if self.group is not None and isinstance(self.split, ByColumn):
            raise Inconsistent(
                "`group` has a meaning only with a share: the column alone says which row is on which side",
                "take `group` out, or give `split` a share such as 0.1",
            )
        return self


def _samples(value: Any) -> str:
    """The tag of a value that says where samples come from."""
    found = shape(value)
    if found == "a mapping":
        split = isinstance(value, Split) or (isinstance(value, Mapping) and "split" in value)
        return "a split" if split and not (isinstance(value, Mapping) and "source" in value) else "a source"
    return "a list of sources" if found == "a list" else found


def _some(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    if not sources:
        raise Inconsistent("the list of sources is empty", "give a source, or take the key out")
    weighted = [source.weight is not None for source in sources]
    if any(weighted) and not all(weighted):
        raise Inconsistent("some sources have a `weight` and some have none", "give each source one, or none")
    if any(source.stream for source in sources) and len(sources) > 1:
        raise Inconsistent("a source with `stream: true` stands in a list", "stream one source alone")
    return sources


_One = Annotated[Source, Tag("a source")]
_Many = Annotated[
    tuple[Source, ...],
    AfterValidator(_some),
    Field(json_schema_extra={"minItems": 1}),
    Tag("a list of sources"),
]
Sources = Annotated[_One | _Many, Discriminator(_samples)]
SourcesOrSplit = Annotated[_One | _Many | Annotated[Split, Tag("a split")], Discriminator(_samples)]


def _is_stream(samples: Any) -> bool:
    return isinstance(samples, SourceBase) and samples.stream


class Transforms(Section):
    """Random changes of a training picture; a pure function of seed, epoch and sample. All are off by default."""

    crop: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Largest share of the area that a random crop takes away."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation, in degrees, either way."""
    scale: Annotated[float, Field(ge=0, le=0.75)] = 0.0
    """Largest relative change of size, either way (0.2: from 0.8 to 1.2 times)."""
    stretch: Annotated[float, Field(ge=0, le=0.75)] = 0.0
    """Largest relative change of the height alone, either way."""
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest shift as a share of the width and height."""
    shear: Annotated[float, Field(ge=0, le=30)] = 0.0
    """Largest shear, in degrees."""
    wave: Annotated[float, Field(ge=0, le=0.25)] = 0.0
    """Largest sine displacement as a share of the side, as cloth in the wind."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest relative change of brightness."""
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest relative change of contrast."""
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest relative change of saturation."""
    hue: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest turn of the colour wheel, in degrees."""
    fill: Literal["edge", "white"] = "edge"
    """What comes in from outside the picture: its nearest edge pixel, or white."""
    flip: Literal["none", "horizontal", "both", "all"] = "none"
    """Mirrors, each with probability ½: left–right; also top–bottom; `all` also swaps the axes.
    Samples whose words speak of sides or directions, or of what is written, are left as they are, and counted."""


class Data(Section):
    """What is learned from, validated on and tested on."""

    train: Sources
    """One source, or a list of them, one after another."""
    val: SourcesOrSplit | None = None
    """Samples for the validation loss and the evaluation while training."""
    test: SourcesOrSplit | None = None
    """Samples for the final scores; `val` where absent."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What a row that cannot be used does: end the run, or be left out, counted and listed in `faults.csv`."""
    bad_row_limit: NonNegativeInt | None = None
    """With `skip`: more bad rows than this end the run all the same; no limit where absent."""
    on_long: Literal["stop", "skip", "drop_turns", "cut_answer"] = "stop"
    """What a sample does that is longer than the model takes: end the run; be left out; lose whole turns from the
    start; or lose the end of its answer. A picture is never cut. Each is counted and listed."""
    max_tokens: PositiveInt | None = None
    """Longest sample in tokens, pictures included; what the model takes where absent."""
    check: Literal["auto", "all", "quick"] = "auto"
    """Before step 1, decode `all` pictures, or (`quick`) only look whether they are there. The words of every row are
    always checked. `auto` decodes all of up to 20,000 rows. What was checked once is not checked again."""
    allow_urls: Switch = False
    """Fetch pictures that rows name by web address. Risk: whoever wrote the rows chooses which addresses this machine
    asks; private ones are refused."""
    allow_outside: Switch = False
    """Read pictures from outside the source's `root`. Risk: whoever wrote the rows chooses which files are read."""
    speech: Speech | None = None
    """A speech model that transcribes the sounds of samples, whose words then stand in their places. Where absent, a
    sample with a sound is an error."""
    transforms: Transforms = Transforms()
    """Random changes of the training pictures."""
    workers: NonNegativeInt = 0
    """Processes that read and prepare samples beside the training; 0 prepares them in between."""
    timeout: PositiveFloat = 300.0
    """Seconds that a worker may be silent before the run ends with a message that names the samples it had."""

    @property
    def streams(self) -> bool:
        """Whether the training samples are a stream, which is never read by number."""
        return _is_stream(self.train)

    @model_validator(mode="after")
    def _train_alone_streams(self) -> "Data":
        for purpose, samples in (("val", self.val), ("test", self.test)):
            if _is_stream(samples):
                raise Inconsistent(
                    f"`{purpose}` is a stream, and an evaluation goes through all of its samples by number",
                    f"take `stream` out of `{purpose}`",
                )
            if self.streams and isinstance(samples, Split):
                raise Inconsistent(
                    f"`{purpose}` is a part of `train`, and nothing can be taken out of a stream before it is read",
                    f"give `{purpose}` a source of its own",
                )
        return self

    @model_validator(mode="after")
    def _no_speech_in_a_stream(self) -> "Data":
        if self.speech is not None and self.streams:
            raise Inconsistent(
                "`speech` transcribes all sounds before the first step, and `train` is a stream, never read before",
                "take `stream` out of `train`, or `speech` out of `data`",
            )
        return self

    @model_validator(mode="after")
    def _limit_needs_skip(self) -> "Data":
        if self.bad_row_limit is not None and self.on_bad_row != "skip":
            raise Inconsistent(
                "`bad_row_limit` has a meaning only with `on_bad_row: skip`",
                "set `on_bad_row: skip`, or take `bad_row_limit` out",
            )
        return self
