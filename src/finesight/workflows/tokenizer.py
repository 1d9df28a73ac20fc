"""The processor of a model from scratch, whose tokenizer learns from the words of the training samples: once."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from finesight.data.passes.cache import key_of
from finesight.data.sets import SampleSet
from finesight.models.scratch import learn_tokenizer
from finesight.runtime.cachedir import NoCache, find_entry, publish_entry

_log = logging.getLogger("finesight")

_KIND, _FORM, _FILE = "tokenizer", 1, "tokenizer.json"
_WORTH = 1.0
"""Seconds of work that are worth an entry of the cache."""


def learned_tokenizer(vocabulary: int, train: SampleSet, tick: Callable[[int], object] = bool) -> str:
    """The tokenizer that the words of the training samples give, as JSON.

    `tick` is called with the number of samples that are read, and may raise to stop.
    """
    began = time.monotonic()
    key = key_of(train.fingerprint, vocabulary)
    entry = find_entry(_KIND, key, _FORM)
    try:
        if entry is not None:
            return (entry / _FILE).read_text(encoding="utf-8")
    except OSError:  # removed meanwhile by another process
        pass
    learned = learn_tokenizer(_words(train, tick), vocabulary)
    if time.monotonic() - began > _WORTH:

        def write(folder: Path) -> None:
            (folder / _FILE).write_text(learned, encoding="utf-8")

        try:
            publish_entry(_KIND, key, _FORM, write, source=train.row(0)[0].reader.file)
        except NoCache as error:
            _log.info("the tokenizer will be learned anew by the next run: %s", error)
    return learned


def _words(train: SampleSet, tick: Callable[[int], object]) -> Iterator[str]:
    for index in range(len(train)):
        tick(index)
        for turn in train.words(index).messages:
            yield turn.text
