"""What a run learns from, step by step: samples by number, or a stream of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import Protocol, TypeVar

import numpy as np

from finesight.config.recipe import Recipe
from finesight.core.batch import Batch, Example
from finesight.core.errors import DataError, Fault, RecipeError
from finesight.core.ports import Ports
from finesight.core.sample import Sample
from finesight.data.dataset import ExampleSet
from finesight.data.loading.layout import Layout
from finesight.data.loading.loader import Windows, windows
from finesight.data.loading.order import WHOLE, Order, Share
from finesight.data.loading.stream import StreamSet
from finesight.data.loading.workers import Workers
from finesight.data.policy import Policy
from finesight.data.samples import Access, open_rows
from finesight.data.sets import source_name
from finesight.data.stream_rows import Head, StreamRows, look_ahead
from finesight.runtime.notices import Notices
from finesight.training.agreement import kind_of

A = TypeVar("A")
B = TypeVar("B")

_NEAR = 8
"""Steps among which one is chosen to see what a step takes."""

_LOOK = 100
"""Rows of a stream that are looked at before step 1 where no tokenizer is to learn from them."""


class Course(Protocol):
    """The windows of a run, one a step, or a process's share of each."""

    @property
    def layout(self) -> Layout:
        """How samples become micro-batches."""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sample; None where nobody knows."""

    def laid_out(self, layout: Layout) -> "Course":
        """The same course in other micro-batches."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of one pass; None where nobody knows before its end."""

    def steps_in(self, epochs: int) -> int:
        """Steps of so many passes."""

    def windows(self, start: int, stop: int, workers: Workers) -> Windows:
        """The windows of steps `start` to `stop` (excluded)."""

    def first(self) -> tuple[Batch, ...]:
        """A window as that of step 1, to see what it takes; of all samples, whatever the share."""

    def spare(self, kind: str | None) -> Batch:
        """A small micro-batch of a kind (`training.agreement.kind_of`), in the run's own form; of any kind for None."""

    def some(self, count: int) -> list[Example]:
        """A few examples of the run, of unlike lengths."""

    def counts(self, steps: int) -> dict[str, int]:
        """`samples`, `tokens`, `supervised_tokens` and `positions` (padding among them) of the first `steps` steps, as
        far as they can be known."""


@dataclass(frozen=True)
class ByNumber:
    """Samples that can be asked for by number, in an order of the whole."""

    examples: ExampleSet
    order: Order
    layout: Layout
    policy: Policy
    share: Share = WHOLE

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return int(self.examples.lengths.max())

    def laid_out(self, layout: Layout) -> "ByNumber":
        """The same course in other micro-batches."""
        return replace(self, layout=layout)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; of the first, where passes are of unlike numbers of steps."""
        return self.order.steps_per_epoch

    def steps_in(self, epochs: int) -> int:
        """Steps of so many passes."""
        return self.order.steps_in(epochs)

    def windows(self, start: int, stop: int, workers: Workers) -> Windows:
        """The windows of steps `start` to `stop` (excluded)."""
        return self._windows(start, stop, workers, self.share)

    def _windows(self, start: int, stop: int, workers: Workers, share: Share) -> Windows:
        return windows(self.examples, self.order, start, stop, self.layout, workers, self.policy, share)

    def first(self) -> tuple[Batch, ...]:
        """The window of step 1; of the largest of the first steps, where they are of unlike sizes."""
        near = range(min(_NEAR, self.steps_per_epoch)) if self.order.budgeted else range(1)
        largest = max(near, key=lambda step: self.examples.lengths[self.order.batch(step)[1]].sum())
        return next(self._windows(largest, largest + 1, Workers(), WHOLE))

    def some(self, count: int) -> list[Example]:
        """The longest example, and others of the first steps."""
        longest = int(self.examples.lengths.argmax())
        seen = [self.order.batch(step)[1].tolist() for step in range(min(count, self.steps_per_epoch))]
        chosen = dict.fromkeys([longest, *chain.from_iterable(seen)])
        return list(islice(_usable(self.examples.plain, chosen), count))

    def spare(self, kind: str | None) -> Batch:
        """Of the first samples that make one of the kind."""
        examples, layout = self.examples, self.layout
        numbers = (
            index
            for index in range(len(examples))
            if _may_be(kind, examples.samples.words(index), examples.ports)
        )
        chosen = _chosen(kind, _usable(examples.plain, numbers))
        if not chosen:
            raise _no_spare(kind, examples.samples.origin(0).file, "parallel.strategy")
        return layout.collate(chosen, examples.ports.pad_id)

    def counts(self, steps: int) -> dict[str, int]:
        """`samples`, `tokens`, `supervised_tokens` and `positions` (padding among them) of the first `steps` steps;
        equal passes are counted once."""
        order, whole = self.order, self.order.steps_per_epoch
        passes, left = divmod(steps, whole)
        lengths, supervised = self.examples.lengths, self.examples.supervised_lengths
        sizes = self.examples.sizes

        def of(first: int, count: int) -> np.ndarray:
            seen = [order.batch(step)[1] for step in range(first, first + count)]
            chosen = np.concatenate([np.empty(0, dtype=np.int64), *seen])
            computed = sum(self.layout.positions(sizes[samples], self.share.world) for samples in seen)
            return np.array([len(chosen), lengths[chosen].sum(), supervised[chosen].sum(), computed])

        if order.varies:
            total = of(0, steps)
        else:
            total = passes * of(0, whole) + of(passes * whole, left)
        return dict(zip(("samples", "tokens", "supervised_tokens", "positions"), total.tolist(), strict=True))


@dataclass(frozen=True)
class Streamed:
    """Samples that come one after another."""

    stream: StreamSet
    head: Head
    batch_size: int
    layout: Layout
    policy: Policy
    share: Share = WHOLE

    @property
    def longest(self) -> None:
        """Nobody knows."""

    def laid_out(self, layout: Layout) -> "Streamed":
        """The same course in other micro-batches."""
        return replace(self, layout=layout)

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of one pass; None where nobody knows before its end."""
        length = self.stream.rows.length
        return None if length is None else -(-length // self.batch_size)

    def steps_in(self, epochs: int) -> int:
        """Steps of so many passes; one where nobody knows before their end."""
        return epochs * (self.steps_per_epoch or 1)

    def windows(self, start: int, stop: int, workers: Workers) -> Windows:
        """The windows of steps `start` to `stop` (excluded)."""
        return self.stream.windows(
            self.batch_size, start, stop, self.layout, workers, self.policy, self.share
        )

    def spare(self, kind: str | None) -> Batch:
        """Of the first rows that make one of the kind, among those that were looked at."""
        chosen = _chosen(kind, self._head())
        if not chosen:
            raise _no_spare(kind, self.stream.rows.source.reader.file, "data.train.buffer")
        return self.layout.collate(chosen, self.stream.ports.pad_id)

    def first(self) -> tuple[Batch, ...]:
        """A window of the first rows of the stream."""
        return self._first

    @cached_property
    def _first(self) -> tuple[Batch, ...]:
        return self.stream.window_of(self.head.rows, self.layout, self.policy)

    def some(self, count: int) -> list[Example]:
        """The first examples of the stream."""
        return list(islice(self._head(), count))

    def _head(self) -> Iterator[Example]:
        made = _usable(lambda row: self.stream.example(row, 0, []), self.head.rows)
        return (one for one in made if one is not None)

    def counts(self, steps: int) -> dict[str, int]:
        """As many as in the first rows of the stream, in each step."""
        first = self._first
        return {
            "samples": steps * sum(len(batch.ids) for batch in first),
            "tokens": steps * sum(batch.tokens for batch in first),
            "supervised_tokens": steps * sum(batch.supervised for batch in first),
            "positions": steps * sum(batch.positions for batch in first),
        }


def _usable(make: Callable[[A], B], wanted: Iterable[A]) -> Iterator[B]:
    """What is made of those from which it can be made; the policy is told of the others when their turn comes."""
    for one in wanted:
        with suppress(DataError):
            yield make(one)


def _may_be(kind: str | None, words: Sample, ports: Ports) -> bool:
    """Whether a sample, as far as its words tell, is a part of a batch of the kind."""
    if kind is None:
        return True
    has = {"pictures": bool(words.images), "sounds": bool(words.sounds) and ports.sound is not None}
    return any(has[one] for one in has if one in kind) if kind else not any(has.values())


def _chosen(kind: str | None, examples: Iterable[Example]) -> list[Example]:
    """The first examples that together make a batch of the kind; none where they do not."""
    wanted, found = set((kind or "").split("+")) - {""}, set[str]()
    chosen: list[Example] = []
    for example in examples:
        has = set(kind_of(example.extras).split("+")) - {""}
        if kind is None or (not wanted and not has):
            return [example]
        if has <= wanted and not has <= found:
            chosen, found = [*chosen, example], found | has
        if wanted and found == wanted:
            return chosen
    return []


def _no_spare(kind: str | None, file: str, key: str) -> DataError:
    named = "no pictures and no sounds" if kind == "" else (kind or "any").replace("+", " and ")
    return DataError(
        f"with fsdp a process needs a row with {named} to keep step with the others, and finds none in {file}",
        key,
        "use `parallel.strategy: ddp`, or put rows of each kind among the first",
    )


def steps_of(recipe: Recipe, course: Course) -> int:
    """Optimizer steps of a whole run."""
    return recipe.train.max_steps or course.steps_in(recipe.train.epochs or 1)


def open_stream(
    recipe: Recipe, policy: Policy, notices: Notices, tick: Callable[[int], object]
) -> tuple[StreamRows, Head]:
    """The training samples that are a stream, and a look at the first of them.

    Raises RecipeError for all that a stream of this kind cannot have, and DataError by the policy.
    """
    source = recipe.data.train
    assert not isinstance(source, tuple)
    access = Access(recipe.data.allow_urls, recipe.data.allow_outside)
    rows = StreamRows(open_rows(source, source_name(source, 0, 1), access))
    _refuse(recipe, rows.length)
    for kind, text in rows.source.said:
        notices.add(kind, text)
    file, scratch = rows.source.reader.file, recipe.model.vocabulary is not None
    notices.add(
        "stream",
        f"{file} is read as it comes: {source.buffer:,} rows are shuffled among each other, samples are not grouped by "
        "length, and neither ids nor samples that are in `val` or `test` too are looked for",
    )
    if scratch:
        notices.add("stream", f"the tokenizer learns from the first {source.buffer:,} rows of {file}")
    count = source.buffer if scratch else min(source.buffer, _LOOK)
    decode = recipe.data.check != "quick"
    return rows, look_ahead(rows, count, recipe.train.batch_size or 1, decode, policy, notices, tick)


def words_of(samples: Sequence[Sample]) -> list[str]:
    """All that is said in some samples."""
    return [turn.text for sample in samples for turn in sample.messages]


def _refuse(recipe: Recipe, length: int | None) -> None:
    """Raise RecipeError with all that needs to know how many samples there are, where nobody does."""
    faults = []
    if length is None and recipe.train.max_steps is None:
        faults.append(
            Fault(
                "`data.train` is a stream whose length nobody knows, so `epochs` does not say how long it trains",
                "train.epochs",
                "give `train.max_steps`, and take `epochs` out (`train.epochs=null`)",
            )
        )
    measures = recipe.data.val is not None
    if length is None and recipe.evaluation.every is None and (measures or recipe.train.save_every is None):
        key = "evaluation.every" if measures else "train.save_every"
        what = "evaluations" if measures else "checkpoints"
        faults.append(
            Fault(
                f"{what} come once an epoch unless `{key}` is there, and nobody knows when one of this stream ends",
                key,
                f"give `{key}`, a number of steps",
            )
        )
    if faults:
        raise RecipeError.of(faults)
