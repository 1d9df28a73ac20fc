"""All samples of a set encoded for one model: tokens and targets as columns, found again by the next run.

N samples that can be used, T tokens of them all.
"""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finesight.core.batch import IGNORE
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.data.check import error_of, fault_of
from finesight.data.encode import encode
from finesight.data.lengths import EncodedText, Limit, TooLong, without_turns
from finesight.data.passes.cache import Arrays, key_of
from finesight.data.passes.passing import Means, Pass, Piece
from finesight.data.pictures.mirrors import Flip, mirrors_allowed
from finesight.data.policy import Policy
from finesight.data.sets import SampleSet

_PATIENCE = 20.0
"""Seconds of work that are not worth the start of worker processes: each must import the tokenizer's library."""
_COLUMNS = 2
"""Raised whenever other columns are kept."""
_MANY = 4000
"""Samples that may take longer than that."""


@dataclass(frozen=True)
class _Encode:
    """The task: some samples encoded."""

    samples: SampleSet
    ports: Ports
    limit: Limit
    answering: bool
    flip: Flip

    def __call__(self, rows: range) -> Piece:
        texts: list[EncodedText] = []
        kept: list[int] = []
        unmirrored: list[bool] = []
        events: list[Sequence[Any]] = []
        for index in rows:
            origin = self.samples.origin(index)
            try:
                words = self.samples[index] if self.ports.sized else self.samples.words(index)
                text = encode(words, self.ports, self.limit, self.answering)
            except DataError as error:
                if isinstance(error, TooLong) and self.limit.on_long == "skip":
                    events.append(
                        ["long", index, origin.file, origin.row, error.faults[0].what, "are left out"]
                    )
                else:
                    events.append(fault_of(index, origin, error))
                continue
            if text.note:
                how = "lost turns from their start" if text.dropped else "lost the end of their answer"
                events.append(["long", index, origin.file, origin.row, text.note, how])
            texts.append(text)
            kept.append(index)
            unmirrored.append(not mirrors_allowed(without_turns(words, text.dropped), self.flip))
        columns = {**_columns(kept, texts), "unmirrored": np.array(unmirrored, dtype=np.bool_)}
        return Piece(rows.start, rows.stop, columns, events)


def _columns(kept: Sequence[int], texts: Sequence[EncodedText]) -> dict[str, np.ndarray]:
    none = np.empty(0, dtype=np.int32)
    return {
        "kept": np.array(kept, dtype=np.int64),
        "lengths": np.array([len(text.tokens) + _read(text) for text in texts], dtype=np.int32),
        "written": np.array([len(text.tokens) for text in texts], dtype=np.int32),
        "supervised": np.array([(text.targets != IGNORE).sum() for text in texts], dtype=np.int32),
        "dropped": np.array([text.dropped for text in texts], dtype=np.int32),
        "tokens": np.concatenate([none, *(text.tokens for text in texts)]),
        "targets": np.concatenate([none, *(text.targets for text in texts)]),
        "source_lengths": np.array([_read(text) for text in texts], dtype=np.int32),
        "sources": np.concatenate([none, *(text.source for text in texts if text.source is not None)]),
    }


def _read(text: EncodedText) -> int:
    """Tokens that an encoder reads."""
    return 0 if text.source is None else len(text.source)


def encode_all(
    samples: SampleSet,
    ports: Ports,
    policy: Policy,
    limit: Limit,
    answering: bool,
    name: str,
    means: Means,
    flip: Flip = "none",
) -> tuple[SampleSet, Arrays]:
    """The samples that can be used, and by sample (N,) the `lengths` of its tokens, how many of them are `supervised`,
    how many turns were `dropped`, and whether its words keep its pictures `unmirrored` where mirrors are asked for
    (`flip`); `tokens` and `targets` (T,) are those of one sample after another, of which each has `written` many.
    `sources` are in the same way what encoders read, `source_lengths` many tokens of each sample.

    Faults go to the policy, which may raise. `name` is what messages call the set. Raises DataError where no sample
    is left.
    """
    task = _Encode(samples, ports, limit, answering, flip)
    key = key_of(samples.fingerprint, ports.fingerprint, limit, answering, flip, _COLUMNS)
    source = f"{samples.row(0)[0].reader.file} {name}"
    if means.jobs and len(samples) > _MANY and not can_be_sent(ports):
        means.notices.add("fallback", "this tokenizer cannot be sent to other processes: encoded in one")
        means = replace(means, jobs=0)
    cut: Counter[str] = Counter()
    with Pass("encoded", key, source, task, len(samples), means) as encoding:
        for piece in encoding.pieces(_PATIENCE, lambda index: str(samples.origin(index))):
            for event in piece.events:
                if event[0] == "fault":
                    policy.bad_row(*error_of(event))
                else:
                    _, _, file, row, what, how = event
                    policy.long_row(file, row, what)
                    cut[how] += 1
        found = encoding.finish()
    for how, count in cut.items():
        means.notices.add("long", f"{name}: samples that are too long {how} (`data.on_long`)", count)
    if left := int(np.count_nonzero(found["unmirrored"])):
        what = "samples whose words speak of sides, directions, clocks or writing are not mirrored"
        means.notices.add("unmirrored", f"{name}: {what}", left)
    kept = np.asarray(found["kept"])
    if not len(kept):
        where = samples.row(0)[0].reader.file
        raise DataError(f"no rows are left after encoding: {policy.examples()}", where, "mend the rows")
    return samples if len(kept) == len(samples) else samples.take(kept), found


def can_be_sent(ports: Ports) -> bool:
    """Whether another process can be given the tokenizer and the template."""
    try:
        pickle.dumps(ports)
    except Exception:  # each library's tokenizers refuse in a way of their own
        return False
    return True
