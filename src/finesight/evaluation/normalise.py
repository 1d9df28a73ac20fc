"""The normalisation of short answers that SQuAD's evaluation made common."""

import re
import string

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_normalise(text: str) -> str:
    """The text as SQuAD v1.1 compares answers (Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250).

    In this order: lower case; the 32 ASCII punctuation marks deleted (so "U.S." gives "us" and "next-to"
    "nextto"); the words a, an and the taken out; white space collapsed to single spaces, none at the ends.
    The result may be empty: "The" and "a." both are.
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())
