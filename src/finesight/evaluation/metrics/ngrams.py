"""Counted n-grams of many texts at once, in numpy: what BLEU and CIDEr-D share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finesight.core.prediction import Prediction
from finesight.evaluation.ptb import caption_tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

Tokens = Sequence[str]


@dataclass(frozen=True)
class Captions:
    """Candidates and references in words: `references[i]` holds one or more texts for `candidates[i]`."""

    candidates: Sequence[Tokens]
    references: Sequence[Sequence[Tokens]]

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> "Captions":
        """The texts of a prediction table in the words of `caption_tokens`."""
        return cls(
            [caption_tokens(item.prediction) for item in predictions],
            [[caption_tokens(text) for text in item.references] for item in predictions],
        )

    def owners(self) -> "Integers":
        """For each reference text, in order, the number of its item."""
        import numpy as np

        return np.repeat(np.arange(len(self.candidates)), [len(texts) for texts in self.references])

    def lengths(self) -> tuple["Integers", "Integers"]:
        """Words in each candidate, and in each reference text in the order of `owners`."""
        import numpy as np

        candidates = np.array([len(text) for text in self.candidates], dtype=np.int64)
        return candidates, np.array(
            [len(text) for texts in self.references for text in texts], dtype=np.int64
        )


@dataclass(frozen=True)
class Counts:
    """The different n-grams of each text, for one n: parallel arrays in order of (text, gram).

    Entry e says that text `text[e]` holds the n-gram numbered `gram[e]` `count[e]` times. `grams` bounds the
    numbers, which candidates and references share. For references, `item[e]` is the item that owns the text.
    """

    text: "Integers"
    gram: "Integers"
    count: "Integers"
    item: "Integers"
    grams: int

    @property
    def key(self) -> "Integers":
        """One number for each pair of item and gram."""
        return self.item * self.grams + self.gram


def counted(captions: Captions, orders: int) -> Iterator[tuple[Counts, Counts]]:
    """For n = 1 … `orders`: the n-grams of the candidates and those of the reference texts."""
    import numpy as np

    texts = [*captions.candidates, *(text for texts in captions.references for text in texts)]
    items, owners = len(captions.candidates), captions.owners()
    vocabulary: dict[str, int] = {}
    word = np.array(
        [vocabulary.setdefault(each, len(vocabulary)) for text in texts for each in text], dtype=np.int64
    )
    text_of = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    gram, grams = word, max(len(vocabulary), 1)
    for order in range(1, orders + 1):
        if order > 1:  # an n-gram is the pair of an (n-1)-gram and the word after it, numbered anew
            pairs = gram[:-1] * len(vocabulary) + word[order - 1 :]
            different, gram = np.unique(pairs, return_inverse=True)
            grams = max(len(different), 1)
        last = max(len(word) - order + 1, 0)
        whole = text_of[:last] == text_of[order - 1 :]  # the others reach into the next text
        keys, count = np.unique(text_of[:last][whole] * grams + gram[whole], return_counts=True)
        text, number = np.divmod(keys, grams)
        split = int(np.searchsorted(text, items))
        mine, theirs = text[:split], text[split:] - items
        yield (
            Counts(mine, number[:split], count[:split], mine, grams),
            Counts(theirs, number[split:], count[split:], owners[theirs], grams),
        )


def find(keys: "Integers", wanted: "Integers") -> tuple["Integers", "npt.NDArray[np.bool_]"]:
    """For each wanted number its place in the ascending `keys`, and whether it is there at all."""
    import numpy as np

    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted
