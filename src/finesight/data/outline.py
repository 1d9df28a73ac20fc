"""What is cheap to know of encoded examples: how many, how long, how much is learned, what comes twice."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finesight.data.dataset import ExampleSet
from finesight.data.sets import in_both, twice

PERCENTILES = (5, 50, 95, 99)


def outline(splits: Mapping[str, ExampleSet]) -> dict[str, dict[str, Any]]:
    """Facts of each split, as `environment.json` holds them under `data`.

    `rows` are those of its sources; `lengths` are tokens a sample; `twice` counts samples that equal an earlier one of
    the split, `in_train` those that equal one of the training samples, word for word and pixel for pixel.
    """
    train = splits["train"].samples.digests if "train" in splits else None
    found = {}
    for name, examples in splits.items():
        digests = examples.samples.digests
        lengths = np.asarray(examples.lengths)
        longest = int(lengths.argmax())
        ranks = np.percentile(lengths, PERCENTILES, method="inverted_cdf").tolist()
        found[name] = {
            "rows": examples.samples.rows,
            "samples": len(examples),
            "tokens": examples.tokens,
            "supervised_tokens": examples.supervised,
            "lengths": {
                "least": int(lengths.min()),
                **{f"p{rank}": int(value) for rank, value in zip(PERCENTILES, ranks, strict=True)},
                "most": int(lengths[longest]),
            },
            "longest": str(examples.samples.origin(longest)),
            "twice": twice(digests),
            **({} if train is None or name == "train" else {"in_train": in_both(digests, train)}),
            "fingerprint": examples.fingerprint,
        }
    return found


def lines(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The facts in words, a line a split."""
    return [f"{name}: {_line(told)}" for name, told in facts.items()]


def _line(told: Mapping[str, Any]) -> str:
    share, lengths = 100 * told["supervised_tokens"] / told["tokens"], told["lengths"]
    words = [
        f"{told['samples']:,} samples, {told['tokens']:,} tokens, {share:.0f} % of them learned from",
        f"a sample has {lengths['p50']} in the median, {lengths['p95']} at the 95th percentile, "
        f"{lengths['most']} at most ({told['longest']})",
    ]
    for key, what in (("twice", "come twice"), ("in_train", "are also in train")):
        if told.get(key):
            words.append(f"{told[key]:,} {what}")
    return "; ".join(words)
