"""The base of every recipe section, and the few types that sections share."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator


class Section(BaseModel):
    """Typed, frozen, complete: an unknown key is an error, and no value is turned into another type.

    The docstring under each field is its documentation: it goes into the JSON schema and the recipe reference.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Inconsistent(ValueError):
    """Values that are each allowed and do not go together; raised by the checks of a section."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.mend = mend


_SWITCH_WORDS = {"yes": True, "on": True, "no": False, "off": False}


def as_switch(value: Any) -> Any:
    """The words of a switch as true or false; anything else as it is."""
    return _SWITCH_WORDS.get(value.lower(), value) if isinstance(value, str) else value


Switch = Annotated[bool, BeforeValidator(as_switch)]
"""true or false; the words yes, no, on and off, which are text in YAML 1.2, mean it too."""


def shape(value: Any) -> str:
    """What a value looks like to a person; the tag that chooses the branch of a union before it is validated."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case Mapping() | BaseModel():
            return "a mapping"
        case _:
            return "something else"


by_shape = Discriminator(shape)
"""Chooses the branch of a union whose `Tag` is the value's shape, so that a wrong value is one fault."""
