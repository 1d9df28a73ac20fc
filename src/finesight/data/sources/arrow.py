"""Single files of typed columns: parquet, Arrow files, Arrow streams; and whether several are one table."""

import os
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from finesight.config.place import is_address
from finesight.core.errors import DataError
from finesight.data.sources.shards import Shard, open_bytes
from finesight.data.sources.unpacked import Message, Read, messages_of_file, messages_of_stream, pages_of

_LARGEST_BLOCK = 2 << 30
"""Bytes of a row group or batch that are unpacked at all."""
_BOMB = 200
"""A row group that says to become larger by more than this factor, and large, is refused."""
_LARGE = 64 << 20
_LARGEST_STREAM = 512 << 20
"""Bytes of all of an Arrow stream that cannot be mapped."""
_SLICE, _SLICE_BYTES = 256, 64 << 20
"""Rows that are unpacked at once, and bytes that they take where all of them hold the largest value."""
_ROWS_A_BYTE = 1000
"""More rows than this for each byte of a file are no data, but a number that makes others take memory."""

JSON_TEXT = {b"finesight": b"json"}
"""Metadata of a column whose texts are JSON, since its values are of several types."""
MEND = "write the file anew (pandas: `to_parquet`), or take it out"


class TableFile(Protocol):
    """One file that is open in this process. A block is what is unpacked at once: a row group, or a record batch."""

    schema: Any
    """Names and types of its columns, as pyarrow has them."""
    rows: list[int]
    """Rows of each block."""
    largest: int
    """Bytes of the largest block where it must be unpacked; 0 where it is mapped."""

    def load(self, block: int, columns: Sequence[str]) -> tuple[list[Any], int]:
        """Record batches of these columns, and the bytes that they take in memory."""


class _ParquetFile:
    """A parquet file: a block is a row group."""

    def __init__(self, shard: Shard) -> None:
        import pyarrow.parquet as pq

        self._shard, self._read = shard, _raw(shard)
        source = open_bytes(shard) if is_address(shard.name) else shard.name
        self._file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
        self.schema = self._file.schema_arrow
        told = self._file.metadata
        groups = [told.row_group(number) for number in range(told.num_row_groups)]
        self.rows = [group.num_rows for group in groups]
        self.largest = max((group.total_byte_size for group in groups), default=0)

    def load(self, block: int, columns: Sequence[str]) -> tuple[list[Any], int]:
        at_once = self._rows_at_once(block, columns)
        rows, size, batches = 0, 0, []
        read = self._file.iter_batches(at_once, row_groups=[block], columns=list(columns), use_threads=False)
        for batch in read:
            batches.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if size > _LARGEST_BLOCK:
                raise self._too_large(block, size)
        if rows != self.rows[block]:
            what = f"row group {block + 1} has {rows:,} rows and says {self.rows[block]:,}"
            raise DataError(what, self._shard.name, MEND)
        return batches, size

    def _rows_at_once(self, block: int, columns: Sequence[str]) -> int:
        """Rows to unpack at once, so that even one value in all of them takes little memory.

        Raises DataError for a group that is too large, as its pages say, whatever the footer does.
        """
        group = self._file.metadata.row_group(block)
        chunks = [group.column(number) for number in range(group.num_columns)]
        inner = tuple(f"{name}." for name in columns)
        wanted = [c for c in chunks if c.path_in_schema in columns or c.path_in_schema.startswith(inner)]
        packed = unpacked = dictionary = 0
        for chunk in wanted:
            starts = (chunk.dictionary_page_offset, chunk.data_page_offset)
            size = min(chunk.total_compressed_size, self._shard.size)
            pages = pages_of(self._read, min(start for start in starts if start), size)
            packed += size
            unpacked += max(pages.unpacked, chunk.total_uncompressed_size)
            dictionary = max(dictionary, pages.dictionary)
        if unpacked > _LARGEST_BLOCK:
            raise self._too_large(block, unpacked)
        _check_ratio(packed, unpacked, f"row group {block + 1}", self._shard)
        return max(1, min(_SLICE, _SLICE_BYTES // max(1, dictionary)))

    def _too_large(self, block: int, size: int) -> DataError:
        most = f"{_LARGEST_BLOCK >> 20:,} are let in"
        what = f"row group {block + 1} takes {size >> 20:,} MiB of memory; {most}"
        mend = "write the file anew with smaller row groups (pandas: `to_parquet(…, row_group_size=100)`)"
        return DataError(what, self._shard.name, mend)


class _ArrowFile:
    """An Arrow IPC file (Feather, version 2): a block is a record batch."""

    largest = 0

    def __init__(self, shard: Shard) -> None:
        import pyarrow as pa

        found = list(messages_of_file(_raw(shard), shard.size))
        self._sizes = _checked(found, shard)
        self._reader = pa.ipc.open_file(_source(shard))
        self.schema = self._reader.schema
        self.rows = [message.rows for message in found if not message.is_dictionary]

    def load(self, block: int, columns: Sequence[str]) -> tuple[list[Any], int]:
        return [self._reader.get_batch(block)], self._sizes[block]


class _ArrowStream:
    """An Arrow stream, as `datasets` writes it: a block is a record batch, and all of them are looked at once."""

    largest = 0

    def __init__(self, shard: Shard) -> None:
        import pyarrow as pa

        found = list(messages_of_stream(_raw(shard), shard.size))
        if sum(_checked(found, shard)) > _LARGEST_STREAM:
            raise DataError(
                "an Arrow stream that is compressed or far away must be held in memory, and this one is large",
                shard.name,
                "write it as an Arrow file, or as parquet",
            )
        reader = pa.ipc.open_stream(_source(shard))
        self.schema = reader.schema
        self._batches = list(reader)
        self.rows = [batch.num_rows for batch in self._batches]

    def load(self, block: int, columns: Sequence[str]) -> tuple[list[Any], int]:
        return [self._batches[block]], 0


def _checked(found: Sequence[Message], shard: Shard) -> list[int]:
    """Bytes that each record batch takes in memory, 0 for one that is mapped; raises DataError for too many."""
    far, sizes = is_address(shard.name), []
    for number, message in enumerate(found, 1):
        if message.mapped and not far:
            size = 0
        else:
            size = message.unpacked
            _check_ratio(shard.size, size, f"batch {number}", shard)
            if size > _LARGEST_BLOCK:
                what = (
                    f"batch {number} takes {size >> 20:,} MiB of memory; {_LARGEST_BLOCK >> 20:,} are let in"
                )
                raise DataError(what, shard.name, "write the file anew with smaller batches, or as parquet")
        if message.rows < 0:
            raise ValueError(f"batch {number} has {message.rows} rows")
        if not message.is_dictionary:
            sizes.append(size)
    return sizes


def _check_ratio(packed: int, unpacked: int, which: str, shard: Shard) -> None:
    if unpacked > _LARGE and unpacked > _BOMB * packed:
        what = f"{which} is {packed:,} bytes that say to become {unpacked:,}"
        raise DataError(what, shard.name, "take the file out if you do not know who made it")


def _raw(shard: Shard) -> Read:
    """The bytes of a file by place; fewer at its end. For one thread at a time."""
    if is_address(shard.name):
        stream = open_bytes(shard)

        def far(start: int, size: int) -> bytes:
            stream.seek(start)
            return stream.read(size)

        return far
    descriptor = os.open(shard.name, os.O_RDONLY)

    def near(start: int, size: int) -> bytes:
        return os.pread(descriptor, size, start)

    weakref.finalize(near, os.close, descriptor)
    return near


def _source(shard: Shard) -> Any:
    """A file as pyarrow takes it: mapped into memory where it is on this machine."""
    import pyarrow as pa

    if is_address(shard.name):
        return pa.PythonFile(open_bytes(shard), mode="r")
    return pa.memory_map(shard.name, "r")


def open_file(shard: Shard) -> TableFile:
    """A shard opened by what its first bytes say; raises DataError for what is no such file."""
    try:
        stream = open_bytes(shard)
        try:
            head = stream.read(8)
        finally:
            stream.close()
        opened = _kind_of(head, shard)(shard)
        _check_rows(opened, shard)
        return opened
    except DataError:
        raise
    except Exception as error:  # as above
        what = f"the file cannot be read ({type(error).__name__}: {error})"
        raise DataError(what, shard.name, "it may be cut short or damaged: copy or write it anew") from error


def _kind_of(head: bytes, shard: Shard) -> type[_ParquetFile] | type[_ArrowFile] | type[_ArrowStream]:
    if head.startswith(b"PAR1"):
        return _ParquetFile
    if head.startswith(b"ARROW1"):
        return _ArrowFile
    if head.startswith(b"\xff\xff\xff\xff"):
        return _ArrowStream
    known = {
        b"PARE": "this parquet file is encrypted",
        b"FEA1": "this is a Feather file of the old version 1",
        b"": "the file is empty",
    }
    what = known.get(head[:4], "this is neither a parquet nor an Arrow file")
    raise DataError(what, shard.name, "give parquet, Arrow IPC or Feather (version 2) files in `path`")


def _check_rows(opened: TableFile, shard: Shard) -> None:
    if not opened.schema.names:
        raise DataError("the file has no columns", shard.name, "give files with columns")
    twice = next((name for name in opened.schema.names if opened.schema.names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two columns are named `{twice}`", shard.name, "give each column its own name")
    if any(rows < 0 for rows in opened.rows) or sum(opened.rows) > _ROWS_A_BYTE * shard.size:
        what = f"the file says that it has {sum(opened.rows):,} rows in {shard.size:,} bytes"
        raise DataError(what, shard.name, MEND)


def check_types(schema: Any, shard: Shard) -> None:
    """Raise for a column whose values JSON has no form for."""
    import pyarrow as pa

    def unknown(kind: Any) -> bool:
        inner = [kind.field(number).type for number in range(kind.num_fields)]
        strange = pa.types.is_union(kind) or pa.types.is_interval(kind)
        return strange or any(unknown(item) for item in inner)

    for field in schema:
        if unknown(field.type):
            raise DataError(
                f"column `{field.name}` has the type {field.type}, which cannot be read",
                shard.name,
                "write it as text, numbers, bytes, lists or structs",
            )


def check_same(schema: Any, other: Any, first: Shard, shard: Shard) -> None:
    """Raise unless two files have the same columns with values of the same kind."""
    if set(schema.names) != set(other.names):
        lacking = [f"`{name}`" for name in schema.names if name not in other.names]
        more = [f"`{name}`" for name in other.names if name not in schema.names]
        said = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has {', '.join(more)} more"] * bool(more)
        what = f"the file {' and '.join(said)}, compared with {first.name}"
        raise DataError(what, shard.name, "give files of one table, or one source for each")
    for field in other:
        before = schema.field(field.name).type
        if not _alike(before, field.type):
            what = f"column `{field.name}` has the type {field.type} here, and {before} in {first.name}"
            raise DataError(what, shard.name, "give files of one table, or one source for each")


def _alike(one: Any, two: Any) -> bool:
    """Whether values of two types are of one kind for JSON; an all-null column is of any kind."""
    import pyarrow as pa

    kinds = [_bare(kind) for kind in (one, two)]
    if any(pa.types.is_null(kind) for kind in kinds):
        return True
    a, b = kinds
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        named = [{kind.field(n).name: kind.field(n).type for n in range(kind.num_fields)} for kind in (a, b)]
        return all(_alike(named[0][name], named[1][name]) for name in named[0].keys() & named[1].keys())
    if a.num_fields and b.num_fields and not pa.types.is_struct(a) and not pa.types.is_struct(b):
        pairs = zip(range(a.num_fields), range(b.num_fields), strict=False)
        return a.num_fields == b.num_fields and all(
            _alike(a.field(n).type, b.field(m).type) for n, m in pairs
        )
    return _family(a) == _family(b)


def _bare(kind: Any) -> Any:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _bare(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _bare(kind.value_type)
    return kind


def _family(kind: Any) -> str:
    import pyarrow as pa

    is_ = pa.types
    families = {
        "text": (is_.is_string, is_.is_large_string, is_.is_string_view),
        "bytes": (is_.is_binary, is_.is_large_binary, is_.is_fixed_size_binary, is_.is_binary_view),
        "number": (is_.is_integer, is_.is_floating),
        "decimal": (is_.is_decimal,),
    }
    return next((name for name, tests in families.items() if any(test(kind) for test in tests)), str(kind))


def widened(schema: Any, other: Any) -> Any:
    """The schema with types from `other` where its own were null alone."""
    import pyarrow as pa

    fields = [other.field(f.name) if pa.types.is_null(f.type) else f for f in schema]
    return pa.schema(fields)
