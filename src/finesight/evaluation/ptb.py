"""The words of a caption, as coco-caption counts them.

coco-caption runs the Penn Treebank tokenizer of Stanford CoreNLP 3.4.1 in lower case and drops punctuation.
The rules here were written from the Treebank's conventions and from what that tokenizer answers to given
texts, none of them from its source. Its quirks are kept where captions meet them, as scores would differ
otherwise: brackets stay as words (`-lrb-`, since coco-caption's list of punctuation has them in upper case),
`!!` stays where `!` goes, and a full stop without a space joins two words (`bench.a`).
"""

import re
from functools import lru_cache

_DROPPED = frozenset(['"', "''", "'", "’", "``", "`", ".", "?", "!", ",", ":", "-", "--", ";"])

# What is rewritten before words are looked for; only texts beyond ASCII have any of it.
_REWRITTEN = str.maketrans(
    {
        "½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 ", "£": " # ", "€": " $ ",
        "¢": " cents ", "…": " ... ", "\u00ad": "", "\u200b": " ", "\ufe0f": " ", "²": " ² ", "³": " ³ ",
        **dict.fromkeys("–—―‐‑\u0096\u0097", " -- "),
        **dict.fromkeys('"“”«»', " '' "),
        **dict.fromkeys("‘‛‹›", " ` "),
    }
)  # fmt: skip
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CLITICS = (("n", "t"), ("", "s"), ("", "m"), ("", "d"), ("", "ll"), ("", "ve"), ("", "re"))
_CURLED = {f"{start}’{end}": f"{start}'{end}" for start, end in _CLITICS}

# Written with their full stop: anywhere; when capitalised; before a number.
_ABBREVIATIONS = ["mr", "mrs", "ms", "dr", "drs", "prof", "profs", "sen", "sens", "rep", "reps", "gov", "govs", "lt", "lieut", "col", "gen", "rev", "maj", "sgt", "cpl", "pvt", "capt", "st", "ste", "ave", "pres", "hon", "brig", "cmdr", "comdr", "det", "supt", "adm", "messrs", "mt", "ft", "jr", "sr", "bros", "blvd", "rd", "esq", "inc", "co", "cos", "corp", "ltd", "plc", "dept", "assn", "univ", "intl", "bancorp", "vs", "etc", "al", "seq", "est", "cf", "ext", "tel", "sq", "ct", "bldg", "mme", "mlle", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "mon", "tue", "tues", "wed", "thu", "thurs", "fri", "calif", "conn", "fla", "colo", "ga", "ind", "kan", "ky", "md", "mich", "minn", "mo", "mont", "neb", "nev", "okla", "penn", "tenn", "va", "vt", "wis", "ariz", "ala", "wyo", "invt", "elec", "natl", "mfg", "mtg", "alex", "wm", "jos", "cie"]
_CAPITALISED = ["Miss", "Mass", "La", "Ore", "Pa", "Tex", "Wash", "Ark", "Ill", "Del"]
_NUMBERED = ["nos", "no", "figs", "fig", "pp", "art"]
_GLUED = ["can+not", "gon+na", "wan+na", "got+ta", "gim+me", "lem+me"]
_LONE = frozenset(
    [*_ABBREVIATIONS, *map(str.lower, _CAPITALISED), *_NUMBERED, *(word.replace("+", "") for word in _GLUED)]
)

# Before one of these a single letter and its full stop are two words: they begin a sentence.
_OPENERS = frozenset(
    ["A", "About", "According", "After", "An", "As", "At", "But", "Earlier", "He", "Her", "Here", "However", "If", "In", "It", "Last", "Many", "More", "Now", "Once", "One", "Other", "Our", "She", "Since", "So", "Some", "Such", "That", "The", "Their", "Then", "There", "These", "They", "This", "We", "What", "When", "While", "Yet", "You"]
)


@lru_cache(maxsize=1)
def _words() -> re.Pattern[str]:
    """All kinds of words, the first that fits being taken."""
    letter, sign = r"[^\W\d_]", r"[^\s<>\"'(){}|]"
    apostrophe, no_letter, no_sign = "['’]", r"(?![^\W\d_])", r"(?![^\W_])"
    clitic = f"{apostrophe}(?:s|m|d|ll|ve|re){no_sign}"
    unit = r"[^\W_]+(?:_+[^\W_]+)*"
    tail = f"(?:-{unit})*"
    elided = f"(?:(?:[dol]|qu|c){apostrophe}(?={letter}))?"  # d'or, o'clock, l'eau, qu'il, c'est
    hyphened = f"{elided}{unit}(?:-{elided}{unit})*"
    compound = f"(?!{letter}{clitic}){hyphened}(?:/{hyphened}){{0,2}}"
    ends = rf"(?![^\W_]|{apostrophe}{letter}|-[^\W_])"
    glued = "|".join(f"{first}(?={second}{ends})" for first, second in (word.split("+") for word in _GLUED))
    no_ellipsis = r"(?!\.\.(?!\.))"
    kinds = [
        r"</?[a-z!][^<>]*>",  # a tag
        rf"https?://{sign}+\.{sign}*[\w/]|(?:[\w-]+\.)+(?:com|net|org|edu)/{sign}*[\w/]",
        r"[\w+-]+(?:\.[\w+-]+)*@[\w-]+(?:\.[\w-]+)*|@[a-z_]\w*",
        rf"\#{letter}+",
        rf"(?:[<>]?[:;=][-']?[()dp]|\^_\^|-_-|>_<){no_letter}",  # faces
        r"[?!]{2,}|-[lr][rcs]b-",
        rf"\d*(?:[.,]\d+)+{tail}|[+-]?\d*(?:[.,:]\d+)+|[+-]\d+",
        glued,
        f"(?:ma{apostrophe}am|n?e{apostrophe}er|ol{apostrophe}){no_sign}",
        f"[yj](?!{clitic}){apostrophe}(?={letter})",  # y'all
        rf"(?:{letter}\.){{2,}}{no_letter}{tail}|ph\.d\.",  # u.s., u.k.-based
        rf"{letter}+(?:[.!?]{letter}+)+{tail}",  # bench.a
        rf"{letter}+,{letter}+(?:-{unit})+",  # clean,well-lit
        rf"(?:{'|'.join(_ABBREVIATIONS)})\.{no_ellipsis}{tail}",
        rf"(?-i:{'|'.join(_CAPITALISED)})\.{no_ellipsis}",
        rf"(?:{'|'.join(_NUMBERED)})\.(?=\s*\d)",
        rf"{letter}\.(?!\s(?-i:The))",  # an initial
        rf"{compound}\.(?=[,;:])",
        r"(?-i:[A-Z]+(?:&[A-Z]+)+)(?![^\W_])",  # at&t
        f"{letter}+(?=n{apostrophe}t)|n{apostrophe}t{no_letter}",  # do n't
        r"(?<!\w)(?:(?:us|[ac]|hk|nz)\$|c(?:\+\+|\#))",
        compound,
        r"'t(?=(?:is|was)\b)",
        f"{apostrophe}n{apostrophe}|{apostrophe}(?:em|til|cause|n){no_sign}",
        rf"(?<!\w){apostrophe}\d\d(?:s{no_sign}|(?!\S))",  # the '90s
        clitic,
        r"''|``|\.\.+|--+|\*+|_+|\#+",
        r"\S",
    ]
    return re.compile("|".join(kinds), re.IGNORECASE)


_PLAIN = re.compile(r"([^\W\d_]{2,})[.,]?")


@lru_cache(maxsize=1 << 16)
def _split(chunk: str, follower: str) -> tuple[str, ...]:
    """The words of a text without white space.

    `follower` stands for what comes next: 0 for a number, The for an opener, empty for anything else.
    """
    plain = _PLAIN.fullmatch(chunk)
    if plain and (word := plain[1].lower()) not in _LONE:
        return (word,)
    found: list[str] = []
    for word in _words().findall(f"{chunk} {follower}"):
        lower = word.lower()
        if not lower.isalnum():
            lower = _CURLED.get(lower) or "".join(_BRACKETS.get(sign, sign) for sign in lower)
        if lower not in _DROPPED and not lower.startswith(("---", "..")):
            found.append(lower)
    return tuple(found[: len(found) - bool(follower)])


@lru_cache(maxsize=1 << 16)
def caption_tokens(text: str) -> tuple[str, ...]:
    """The text's words in lower case, without punctuation; none where nothing else is there."""
    if "&" in text:
        for name, sign in _ENTITIES.items():
            text = text.replace(name, sign)
    if not text.isascii():  # most emoji lie beyond the basic plane, where this tokenizer knows no words
        text = "".join(sign if sign <= "\uffff" else " " for sign in text.translate(_REWRITTEN))
    chunks = text.split()
    found: list[str] = []
    for number, chunk in enumerate(chunks):
        follower = ""
        if chunk[-1] == "." and number + 1 < len(chunks):
            after = chunks[number + 1]
            follower = "0" if after[0].isdigit() else "The" if after in _OPENERS else ""
        found.extend(_split(chunk, follower))
    return tuple(found)
