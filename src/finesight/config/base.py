"""The base of every recipe section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Typed, frozen, complete: an unknown key is an error, and no value is turned into another type.

    The docstring under each field is its documentation: it goes into the JSON schema and the recipe reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False)
