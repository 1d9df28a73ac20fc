"""The two passes of a conversion over rows: to find the types of columns, and to write one shard after another."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finesight.core.errors import DataError, RunError
from finesight.data.policy import RowFault
from finesight.data.shards.files import WRITERS, HashedFile, Plan, media_bytes
from finesight.data.shards.kinds import Kind, add_kinds, add_row, kind_from_json
from finesight.data.shards.rows import Converter
from finesight.runtime.files import disk_full, write_json

_FULL = (28, 122)
"""The system's numbers for a full disk and a used-up quota."""


@dataclass
class Kinds:
    """Types of columns, and which columns of pictures or sounds hold lists; `faults` are rows that cannot be used."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    lists: dict[str, bool] = field(default_factory=dict)
    faults: list[RowFault] = field(default_factory=list)

    def add(self, other: "Kinds") -> None:
        """Widen by what other rows have."""
        add_kinds(self.kinds, other.kinds)
        for name, several in other.lists.items():
            self.lists[name] = self.lists.get(name, False) or several
        self.faults += other.faults


@dataclass(frozen=True)
class LookAtTypes:
    """The task of finding the types of columns: reads words alone."""

    converter: Converter
    stop: bool

    def __call__(self, rows: Sequence[int]) -> Kinds:
        """Types of the columns of these rows."""
        found = Kinds()
        for number in rows:
            try:
                row = self.converter.words(number)
            except DataError as error:
                if self.stop:
                    raise
                found.faults.append(fault_of(self.converter, number, error))
                continue
            if row is not None:
                add_row(found.kinds, row.values)
                for name, held in row.media.items():
                    found.lists[name] = found.lists.get(name, False) or isinstance(held, list)
        return found


@dataclass
class ShardRecord:
    """One shard that is finished, as the manifest lists it, and what was left out of it.

    `rows` counts what it holds. A shard of no rows has no file, and an empty `sha256`.
    """

    file: str
    first: int
    rows: int = 0
    bytes: int = 0
    sha256: str = ""
    pictures: Any = field(default_factory=dict)
    left_out: int = 0
    faults: list[RowFault] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    kept: bool = False
    """Whether it was there before, whole."""

    def listed(self) -> dict[str, Any]:
        """Its part of the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "kept"}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "ShardRecord":
        """A record that JSON holds."""
        return cls(**{**told, "faults": [RowFault(**fault) for fault in told.get("faults", ())]})

    @property
    def picture_count(self) -> int:
        """Number of pictures and sounds."""
        if self.file.endswith(".tar"):
            return len(self.pictures)
        return sum(len(row) for rows in self.pictures.values() for row in rows)


@dataclass(frozen=True)
class WriteShards:
    """The task of writing shards: each chunk of rows is one. What is there already, and whole, stays.

    `records` is the folder of the records of finished shards, which are written after them.
    """

    converter: Converter
    plan: Plan
    folder: str
    records: str
    rows_a_shard: int
    stop: bool

    def __call__(self, rows: Sequence[int]) -> ShardRecord:
        """Write the shard of these rows, unless it is there."""
        first = rows[0]
        number = first // self.rows_a_shard
        record = ShardRecord(f"shard-{number:05d}.{self.plan.to}", first)
        found = self._finished(record)
        if found is not None:
            return found
        path = Path(self.folder) / record.file
        try:
            self._write(record, rows, path)
            write_json(record_file(self.records, record), record.listed())
        except OSError as error:
            if error.errno in _FULL:
                told = disk_full(path).faults[0]
                mend = "free some space and give the command again: finished shards are kept"
                raise RunError(told.what, told.where, mend) from error
            raise
        return record

    def _finished(self, record: ShardRecord) -> ShardRecord | None:
        """The record of a shard that is there and is what was written."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = ShardRecord.of(json.loads(record_file(self.records, record).read_bytes()))
            if (found.file, found.first) == (record.file, record.first) and is_whole(
                found, Path(self.folder)
            ):
                found.kept = True
                return found
        return None

    def _write(self, record: ShardRecord, rows: Iterable[int], path: Path) -> None:
        dropped: Counter[str] = Counter()
        file = HashedFile(path)
        try:
            writer = WRITERS[self.plan.to](file, self.plan)
            for number in rows:
                try:
                    row = self.converter.row(number)
                except DataError as error:
                    if self.stop:
                        raise
                    record.faults.append(fault_of(self.converter, number, error))
                    continue
                if row is None:
                    record.left_out += 1
                    continue
                dropped.update(row.dropped)
                writer.add(number, row)
                record.rows += 1
            record.pictures = writer.finish()
            record.dropped = dict(dropped)
            if record.rows:
                record.bytes, record.sha256 = file.size, file.digest
                file.put_in_place()
            else:
                file.remove()
                path.unlink(missing_ok=True)
        except BaseException:
            file.remove()
            raise


def record_file(folder: str | Path, record: ShardRecord) -> Path:
    """Where the record of a finished shard stands."""
    return Path(folder) / f"{record.file}.json"


def is_whole(record: ShardRecord, folder: Path) -> bool:
    """Whether a shard's file is what was written."""
    path = folder / record.file
    if not record.rows:
        return not path.exists()
    if not path.is_file() or path.stat().st_size != record.bytes:
        return False
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == record.sha256


def fault_of(converter: Converter, number: int, error: DataError) -> RowFault:
    """A bad row as `faults.csv` lists it."""
    origin = converter.opened.reader.origin(number)
    return RowFault(origin.file, origin.row, error.column, error.faults[0].what)


def rows_for(converter: Converter, size: int, samples: int = 64) -> int:
    """Rows that give shards of about `size` bytes, by some of them, evenly spread; a function of the rows alone."""
    count = len(converter.opened.reader)
    sizes = []
    for number in range(0, count, max(1, count // samples)):
        with suppress(DataError):
            row = converter.row(number)
            if row is not None:
                text = len(json.dumps(row.values, ensure_ascii=False).encode("utf-8", "surrogatepass"))
                sizes.append(media_bytes(row.media) + text + 2048)
    return max(1, size * len(sizes) // max(1, sum(sizes))) if sizes else 1000


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    return {"to": plan.to, "width": plan.width, "kinds": dict(plan.kinds), "lists": dict(plan.lists)}


def plan_of(told: Mapping[str, Any]) -> Plan:
    """A plan that JSON holds."""
    kinds = {name: kind_from_json(kind) for name, kind in told["kinds"].items()}
    return Plan(told["to"], told["width"], kinds, dict(told["lists"]))
