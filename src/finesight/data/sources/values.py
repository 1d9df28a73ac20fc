"""Values of typed tables as JSON knows them."""

import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np


def plain(value: Any) -> Any:
    """A value as text, number, truth value, None, bytes, or lists and mappings of these.

    Dates and times become text as ISO 8601 writes them, spans of time their seconds, decimal numbers their digits, and
    a number that is none (or not finite) None. Raises TypeError for what has no such form.
    """
    match value:
        case None | bool() | int() | str() | bytes():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case date() | time():  # a datetime is a date, too
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal() | UUID():
            return str(value)
        case np.generic() | np.ndarray():
            return plain(value.tolist())
        case bytearray() | memoryview():
            return bytes(value)
    raise TypeError(f"{type(value).__name__} is no value of a row")


def filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of plain values without the keys that it has no value for."""
    plain_values = ((name, plain(value)) for name, value in row.items())
    return {name: value for name, value in plain_values if value is not None}
