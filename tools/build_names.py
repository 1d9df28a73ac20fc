"""Rebuild the pairs of English and German names that ship with finesight, byte for byte.

    npm pack emojibase-data@17.0.0
    python tools/build_names.py emojibase-data-17.0.0.tgz            # into src/finesight/assets/texts/names
    python tools/build_names.py emojibase-data-17.0.0.tgz --check    # compare with what is shipped

Taken are the names of things, people and places that both languages have in letters, blanks, commas and hyphens alone. The
split is a hash of the English name, so that a name is on one side in every build.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tarfile
from pathlib import Path

SHIPPED = (
    Path(__file__).resolve().parent.parent / "src" / "finesight" / "assets" / "texts" / "names" / "names.json"
)
_WORDS = re.compile(r"[^\W\d_]+(?:(?: |, |-|’|')[^\W\d_]+)*")
_TENTHS = 10


def _labels(archive: tarfile.TarFile, language: str) -> dict[str, str]:
    member = archive.extractfile(f"package/{language}/compact.json")
    assert member is not None
    return {row["hexcode"]: row["label"] for row in json.load(member)}


def _split(name: str) -> str:
    tenth = int(hashlib.sha256(name.encode()).hexdigest(), 16) % _TENTHS
    return {0: "test", 1: "val"}.get(tenth, "train")


def rows_of(place: Path) -> list[dict[str, str]]:
    """The pairs of one package, in its order, each English name once."""
    with tarfile.open(place) as archive:
        english, german = (_labels(archive, language) for language in ("en", "de"))
    found: dict[str, dict[str, str]] = {}
    for code, name in english.items():
        other = german.get(code, "")
        if _WORDS.fullmatch(name) and _WORDS.fullmatch(other) and not name.startswith("regional indicator"):
            found.setdefault(name, {"english": name, "german": other, "split": _split(name)})
    return list(found.values())


def written(rows: list[dict[str, str]]) -> bytes:
    """A JSON list with a row a line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]\n".encode()


def main() -> int:
    """Build or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    made = written(rows_of(arguments.package))
    if arguments.check:
        same = SHIPPED.read_bytes() == made
        print("the same" if same else "not what is shipped")
        return 0 if same else 1
    SHIPPED.parent.mkdir(parents=True, exist_ok=True)
    SHIPPED.write_bytes(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
