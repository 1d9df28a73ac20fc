"""Times that people write: seconds, `90m`, `2h30m`, `1:30:00`, `2-00:00:00`."""

import re

_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")


def seconds_of(text: str | int) -> int:
    """Seconds of a time as people write it, and as SLURM does; raises ValueError for what is none."""
    if isinstance(text, int):
        return text
    found = _CLOCK.fullmatch(text) or _UNITS.fullmatch(text)
    if found is None or not any(found.groups()):
        raise ValueError(f"`{text}` is no time")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds
