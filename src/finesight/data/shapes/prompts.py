"""Templates of questions: `{name}` puts in a column's text, `{{` and `}}` are braces."""

import re
from collections.abc import Callable

from finesight.core.errors import DataError

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def names_in(template: str) -> tuple[str, ...]:
    """The columns that a template puts in; raises DataError for a brace that is neither a name's nor double."""
    for found in _PLACEHOLDER.finditer(template):
        if found[0] in ("{", "}"):
            what = f"character {found.start() + 1} of the prompt is a single `{found[0]}`"
            raise DataError(what, "`prompt` of the source", f"write `{found[0] * 2}` for a brace")
    names = (found[1] for found in _PLACEHOLDER.finditer(template))
    return tuple(dict.fromkeys(name for name in names if name is not None))


def put_in(template: str, text_of: Callable[[str], str]) -> str:
    """The template with each name replaced by its text; braces within that text stay what they are."""
    return _PLACEHOLDER.sub(lambda found: found[0][0] if found[1] is None else text_of(found[1]), template)
