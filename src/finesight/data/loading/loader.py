"""Windows of micro-batches, one window a step, prepared in between or by worker processes."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from finesight.core.batch import Batch, Example
from finesight.core.errors import DataError, FinesightError
from finesight.core.sample import Origin
from finesight.data.dataset import ExampleSet
from finesight.data.loading.collate import collate
from finesight.data.loading.feed import fed
from finesight.data.loading.layout import Layout, sizes_of
from finesight.data.loading.order import Order, Share
from finesight.data.loading.workers import BETWEEN, At, Workers, worker_error
from finesight.data.sets import SampleSet

_MOST_NAMED = 8
"""Samples that a message names."""

Windows = Generator[tuple[Batch, ...], None, None]
"""The micro-batches of one step after another; to be closed where it is left before its end."""


class Told(Protocol):
    """Who is told of rows that cannot be used, or not as they are (`data.policy.Policy`)."""

    def bad_row(self, file: str, row: int, error: DataError) -> None:
        """Record a bad row, or raise."""

    def long_row(self, file: str, row: int, what: str) -> None:
        """List a row that was left out or cut because it is too long."""


class Places(Protocol):
    """Where samples stand, by their numbers."""

    def origin(self, item: int) -> Origin:
        """File and row."""

    def place(self, item: int) -> str:
        """What a message calls it."""

    def column(self, item: int) -> str:
        """The column that a picture which cannot be decoded is to be blamed on."""


@dataclass(frozen=True)
class Window:
    """What a step is made of: its micro-batches, and what is to be told of the rows that were drawn for it.

    `bad` ones are left out of the batches, and so are some of those that are too `long`.
    """

    batches: tuple[Batch, ...]
    bad: tuple[tuple[Origin, DataError], ...] = ()
    long: tuple[tuple[Origin, str], ...] = ()


def make_window(
    step: int,
    items: Sequence[int],
    example: Callable[[int], Example | None],
    places: Places,
    at: At,
    pad_id: int,
    micro_batch: int | Layout,
) -> Window:
    """The window of step `step` (from 0) over the samples `items`, each made by `example` (None: it is left out).

    A sample that cannot be used is left out, and told. Raises WorkerError, naming the samples, for errors that are not
    about data.
    """
    began = time.perf_counter()
    made: list[tuple[int, Example]] = []
    bad: list[tuple[Origin, DataError]] = []
    for item in items:
        at(step, item)
        try:
            found = example(item)
        except DataError as error:
            error.column = error.column or places.column(item)
            bad.append((places.origin(item), error))
        except FinesightError:
            raise
        except Exception as error:
            raise worker_error(error, f"step {step + 1}, {places.place(item)}") from error
        else:
            made += [] if found is None else [(item, found)]
    at(step, BETWEEN)
    batches = []
    layout = Layout(micro_batch) if isinstance(micro_batch, int) else micro_batch
    for places_of_part in layout.deal(sizes_of([one for _, one in made])):
        part = [made[place] for place in places_of_part.tolist()]
        try:
            batches.append(layout.collate([one for _, one in part], pad_id))
        except Exception as error:
            named = "; ".join(
                f"sample `{one.id}` of {places.origin(item)}" for item, one in part[:_MOST_NAMED]
            )
            more = f"; and {len(part) - _MOST_NAMED} more" if len(part) > _MOST_NAMED else ""
            raise worker_error(error, f"step {step + 1}, {named}{more}") from error
    seconds = (time.perf_counter() - began) / max(1, len(batches))
    return Window(tuple(replace(batch, seconds=seconds) for batch in batches), tuple(bad))


def released(
    windows: Generator[Window, None, None], start: int, policy: Told | None, share: Share | None = None
) -> Windows:
    """The batches of windows from step `start` on, once `policy` was told of their rows, which may raise.

    Without a policy the first bad row is raised. Raises DataError where no sample of a step is left; of a `share`
    nothing may be left, since the others may have some.
    """
    with closing(windows):
        for step, window in enumerate(windows, start):
            for origin, error in window.bad:
                if policy is None:
                    raise error
                policy.bad_row(origin.file, origin.row, error)
            for origin, what in window.long:
                if policy is not None:
                    policy.long_row(origin.file, origin.row, what)
            if not window.batches and (window.bad or window.long) and (share is None or share.world == 1):
                raise _nothing_left(step, window)
            yield window.batches


def _nothing_left(step: int, window: Window) -> DataError:
    why = [(origin, error.faults[0].what) for origin, error in window.bad] + list(window.long)
    told = "; ".join(f"{origin}: {what}" for origin, what in why[:_MOST_NAMED])
    return DataError(
        f"no sample of step {step + 1} can be used, so there is nothing to learn from: {told}",
        str(why[0][0]),
        "mend these rows, or raise `train.batch_size`",
    )


class _Drawing:
    """The job of drawing windows from examples by their numbers.

    An item stands for a sample and how often it was looked at before, since a step may see a sample twice.
    """

    reads = False

    def __init__(
        self, examples: ExampleSet, order: Order, steps: range, micro_batch: int | Layout, share: Share
    ) -> None:
        self._examples, self._order, self._steps = examples, order, steps
        self._layout = Layout(micro_batch) if isinstance(micro_batch, int) else micro_batch
        self._share = share

    def tasks(self, at: At) -> Iterator[int]:
        return iter(self._steps)

    def do(self, step: int, at: At) -> Window:
        indices, looks = self._order.draws(step)

        def example(item: int) -> Example:
            return self._examples[divmod(item, len(self._examples))]

        own = self._layout.share(self._examples.lengths[indices], self._share)
        items = (looks * len(self._examples) + indices)[own].tolist()
        return make_window(step, items, example, self, at, self._examples.ports.pad_id, self._layout)

    def origin(self, item: int) -> Origin:
        return self._examples.samples.origin(item % len(self._examples))

    def place(self, item: int) -> str:
        return f"sample `{self._examples.samples.id(item % len(self._examples))}` of {self.origin(item)}"

    def column(self, item: int) -> str:
        return self._examples.samples.row(item % len(self._examples))[0].picture_column


def windows(
    examples: ExampleSet,
    order: Order,
    start: int,
    stop: int,
    micro_batch: int | Layout,
    workers: Workers | int,
    policy: Told | None = None,
    share: Share | None = None,
) -> Windows:
    """The windows of steps `start` (from 0, included) to `stop` (excluded), or a rank's `share` of each.

    A micro-batch has `micro_batch` samples, or is put together as a layout says. What a window holds depends on its
    step alone, never on `workers` or on where the iteration began. A row that turns out to be bad is left out and told
    to `policy`, which may raise; without a policy it is raised. Raises WorkerError where a worker is ended or silent,
    and whatever `workers.go_on` raises.
    """
    job = _Drawing(examples, order, range(start, stop), micro_batch, share or Share())
    crew = Workers(workers) if isinstance(workers, int) else workers
    return released(fed(job, max(0, stop - start), crew), start, policy, share)


def in_order(
    examples: ExampleSet, batch_size: int, policy: Told | None = None, share: Share | None = None
) -> Iterator[Batch]:
    """All examples once, unchanged by transforms, those of like length together; of a `share`, its batches alone.

    One that turns out to be bad is left out where `policy`, which is told of it, does not raise; without a policy it is
    raised. Raises DataError where none is left.
    """
    left = 0
    by_length = np.argsort(examples.lengths, kind="stable").tolist()
    for at in (share or Share()).of(range(0, len(by_length), batch_size)):
        good = []
        for index in by_length[at : at + batch_size]:
            try:
                good.append(examples.plain(index))
            except DataError as error:
                tell(policy, examples.samples, index, error)
        left += len(good)
        if good:
            yield collate(good, examples.ports.pad_id)
    if not left and (share is None or share.world == 1):
        where = str(examples.samples.origin(0))
        raise DataError("none of these samples can be used any more", where, "put the data back as they were")


def tell(policy: Told | None, samples: SampleSet, index: int, error: DataError) -> None:
    """Tell `policy`, which may raise, of a sample that turned out to be bad; without a policy its error is raised."""
    if policy is None:
        raise error
    origin = samples.origin(index)
    error.column = error.column or samples.row(index)[0].picture_column
    policy.bad_row(origin.file, origin.row, error)
