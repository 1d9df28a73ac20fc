"""A pass over all rows whose findings are kept: found again by the next run, or by this one where it was stopped.

Findings stay in memory while they are few. Those of a long pass go to files as it goes on, a block now and then with a
line in a journal that names their lengths and checksums; a pass that was stopped goes on after the last whole line. At
its end the files become an entry of the cache and are mapped, so that memory does not grow with the rows.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from finesight.data.passes.cache import Arrays, forget, keep, kept
from finesight.data.passes.growing import GrowingFiles
from finesight.data.passes.parallel import CHUNK, Task, over_rows
from finesight.runtime.cachedir import NoCache, cache_folder
from finesight.runtime.notices import Notices

_log = logging.getLogger("finesight")

_WORTH = 1.0
"""Seconds of work that are worth an entry of the cache."""
_EVERY = 10.0
"""Seconds of work that a stop may lose."""
_MOST = 32 << 20
"""Bytes of findings that are held in memory."""
_FEW = 1000
"""Rows up to which a pass neither waits for another process nor goes on where one was stopped."""


@dataclass(frozen=True)
class Piece:
    """What was found in rows `start` to `stop`: columns, and what else is to be known, in the order of the rows."""

    start: int
    stop: int
    columns: Mapping[str, np.ndarray]
    events: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True)
class Means:
    """How a pass is made: worker processes, seconds that one may be silent about a row, who is told and may stop it."""

    jobs: int = 0
    timeout: float = 300.0
    tick: Callable[[int], object] = field(default=lambda rows: None)
    notices: Notices = field(default_factory=Notices)


def _always(piece: Piece) -> bool:
    return True


class Pass:
    """`task` over rows 0 to `count`: go through the `pieces` as far as wanted, then `finish` to have all columns.

    `key` names all that the findings depend on. Only some entries of one `source` are kept, the latest. Use it in a
    `with` statement.
    """

    def __init__(self, kind: str, key: str, source: str, task: Task[Piece], count: int, means: Means) -> None:
        self._kind, self._key, self._source = kind, key, source
        self._task, self._count, self._means = task, count, means
        self._begun = self._saved = time.monotonic()
        self._held = contextlib.ExitStack()
        self._whole: Arrays | None = None
        self._place: Path | None = None  # of files that a pass which is stopped leaves for the next
        self._files: GrowingFiles | None = None
        self._pieces: list[Piece] = []  # those that are not in the files
        self._cache = True

    def __enter__(self) -> "Pass":
        self._whole = kept(self._kind, self._key)
        if self._whole is None and self._count > _FEW:
            try:
                self._wait_for_others()
            except (NoCache, OSError) as error:
                self._do_without(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _wait_for_others(self) -> None:
        """Wait while another process makes the same pass: its findings are this one's."""
        place = cache_folder(self._kind, self._key)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(place.with_name(f"{place.name}.pass.lock"), timeout=0, fallback_to_soft=False)
        said = False
        while True:
            try:
                lock.acquire()
                break
            except Timeout:
                if not said:
                    _log.info("another process checks the same rows of %s: waiting for it", self._source)
                said = True
                self._means.tick(0)
                time.sleep(0.1)
            except NotImplementedError:  # a file system without locks: two passes at once do no harm
                return
        self._held.callback(lock.release)
        self._whole = kept(self._kind, self._key)
        self._place = place.with_name(f"{place.name}.growing")
        if self._whole is None and self._place.is_dir():
            self._files = GrowingFiles(self._place)

    def pieces(
        self,
        patience: float,
        place: Callable[[int], str],
        trust: Callable[[Piece], bool] | None = None,
        chunk: int = CHUNK,
    ) -> Iterator[Piece]:
        """What is found in the rows, in their order: first what is known already. See `over_rows`.

        `trust` is asked whether that still holds; what does not is found anew.
        """
        row = 0
        for piece in self._known(trust or _always):
            row = piece.stop
            yield piece
        means = self._means
        found = over_rows(
            self._task,
            self._count,
            means.jobs,
            means.tick,
            first=row,
            chunk=chunk,
            patience=patience,
            timeout=means.timeout,
            place=place,
        )
        with contextlib.closing(found):
            for piece in found:
                if self._is_time():
                    self._put_away()
                self._pieces.append(piece)
                yield piece

    def _known(self, trust: Callable[[Piece], bool]) -> Iterator[Piece]:
        if self._whole is not None:
            facts = self._whole.facts
            piece = Piece(0, facts["stop"], self._whole, facts["events"])
            if trust(piece):
                self._pieces.append(piece)
                yield piece
            else:
                forget(self._whole)
                self._whole = None
        elif self._files is not None and self._files.stop:
            piece = Piece(0, self._files.stop, self._files.columns(), self._files.events)
            if trust(piece):
                told = "%s: %s rows are known of a check that was stopped"
                _log.info(told, self._source, f"{piece.stop:,}")
                yield piece
            else:
                self._files.remove()
                self._files = None

    def cut(self, piece: Piece, stop: int) -> Piece:
        """The latest piece, found anew without the rows from `stop` on, which are not wanted."""
        assert self._pieces[-1] is piece
        if self._whole is not None:  # which holds more, and stays
            self._whole, self._cache = None, False
        self._pieces[-1] = self._task(range(piece.start, stop))
        return self._pieces[-1]

    def finish(self) -> Arrays:
        """All that was found. Its facts are `stop`, the row before which the pass ended, and the `events`."""
        if self._whole is not None and len(self._pieces) == 1:
            return self._whole
        if self._files is not None or time.monotonic() - self._begun > _WORTH:
            self._put_away()
        if self._files is not None and not self._pieces:
            arrays = self._kept(self._files)
            if arrays is not None:
                return arrays
        return self._in_memory()

    def _kept(self, files: GrowingFiles) -> Arrays | None:
        """The files as an entry of the cache; None where they are back in memory instead."""
        facts = {"stop": files.stop, "events": files.events}
        try:
            arrays = keep(self._kind, self._key, files.link_to, files.forms, facts, self._source)
            if arrays.facts["stop"] == files.stop:
                return arrays
            self._back_to_memory(files)  # another process wanted more of these rows, or fewer, and was first
        except NoCache as error:
            self._do_without(error)
        finally:
            files.remove()
        return None

    def _in_memory(self) -> Arrays:
        pieces = self._pieces
        names = pieces[0].columns if pieces else {}
        columns = {name: np.concatenate([piece.columns[name] for piece in pieces]) for name in names}
        events = [event for piece in pieces for event in piece.events]
        return Arrays(columns, {"stop": pieces[-1].stop if pieces else 0, "events": events})

    def _is_time(self) -> bool:
        if self._whole is not None or not self._cache:
            return False
        size = sum(column.nbytes for piece in self._pieces for column in piece.columns.values())
        return size > _MOST or time.monotonic() - self._saved > _EVERY

    def _put_away(self) -> None:
        """Put what is in memory into files."""
        self._saved = time.monotonic()
        if self._whole is not None or not self._cache:
            return
        try:
            if self._files is None:
                place = cache_folder(self._kind, self._key)
                self._files = GrowingFiles(self._place) if self._place else GrowingFiles.of_its_own(place)
            for piece in self._pieces:
                self._files.add(piece.stop, piece.columns, piece.events)
            self._pieces = []
        except (NoCache, OSError) as error:
            self._do_without(error)

    def _do_without(self, error: Exception) -> None:
        """Go on without a cache: what was put away comes back into memory."""
        self._cache = False
        told = "the cache cannot be written, so the rows will be checked anew by the next run"
        self._means.notices.add("fallback", f"{told}: {error}")
        if self._files is not None:
            self._back_to_memory(self._files)

    def _back_to_memory(self, files: GrowingFiles) -> None:
        if files.stop:
            columns = {name: np.array(column) for name, column in files.columns().items()}
            self._pieces.insert(0, Piece(0, files.stop, columns, files.events))
        self._files = None
