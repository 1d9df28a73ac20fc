"""Rebuild the words and how they are spoken that ship with finesight, byte for byte.

    pip download --no-deps pocketsphinx==5.1.1
    python tools/build_pronunciations.py pocketsphinx-5.1.1-*.whl            # into src/finesight/assets/texts
    python tools/build_pronunciations.py pocketsphinx-5.1.1-*.whl --check    # compare with what is shipped

Taken are words of the CMU Pronouncing Dictionary of four to eight letters with one way to be spoken, chosen by a hash.
The split is a hash of the word's first five letters, so that near relations stand on one side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "src/finesight/assets/texts/pronunciations/words.json"
TABLE = "pocketsphinx/model/en-us/cmudict-en-us.dict"
WORDS = 8000
_WORD = re.compile(r"[a-z]{4,8}")
_STEM = 5
_TENTHS = 20


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _split(word: str) -> str:
    return {0: "test", 1: "val"}.get(_number(word[:_STEM]) % _TENTHS, "train")


def rows_of(place: Path) -> list[dict[str, str]]:
    """The chosen words in alphabetical order."""
    with zipfile.ZipFile(place) as archive:
        lines = archive.read(TABLE).decode("utf-8").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    ways = Counter(re.sub(r"\(\d+\)$", "", word) for word, _ in pairs)
    known = {word: spoken for word, spoken in pairs if _WORD.fullmatch(word) and ways[word] == 1}
    chosen = sorted(sorted(known, key=_number)[:WORDS])
    return [{"word": word, "spoken": known[word], "split": _split(word)} for word in chosen]


def written(rows: list[dict[str, str]]) -> bytes:
    """A JSON list with a row a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
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
