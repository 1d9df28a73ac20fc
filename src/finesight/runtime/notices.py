"""What must never be silent: dropped rows, guesses, frozen parts, fallbacks; said once, counted, recorded."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

_log = logging.getLogger("finesight")


@dataclass
class Notices:
    """Notices of one run, in the order of their first appearance."""

    _counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, kind: str, text: str, count: int = 1) -> None:
        """Count a notice; its text is logged the first time. `kind` is one word, such as `dropped` or `fallback`."""
        key = (kind, text)
        if key not in self._counts:
            _log.warning("%s: %s", kind, text)
        self._counts[key] = self._counts.get(key, 0) + count

    def rows(self) -> list[Mapping[str, object]]:
        """All notices, as `notices.json` holds them."""
        return [{"kind": kind, "text": text, "count": count} for (kind, text), count in self._counts.items()]
