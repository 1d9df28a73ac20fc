"""A stream as what is learned from: shuffled by a buffer, dealt to steps, read by one process.

What a step holds is a function of (seed, fingerprint, step) alone: neither of the workers that prepare it nor of where
the run was begun or continued. A pass ends with the stream (its last batch may be smaller), and the next one has
another order. Rows that the source's `where` leaves out take no place in the order; bad rows do, and are left out of
their batch. To continue at a step, rows are read again from the oldest that the buffer holds there (from the first,
where `where` chooses among them), without a look at their pictures.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from finesight.core.batch import Batch, Example
from finesight.core.errors import DataError
from finesight.core.ports import Ports
from finesight.core.sample import Origin
from finesight.data.dataset import example_of
from finesight.data.encode import encode
from finesight.data.lengths import Limit, TooLong, without_turns
from finesight.data.loading.feed import fed
from finesight.data.loading.layout import Layout
from finesight.data.loading.loader import Told, Window, Windows, make_window, released
from finesight.data.loading.order import Share
from finesight.data.loading.shuffle import ShuffleBuffer
from finesight.data.loading.workers import At, Workers
from finesight.data.pictures.transforms import PictureTransform
from finesight.data.stream_rows import Numbered, StreamRows


@dataclass(frozen=True)
class StreamSet:
    """What is learned from where the samples are a stream: its rows, and how they become examples of one model."""

    rows: StreamRows
    ports: Ports
    seed: int
    limit: Limit
    transform: PictureTransform | None = None

    @property
    def fingerprint(self) -> str:
        """Of all that is known without reading the rows: their source, its recipe and the encoder."""
        known = (self.rows.source.identity(), self.ports.fingerprint, repr(self.limit))
        return hashlib.sha256("\n".join(known).encode()).hexdigest()[:32]

    def example(self, row: Numbered, epoch: int, long: list[tuple[Origin, str]]) -> Example | None:
        """The example of a row, its pictures changed as in this epoch; None where it is too long and left out.

        What is done to a row that is too long is added to `long`. Raises DataError where the row is bad.
        """
        sample = self.rows.sample(row)
        if sample is None:
            what = "the row changed while it was in use"
            raise DataError(what, str(row.origin), "put it back, and begin again")
        try:
            text = encode(sample, self.ports, self.limit)
        except TooLong as error:
            if self.limit.on_long != "skip":
                raise
            long.append((sample.origin, error.faults[0].what))
            return None
        if text.note:
            long.append((sample.origin, text.note))
        shown = without_turns(sample, text.dropped)
        return example_of(shown, text, self.ports, self.transform, self.seed, epoch)

    def windows(
        self,
        batch_size: int,
        start: int,
        stop: int,
        micro_batch: int | Layout,
        workers: Workers | int,
        policy: Told | None = None,
        share: Share | None = None,
    ) -> Windows:
        """The windows of steps `start` to `stop` (excluded), as `loader.windows` gives them for samples by number."""
        dealing = (batch_size, range(start, stop), share or Share())
        job = _Flow(self, dealing, micro_batch)
        crew = Workers(workers) if isinstance(workers, int) else workers
        return released(fed(job, max(0, stop - start), crew), start, policy, share)

    def window_of(
        self, rows: Sequence[Numbered], micro_batch: int | Layout, policy: Told
    ) -> tuple[Batch, ...]:
        """A window of some rows, as if they were those of step 1."""
        job = _Flow(self, (len(rows), range(1), Share()), micro_batch)
        windows = (job.do((0, 0, rows), lambda step, item: None) for _ in range(1))
        return next(released(windows, 0, policy))

    def facts(self) -> dict[str, Any]:
        """What `environment.json` says of the training samples."""
        buffer = self.rows.source.source.buffer
        known = {"samples": self.rows.length, "stream": True, "buffer": buffer}
        return {**known, "fingerprint": self.fingerprint}


Task = tuple[int, int, Sequence[Numbered]]
"""Step, epoch, and the rows of a rank's share of the step."""


class _Flow:
    """The job of making windows from a stream: one process reads and shuffles, the workers do the rest."""

    reads = True

    def __init__(
        self, stream: StreamSet, dealing: tuple[int, range, Share], micro_batch: int | Layout
    ) -> None:
        self._stream, self._dealing, self._micro_batch = stream, dealing, micro_batch

    def tasks(self, at: At) -> Iterator[Task]:
        stream = self._stream
        buffer = ShuffleBuffer(stream.rows.source.source.buffer, stream.fingerprint, stream.seed)
        return iter(Deal(stream.rows, buffer, *self._dealing, at))

    def do(self, task: Task, at: At) -> Window:
        step, epoch, drawn = task
        long: list[tuple[Origin, str]] = []
        pad_id = self._stream.ports.pad_id

        def example(item: int) -> Example | None:
            return self._stream.example(drawn[item], epoch, long)

        def at_row(step: int, item: int) -> None:
            at(step, drawn[item].number if item >= 0 else item)

        places = _Places(drawn, self._stream.rows.source.picture_column)
        numbers = range(len(drawn))
        window = make_window(step, numbers, example, places, at_row, pad_id, self._micro_batch)
        return replace(window, long=tuple(long))

    def place(self, item: int) -> str:
        return f"row {item + 1} of {self._stream.rows.source.reader.file}"


@dataclass(frozen=True)
class _Places:
    """Where the rows of a step stand."""

    rows: Sequence[Numbered]
    picture_column: str

    def origin(self, item: int) -> Origin:
        return self.rows[item].origin

    def place(self, item: int) -> str:
        return str(self.rows[item].origin)

    def column(self, item: int) -> str:
        return self.picture_column


class _Ended(Exception):
    """The stream ended before a row that was asked for, so that its length is known now."""


class Deal:
    """The rows of the steps, in turn, each with its epoch; `at` is told the row that is read next."""

    def __init__(
        self, rows: StreamRows, buffer: ShuffleBuffer, batch_size: int, steps: range, share: Share, at: At
    ) -> None:
        self._rows, self._buffer, self._batch = rows, buffer, batch_size
        self._step, self._stop, self._share, self._at = steps.start, steps.stop, share, at
        self._length, self._seen = rows.length, 0

    def __iter__(self) -> Iterator[Task]:
        while self._step < self._stop:
            epoch, position = self._place()
            with suppress(
                _Ended
            ):  # the length is known now: the step is one of the pass's end, or of a later pass
                yield from self._batches(epoch, self._drawn(epoch, position))

    def _place(self) -> tuple[int, int]:
        """Epoch of the next step, and position within it; of the first pass as long as the length is unknown."""
        if self._length is None:
            return 0, self._step * self._batch
        epoch, step = divmod(self._step, -(-self._length // self._batch))
        return epoch, step * self._batch

    def _batches(self, epoch: int, drawn: Iterator[Numbered]) -> Iterator[Task]:
        while self._step < self._stop:
            batch = list(itertools.islice(drawn, self._batch))
            if batch:
                yield self._step, epoch, self._share.of(batch)
                self._step += 1
            if len(batch) < self._batch:
                return

    def _drawn(self, epoch: int, position: int) -> Iterator[Numbered]:
        """The rows of a pass in the order in which the buffer lets them out, from `position` on to its end."""
        size, length = self._buffer.size, self._length
        full = (
            None if length is None else max(0, length - size)
        )  # positions at which the stream still goes on
        at = position if full is None else min(position, full)
        wanted = dict(enumerate(self._buffer.held(epoch, at)[:length].tolist()))
        width = len(wanted)
        if position > at:  # some slots are empty by then
            wanted = {
                slot: wanted[slot] for slot in self._buffer.last(epoch, width)[position - at :].tolist()
            }
        stream = self._from(min(wanted.values()))
        held = self._fill(wanted, stream)
        while at != full and (row := next(stream, None)) is not None:
            slot = self._buffer.slot(epoch, at)
            yield held[slot]
            held[slot] = row[1]
            at += 1
        more = position <= at and next(stream, None) is not None
        self._settle(at + width + more)
        for slot in self._buffer.last(epoch, width)[max(0, position - at) :].tolist():
            yield held.pop(slot)

    def _from(self, first: int) -> Iterator[tuple[int, Numbered]]:
        """The rows that are kept, from number `first` of these on or earlier, with their numbers among these."""
        begin = first if self._rows.numbered else 0
        self._seen = begin if begin == 0 else -1
        for count, row in enumerate(
            self._rows.kept(begin, lambda number: self._at(self._step, number)), begin
        ):
            self._seen = count + 1
            yield count, row

    def _fill(self, wanted: Mapping[int, int], stream: Iterator[tuple[int, Numbered]]) -> dict[int, Numbered]:
        """The rows that the slots hold, read from the stream; it goes on behind the newest of them."""
        slots = {row: slot for slot, row in wanted.items()}
        held = {}
        for count, row in stream:
            if count in slots:
                held[slots[count]] = row
                if len(held) == len(slots):
                    return held
        if self._seen < 0:  # not even the row that it was to begin at is there: count those that are
            self._seen = sum(1 for _ in self._from(0))
        self._settle(self._seen)
        raise _Ended

    def _settle(self, length: int) -> None:
        """The stream has ended after so many rows."""
        file = self._rows.source.reader.file
        if not length:
            where = " that `where` keeps" if self._rows.source.source.where else ""
            raise DataError(f"the stream has no row{where}", file, "check `path` and `where` of the source")
        if self._length is None:
            self._length = length
        elif self._length != length:
            raise DataError(
                f"the stream has another length than before: {length} rows, not {self._length}",
                file,
                "put the data back as they were, or begin another run by `run.name=…`",
            )
