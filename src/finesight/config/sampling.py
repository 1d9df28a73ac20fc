"""The `train.scheduled_sampling` section: learning from what the model itself would have said so far."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, Tag, model_validator

from finesight.config.base import Inconsistent, Section, by_shape

StepsOrShare = Annotated[
    Annotated[NonNegativeInt, Tag("a whole number")] | Annotated[float, Field(ge=0, lt=1), Tag("a number")],
    by_shape,
]
"""A number of steps; below 1, a share of all steps."""

_Ratio = Annotated[float, Field(ge=0, le=1)]


class ScheduledSampling(Section):
    """Inputs of answers that the model itself predicts in place of the true ones (Bengio et al. 2015,
    https://arxiv.org/abs/1506.03099), in two passes: the first one, without gradients, predicts."""

    shape: Literal["constant", "linear", "cyclic"] = "constant"
    """How the ratio goes on from `ratio`: it stays; it goes in a line to `to` within `over` steps, and stays there; or
    it goes to `to` and back in a wave of `period` steps."""
    ratio: _Ratio = 1.0
    """Teacher-forcing ratio at the start: the share of an answer's inputs that are the true ones."""
    to: _Ratio | None = None
    """The ratio at the end of a line, or in the middle of each period."""
    over: StepsOrShare | None = None
    """With `shape: linear`: steps of the line; below 1, a share of all; all where absent."""
    period: PositiveInt | None = None
    """With `shape: cyclic`: steps from one start to the next."""

    @model_validator(mode="after")
    def _fits_its_shape(self) -> "ScheduledSampling":
        for key, shapes in (("to", ("linear", "cyclic")), ("over", ("linear",)), ("period", ("cyclic",))):
            if getattr(self, key) is not None and self.shape not in shapes:
                raise Inconsistent(
                    f"`{key}` is of `shape: {' or '.join(shapes)}`, and the shape is {self.shape}",
                    f"take `{key}` out, or set `shape: {shapes[-1]}`",
                )
        if self.shape != "constant" and self.to is None:
            raise Inconsistent(f"`shape: {self.shape}` goes nowhere without `to`", "give `to`, such as 0.5")
        if self.shape == "cyclic" and self.period is None:
            raise Inconsistent("`shape: cyclic` needs a `period`", "give it, a number of steps")
        if self.shape == "constant" and self.ratio == 1:
            raise Inconsistent(
                "with a constant `ratio: 1` every input is the true one, and nothing is sampled",
                "lower `ratio`, such as 0.75, or take `scheduled_sampling` out",
            )
        return self
