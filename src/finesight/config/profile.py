"""The `profile` section: a trace of chosen steps, operator by operator."""

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from finesight.config.base import Inconsistent, Section, Switch


class Profile(Section):
    """Trace some steps with torch's profiler: a timeline, and a table of the operators that took longest."""

    steps: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=2)]
    """The first and the last step of the trace, such as `[5, 10]`. What a trace holds grows with each step."""
    memory: Switch = False
    """Also what each operator allocates and frees."""
    shapes: Switch = False
    """Also the shapes of what each operator is given; the table tells operators apart by them."""
    stacks: Switch = False
    """Also the lines of Python that called each operator; slow."""

    @model_validator(mode="after")
    def _in_order(self) -> "Profile":
        first, last = self.steps
        if last < first:
            raise Inconsistent(
                f"`steps: [{first}, {last}]` ends before it begins", f"write `steps: [{last}, {first}]`"
            )
        return self
