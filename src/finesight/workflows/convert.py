"""Convert: any source → checked shards with a manifest; stopped or killed, it goes on where it was."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finesight.config.data import Data, Split
from finesight.config.recipe import Recipe
from finesight.config.sources import Source
from finesight.core.errors import DataError, Interrupted, RunError
from finesight.core.events import Observer
from finesight.core.formats import FORMATS, check_format
from finesight.data.passes.parallel import cores, over_rows
from finesight.data.policy import RowFault
from finesight.data.samples import Access, open_rows
from finesight.data.shards.files import Plan
from finesight.data.shards.rows import Converter, read_back
from finesight.data.shards.task import (
    Kinds,
    LookAtTypes,
    ShardRecord,
    WriteShards,
    is_whole,
    plan_document,
    plan_of,
    record_file,
    rows_for,
)
from finesight.data.sources.manifest import KIND, NAME
from finesight.runtime.files import TEMPORARY, to_json, write_json, write_table, write_text
from finesight.runtime.locks import locked
from finesight.runtime.notices import Notices
from finesight.runtime.signals import StopFlag, stop_on_signals

SHARD_BYTES = 512 << 20
"""Size of shards where nothing is said of it; the rows for it are counted by samples, so that it is about that."""

_WORK = ".convert"
"""Folder of the plan and the records while the work goes on."""
_MARK = {"format": FORMATS["shards"], "kind": KIND}
"""What the manifest and the plan begin with."""
_FEW = 64
"""Rows up to which no worker process is worth its start."""


@dataclass(frozen=True)
class Settings:
    """How rows are converted: `data` says what they may name and what a bad one does."""

    to: str
    shard_bytes: int = SHARD_BYTES
    shard_rows: int | None = None
    jobs: int = field(default_factory=cores)
    access: Access = field(default_factory=Access)
    skip: bool = False
    limit: int | None = None
    timeout: float = 300.0

    @classmethod
    def of(cls, data: Data, to: str, **values: Any) -> "Settings":
        """Those of a recipe's `data` section."""
        skip = data.on_bad_row == "skip"
        limit = data.bad_row_limit if skip else None
        access = Access(data.allow_urls, data.allow_outside)
        return cls(to, access=access, skip=skip, limit=limit, timeout=data.timeout, **values)


def sources_of(recipe: Recipe, split: str) -> tuple[Source, ...]:
    """The sources of a split of a recipe; raises DataError for a split that has none of its own."""
    asked = {"train": recipe.data.train, "val": recipe.data.val, "test": recipe.data.test}.get(split)
    if asked is None:
        have = [name for name in ("train", "val", "test") if getattr(recipe.data, name) is not None]
        raise DataError(f"the recipe has no `data.{split}`", "--split", f"name one of {', '.join(have)}")
    if isinstance(asked, Split):
        what = f"`data.{split}` is a part of the training data, and has no source of its own"
        raise DataError(
            what, "--split", "convert `train`: the recipe goes on to take its parts of the shards"
        )
    return asked if isinstance(asked, tuple) else (asked,)


def convert(
    given: Recipe | Source,
    out: Path,
    *,
    to: str = "tar",
    split: str = "train",
    shard_bytes: int | None = None,
    shard_rows: int | None = None,
    jobs: int | None = None,
    on_bad_row: str | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Write the rows of a source, or of a split of a recipe, as shards in `out`, a folder each for several sources.

    Returns what `finesight convert --json` prints. Raises a FinesightError for what the person can mend, and
    Interrupted (exit status 75) where it was asked to stop; the same call then goes on.
    """
    if isinstance(given, Recipe):
        data, sources = given.data, sources_of(given, split)
    else:
        data, sources = Data(train=given), (given,)
    if on_bad_row is not None and on_bad_row != data.on_bad_row:
        data = data.model_copy(update={"on_bad_row": on_bad_row})
    values = {"shard_bytes": shard_bytes, "shard_rows": shard_rows, "jobs": jobs}
    settings = Settings.of(data, to, **{key: value for key, value in values.items() if value is not None})
    with stop_on_signals() as asked:
        results = []
        for number, source in enumerate(sources, 1):
            folder = out if len(sources) == 1 else out / f"source-{number}"
            results.append(_Conversion(source, folder, settings, asked, observer).run())
    return results[0] if len(results) == 1 else {"out": str(out), "sources": results}


class _Conversion:
    """One source on its way into one folder."""

    def __init__(
        self, source: Source, out: Path, settings: Settings, asked: StopFlag, observer: Observer | None
    ) -> None:
        if source.stream:
            source = source.model_copy(update={"stream": False})  # rows are wanted by their numbers
        self.out, self.settings, self.asked, self.observer = out, settings, asked, observer
        self.notices = Notices()
        self.opened = open_rows(source, "row", settings.access)
        for kind, text in self.opened.said:
            self.notices.add(kind, text)
        self.back = read_back(self.opened, settings.to, str(out))
        self.converter = Converter(self.opened, self.back)
        self.wanted = {
            "to": settings.to,
            "shard_bytes": None if settings.shard_rows else settings.shard_bytes,
            "shard_rows": settings.shard_rows,
            "source": source.model_dump(mode="json", exclude_defaults=True),
            "source_identity": self.opened.identity(),
        }

    @property
    def _work(self) -> Path:
        return self.out / _WORK

    def run(self) -> dict[str, Any]:
        """Write what is not there yet; the summary."""
        _check_folder(self.out)
        with locked(self.out / ".lock"):
            finished = self._finished()
            if finished is not None:
                return self._summary(finished, "unchanged")
            for left in self.out.glob(f"shard-*{TEMPORARY}"):
                left.unlink(missing_ok=True)
            rows, rows_a_shard, plan = self._plan()
            records = self._write(rows, rows_a_shard, plan)
            return self._summary(self._finish(records, rows_a_shard), "done", records)

    def _finished(self) -> dict[str, Any] | None:
        """The manifest, where all of it is there and whole; what is whole of another is kept."""
        manifest = _read(self.out / NAME)
        if manifest is None:
            return None
        self._same(manifest.get("made_from"), self.out / NAME)
        entries = [ShardRecord.of({**entry}) for entry in manifest["shards"]]
        whole = [entry for entry in entries if is_whole(entry, self.out)]
        if len(whole) == len(entries):
            return manifest
        again = len(entries) - len(whole)
        self.notices.add("damaged", f"{self.out}: shards that are damaged or missing are made again", again)
        self._work.mkdir(exist_ok=True)
        for entry in whole:
            write_json(record_file(self._work, entry), entry.listed())
        self._write_plan(manifest["plan"])
        (self.out / NAME).unlink()
        return None

    def _same(self, made_from: Any, place: Path) -> None:
        """Raise where the folder holds a conversion of other rows, or one that was made in another way."""
        before = made_from if isinstance(made_from, dict) else {}
        changed = [key for key in self.wanted if before.get(key) != self.wanted[key]]
        if changed:
            told = {"source_identity": "the rows changed since"}
            words = "; ".join(told.get(key, f"`{key}` was {before.get(key)!r}") for key in changed)
            raise RunError(
                f"the folder holds another conversion ({words})", str(place), "name another folder by --out"
            )

    def _plan(self) -> tuple[int, int, Plan]:
        """Rows, rows of a shard, and the types of columns: as before where the work goes on, else found out."""
        told = _read(self._work / "plan.json")
        # a plan without a finished shard binds nobody: what stopped it may have been the wrong settings themselves
        if told is not None and any(self._work.glob("shard-*.json")):
            self._same(told.get("made_from"), self._work)
            return told["rows"], told["rows_a_shard"], plan_of(told)
        rows = self._rows()
        size = self.settings.shard_bytes
        rows_a_shard = self.settings.shard_rows or rows_for(self.converter, size)
        found = self._look_at_types(rows) if self.settings.to == "parquet" else Kinds()
        kinds = {name: found.kinds[name] for name in self._in_order(found.kinds)}
        plan = Plan(self.settings.to, max(8, len(str(rows))), kinds, found.lists)
        document = {**plan_document(plan), "rows": rows, "rows_a_shard": rows_a_shard}
        self._work.mkdir(exist_ok=True)
        self._write_plan(document)
        return rows, rows_a_shard, plan

    def _write_plan(self, document: Mapping[str, Any]) -> None:
        write_json(self._work / "plan.json", {**_MARK, **document, "made_from": self.wanted})

    def _in_order(self, names: Mapping[str, Any]) -> list[str]:
        known = [name for name in self.opened.reader.columns if name in names]
        return [*known, *sorted(name for name in names if name not in known)]

    def _rows(self) -> int:
        """Rows up to the last one that `max_samples` lets in."""
        count, most = len(self.opened.reader), self.opened.source.max_samples
        if most is None:
            return count
        tick, found = self._tick("count rows", count), 0
        for row in range(count):
            tick(row)
            with contextlib.suppress(DataError):
                found += self.converter.words(row) is not None
            if found == most:
                return row + 1
        return count

    def _look_at_types(self, rows: int) -> Kinds:
        found = Kinds()
        task = LookAtTypes(self.converter, stop=not self.settings.skip)
        tick = self._tick("find types", rows)
        with contextlib.closing(over_rows(task, rows, self._jobs(rows), tick, place=self._place)) as parts:
            for part in parts:
                found.add(part)
        if self.settings.limit is not None:
            self._check_limit(found.faults)
        return found

    def _write(self, rows: int, rows_a_shard: int, plan: Plan) -> list[ShardRecord]:
        task = WriteShards(
            self.converter, plan, str(self.out), str(self._work), rows_a_shard, not self.settings.skip
        )
        records: list[ShardRecord] = []
        faults: list[RowFault] = []
        tick = self._tick("convert", rows)
        jobs = self._jobs(rows) if rows > rows_a_shard else 0
        parts = over_rows(
            task,
            rows,
            jobs,
            tick,
            chunk=rows_a_shard,
            patience=0,
            timeout=self.settings.timeout,
            place=self._place,
        )
        with contextlib.closing(parts):
            for record in parts:
                records.append(record)
                faults += record.faults
                self._check_limit(faults)
        if not any(record.rows for record in records):
            why = "; ".join(f"{fault.file}, row {fault.row}: {fault.reason}" for fault in faults[:5])
            what = f"no row is left{f': {why}' if why else ''}"
            raise DataError(what, self.opened.reader.file, "check the source and its `where`")
        return records

    def _check_limit(self, faults: Sequence[RowFault]) -> None:
        limit = self.settings.limit
        if limit is not None and len(faults) > limit:
            shown = "; ".join(f"{fault.file}, row {fault.row}: {fault.reason}" for fault in faults[:5])
            raise DataError(
                f"more than {limit} rows are bad", shown, "mend the rows, or raise `bad_row_limit`"
            )

    def _jobs(self, rows: int) -> int:
        return self.settings.jobs if rows > _FEW else 0

    def _place(self, row: int) -> str:
        return str(self.opened.reader.origin(row))

    def _tick(self, phase: str, total: int) -> Callable[[int], None]:
        if self.observer is not None:
            self.observer.on_phase(phase, total)

        def tick(done: int) -> None:
            if self.asked():
                what = f"stopped after {done:,} of {total:,} rows; the shards that are finished are kept"
                raise Interrupted(what, str(self.out), "go on by the same command")
            if self.observer is not None:
                self.observer.on_progress(done)

        return tick

    def _finish(self, records: Sequence[ShardRecord], rows_a_shard: int) -> dict[str, Any]:
        """Write the list of faults, then the manifest, and take the records of the work away."""
        faults = [fault for record in records for fault in record.faults]
        lines = [(fault.file, fault.row, fault.column, fault.reason) for fault in faults]
        if faults:
            write_table(self.out / "faults.csv", ("file", "row", "column", "reason"), lines)
        else:
            (self.out / "faults.csv").unlink(missing_ok=True)
        for record in records:
            for name, count in record.dropped.items():
                self.notices.add("dropped", f"column `{name}` holds bytes that no sample is made from", count)
        plan = _read(self._work / "plan.json") or {}
        written = [record for record in records if record.rows]
        manifest = {
            **_MARK,
            "to": self.settings.to,
            "rows": sum(record.rows for record in written),
            "pictures": sum(record.picture_count for record in written),
            "bytes": sum(record.bytes for record in written),
            "faults": len(faults),
            "left_out": sum(record.left_out for record in records),
            "source": self.wanted["source"],
            "source_identity": self.wanted["source_identity"],
            "made_from": self.wanted,
            "plan": {key: value for key, value in plan.items() if key not in {"made_from", *_MARK}},
            "shards": [record.listed() for record in written],
        }
        write_text(self.out / NAME, _in_lines(manifest))
        shutil.rmtree(self._work, ignore_errors=True)
        return manifest

    def _summary(
        self, manifest: Mapping[str, Any], status: str, records: Sequence[ShardRecord] = ()
    ) -> dict[str, Any]:
        counts = {key: manifest[key] for key in ("rows", "pictures", "bytes", "faults", "left_out")}
        faults = self.out / "faults.csv"
        return {
            "status": status,
            "out": str(self.out),
            "to": self.settings.to,
            "shards": len(manifest["shards"]),
            "kept": len(manifest["shards"])
            if status == "unchanged"
            else sum(record.kept for record in records),
            **counts,
            "manifest": str(self.out / NAME),
            **({"faults_file": str(faults)} if faults.is_file() else {}),
            "read_back": self.back.model_dump(mode="json", exclude_defaults=True),
            "notices": self.notices.rows(),
        }


def _in_lines(manifest: Mapping[str, Any]) -> str:
    """The manifest as JSON with a line for each key and each shard: there may be millions of pictures."""
    lines = [f"{to_json(key)}: {to_json(value)}" for key, value in manifest.items() if key != "shards"]
    shards = ",\n".join(to_json(shard) for shard in manifest["shards"])
    return "{\n" + ",\n".join([*lines, f'"shards": [\n{shards}\n]']) + "\n}\n"


def _check_folder(out: Path) -> None:
    """Raise where something is in the way that no conversion has written."""
    if out.exists() and not out.is_dir():
        raise RunError("this is a file, not a folder", str(out), "name another folder by --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made: {error.strerror}"
        raise RunError(what, str(out), "name another folder by --out") from error
    names = set(os.listdir(out))
    manifest = _read(out / NAME)
    ours = _WORK in names or (manifest is not None and manifest.get("kind") == KIND)
    if names - {".lock"} and not ours:
        raise RunError("the folder holds other files", str(out), "name a new folder by --out")


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object in a file; None where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"the file cannot be read: {error}", str(path), "delete the folder, and begin again"
        ) from error
    if not isinstance(found, dict):
        return None
    if found.get("kind") == KIND:
        check_format("shards", found.get("format"), str(path), RunError)
    return found
