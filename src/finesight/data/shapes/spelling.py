"""American words written the British way, and the other way round, by a maintained list of words.

The list (assets/words) has only words whose spelling alone says which side they are from: not `check` or `meter`,
which are British words too, nor `practice` and `license`, which are nouns here and verbs there.
"""

import re
from functools import lru_cache
from importlib.resources import files
from typing import Literal

Side = Literal["uk", "us"]

_RUN = re.compile(r"\S+")
_WORD = re.compile(r"(?<![\w])[A-Za-z]+(?![\w])")
_NO_PROSE = re.compile(r"://|[@\\_]|\w\.\w|/.*/|^/|/$")
"""In a run without blanks: an address, a path, a file's or a variable's name. Nothing is changed in those."""


@lru_cache(maxsize=2)
def table(side: Side) -> dict[str, str]:
    """Words in small letters, each with its spelling on `side`."""
    text = (files("finesight") / "assets" / "words" / "spelling.tsv").read_text(encoding="utf-8")
    words: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            us, uk = line.split("\t")
            words |= {us: uk} if side == "uk" else {uk: us}
    return words


def respell(text: str, side: Side) -> tuple[str, int]:
    """The text with its words spelled as on `side`, and how many were changed.

    Whole words alone, in small letters, capitals, or with a capital first; any other mixture (`ColorPicker`) is a name
    and stays, as do addresses, paths and the names of files and variables.
    """
    words, changed = table(side), 0

    def word(found: re.Match[str]) -> str:
        nonlocal changed
        old = found[0]
        new = words.get(old.lower())
        if new is None:
            return old
        if old.isupper() and len(old) > 1:
            new = new.upper()
        elif old == old.capitalize():
            new = new.capitalize()
        elif not old.islower():
            return old
        changed += 1
        return new

    def run(found: re.Match[str]) -> str:
        return found[0] if _NO_PROSE.search(found[0]) else _WORD.sub(word, found[0])

    return _RUN.sub(run, text), changed
