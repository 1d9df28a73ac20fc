"""Surveys of all splits of a recipe: every source read, samples dealt to their splits, then measured for one model."""

from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from finesight.config.data import ByColumn, Data, Split
from finesight.core.errors import DataError, Fault
from finesight.core.ports import Ports
from finesight.core.sample import Sample
from finesight.data.check import hashed
from finesight.data.encoded import can_be_sent
from finesight.data.inspection.held import HeldRows
from finesight.data.inspection.survey import (
    Bad,
    LookAtRows,
    MeasureSamples,
    Survey,
    joined,
    measured,
    spread,
    without_repeated_names,
)
from finesight.data.lengths import Limit
from finesight.data.listening import FEW_SOUNDS, listening
from finesight.data.passes.cache import Arrays
from finesight.data.passes.parallel import CHUNK, over_rows
from finesight.data.samples import Access, RowSource, open_rows
from finesight.data.sets import source_name
from finesight.data.shapes.values import has_column
from finesight.data.sounds.ears import Ears
from finesight.data.sounds.hearing import Heard, Listening, columns_of
from finesight.data.splits import split_groups
from finesight.runtime.notices import Notices

_PATIENCE = 20.0
"""Seconds of encoding that are not worth the start of worker processes: each must import the tokenizer's library."""
_MANY = 4000
"""Samples that may take longer than that."""

Watch = Callable[[str, int], Callable[[int], object]]
"""Told the name of a phase and its number of rows; what it gives back is told how many of them are done."""


@dataclass(frozen=True)
class Surveyed:
    """One split: its sources, its samples, the rows that cannot be used, and the `long` ones that were made to fit.

    `of` counts the rows of its own sources (None where a stream may have more), `read` those that were read and
    `left_out` those among them that `where` does not want: all 0 for a split of the training data, whose rows were read
    there. `tokens` and `supervised` (N,) are there once a model is known.
    """

    sources: tuple[RowSource, ...]
    survey: Survey
    bad: tuple[Bad, ...] = ()
    long: tuple[Bad, ...] = ()
    read: int = 0
    of: int | None = 0
    left_out: int = 0
    tokens: np.ndarray | None = None
    supervised: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.survey)

    def opened(self, index: int) -> tuple[RowSource, int]:
        """Source and row (from 0) of sample `index`."""
        return self.sources[self.survey.source[index]], int(self.survey.row[index])

    def sample(self, index: int, pictures: bool = True) -> Sample:
        """Sample `index`, read again."""
        source, row = self.opened(index)
        sample = source.sample(row, pictures)
        if sample is None:
            origin = str(source.reader.origin(row))
            raise DataError("the row changed while it was in use", origin, "put it back, and begin again")
        return sample

    def words(self, most: int | None = None) -> Iterator[str]:
        """The words of all turns of all samples, or of the first `most`."""
        for index in range(len(self) if most is None else min(len(self), most)):
            yield from (turn.text for turn in self.sample(index, pictures=False).messages)

    def taken(self, mask: np.ndarray) -> "Surveyed":
        """The part with some of its samples (N,) alone."""
        left = self.survey.take(mask)
        return replace(self, survey=replace(left, notes=self.survey.notes))


def survey_splits(
    data: Data, seed: int, notices: Notices, rows: int | None, jobs: int, watch: Watch
) -> dict[str, Surveyed]:
    """The splits that a recipe has, every row of theirs looked at; or `rows` of each source, evenly spread.

    Of a stream the first `rows` are read, or as many as its buffer holds. A split of the training data is dealt as
    training does; with `rows`, among those that were read. Raises DataError with the faults of all sources that cannot
    be opened.
    """
    parts = {
        purpose: _part(opened, purpose, rows, jobs, watch)
        for purpose, opened in _opened(data, notices, verify=rows is None).items()
    }
    for purpose, part in parts.items():
        for (kind, text), count in part.survey.notes.items():
            notices.add(kind, f"{purpose}: {text}", count)
    whole = len(parts["train"])
    for purpose, asked in (("val", data.val), ("test", data.test)):
        if isinstance(asked, Split) and whole:
            train = parts["train"]
            taken = _dealt(asked, train, whole, seed, purpose)
            parts[purpose] = Surveyed(train.sources, train.survey.take(taken))
            parts["train"] = train.taken(~taken)
    return {purpose: parts[purpose] for purpose in ("train", "val", "test") if purpose in parts}


def _opened(data: Data, notices: Notices, verify: bool) -> dict[str, tuple[RowSource, ...]]:
    """The sources of each split that has some of its own."""
    found: dict[str, tuple[RowSource, ...]] = {}
    faults: list[Fault] = []
    access = Access(data.allow_urls, data.allow_outside)
    ears = None if data.speech is None else Ears(data.speech)
    for purpose, asked in (("train", data.train), ("val", data.val), ("test", data.test)):
        if asked is None or isinstance(asked, Split):
            continue
        listed, opened = asked if isinstance(asked, tuple) else (asked,), []
        for number, source in enumerate(listed):
            try:
                opened.append(open_rows(source, source_name(source, number, len(listed)), access))
                if verify:
                    opened[-1].verify()
            except DataError as error:
                faults += [fault for fault in error.faults if fault not in faults]
                continue
            for kind, text in opened[-1].said:
                notices.add(kind, text)
            opened[-1] = listening(opened[-1], ears)
        found[purpose] = tuple(opened)
    if faults:
        raise DataError.of(faults)
    return found


def _held(opened: RowSource, purpose: str, rows: int | None, watch: Watch) -> RowSource:
    """The source itself, or the first rows of one that is a stream."""
    if isinstance(opened.reader, Sized):
        return opened
    most = rows or opened.source.buffer
    return replace(opened, reader=HeldRows(opened.reader, most, watch(f"read {purpose}", most)))


def _is_held(opened: RowSource) -> bool:
    return isinstance(opened.reader, HeldRows)


def _part(
    sources: tuple[RowSource, ...], purpose: str, rows: int | None, jobs: int, watch: Watch
) -> Surveyed:
    sources = tuple(_held(opened, purpose, rows, watch) for opened in sources)
    chosen = [spread(len(opened.reader), rows) for opened in sources]
    total = sum(map(len, chosen))
    tick, before, looked = watch(f"look at {purpose}", total), 0, []
    for number, opened in enumerate(sources):
        looked.append(_look_at(opened, number, chosen[number], jobs, tick, before))
        before += len(chosen[number])
    survey = without_repeated_names(joined(looked), sources)
    sources = tuple(_heard(opened, survey, number) for number, opened in enumerate(sources))
    kept, bad, read = np.ones(len(survey), dtype=bool), list(survey.bad), total
    for number, opened in enumerate(sources):
        most, mine = opened.source.max_samples, np.flatnonzero(survey.source == number)
        if most is not None and len(mine) >= most:
            last = int(survey.row[mine[most - 1]])
            kept[mine[most:]] = False
            bad = [fault for fault in bad if fault.source != number or fault.row <= last]
            read -= int((chosen[number] > last).sum())
    bad.sort(key=lambda fault: (fault.source, fault.row))
    survey = replace(survey.take(kept), notes=survey.notes)
    endless = any(isinstance(opened.reader, HeldRows) and not opened.reader.whole for opened in sources)
    of = None if endless else sum(len(opened.reader) for opened in sources)
    left_out = read - len(survey) - len(bad)
    return Surveyed(sources, survey, tuple(bad), read=read, of=of, left_out=left_out)


def _look_at(
    opened: RowSource,
    number: int,
    chosen: np.ndarray,
    jobs: int,
    tick: Callable[[int], object],
    before: int,
) -> Survey:
    most = opened.source.max_samples
    task = LookAtRows(opened, number, chosen)
    parts: list[Survey] = []
    listens = isinstance(opened.hearing, Listening)  # to a speech model that is loaded once, here
    results = over_rows(
        task,
        len(chosen),
        0 if _is_held(opened) or listens else jobs,
        lambda done: tick(before + done),
        chunk=FEW_SOUNDS if listens else CHUNK,
        place=lambda at: str(opened.reader.origin(int(chosen[at]))),
    )
    with opened.hearing.ears.at_work(tick) if isinstance(opened.hearing, Listening) else nullcontext():
        for part in results:
            parts.append(part)
            # where a column names them, some may turn out to have the name of another one
            if most is not None and opened.columns.id is None and sum(map(len, parts)) >= most:
                break
    return joined(parts)


def _heard(opened: RowSource, survey: Survey, number: int) -> RowSource:
    """The source with what was heard in those of its rows that are samples, for any process."""
    if not isinstance(opened.hearing, Listening):
        return opened
    rows = survey.row[survey.source == number]
    words = [opened.hearing.of(row)[0] for row in rows.tolist()]
    found = Arrays({"rows": rows, **columns_of(words)}, {})
    return replace(opened, hearing=Heard(opened.hearing.identity, found))


def _dealt(split: Split, train: Surveyed, whole: int, seed: int, purpose: str) -> np.ndarray:
    """Mask over the training samples of those that this split takes out, as training does."""
    if isinstance(split.split, ByColumn):
        values = set(split.split.values)
        return np.array([value in values for value in _column(train, split.split.column, purpose)])
    groups = train.survey.group
    if split.group is not None:
        texts = _column(train, split.group, purpose)
        named = zip(texts, train.survey.name.tolist(), strict=True)
        groups = np.array([hashed(text) if text else name for text, name in named], dtype=np.uint64)
    return split_groups(groups, split.split * whole / len(train), seed, purpose)


def _column(part: Surveyed, column: str, purpose: str) -> Iterator[str]:
    """The text of one column, of each sample."""
    for source in part.sources:
        if not has_column(source.reader.columns, column):
            have = ", ".join(f"`{name}`" for name in source.reader.columns)
            where = f"{source.reader.file}, `data.{purpose}` of the recipe"
            raise DataError(f"there is no column `{column}`", where, f"it has {have}")
    for index in range(len(part)):
        source, row = part.opened(index)
        yield source.text(row, column)


def measure(
    parts: Mapping[str, Surveyed], ports: Ports, limit: Limit, jobs: int, watch: Watch
) -> dict[str, Surveyed]:
    """The same splits with the tokens of their samples; those that cannot be encoded are bad rows now."""
    found = {}
    for purpose, part in parts.items():
        found[purpose] = _measured(part, ports, limit, jobs, watch(f"measure {purpose}", len(part)))
    return found


def _measured(
    part: Surveyed, ports: Ports, limit: Limit, jobs: int, tick: Callable[[int], object]
) -> Surveyed:
    survey = part.survey
    task = MeasureSamples(part.sources, survey.source, survey.row, ports, limit)
    many = len(part) > _MANY and not any(map(_is_held, part.sources))
    jobs = jobs if jobs and many and can_be_sent(ports) else 0
    results = over_rows(task, len(part), jobs, tick, patience=_PATIENCE, place=lambda at: _place(part, at))
    whole = measured(results)
    good = whole.tokens > 0
    bad = sorted([*part.bad, *whole.bad], key=lambda fault: (fault.source, fault.row))
    return replace(
        part.taken(good),
        bad=tuple(bad),
        long=whole.long,
        tokens=whole.tokens[good],
        supervised=whole.supervised[good],
    )


def _place(part: Surveyed, index: int) -> str:
    source, row = part.opened(index)
    return str(source.reader.origin(row))
