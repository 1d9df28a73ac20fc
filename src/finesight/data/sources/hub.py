"""Datasets of the Hugging Face hub, and folders that `datasets` wrote or can read.

Pictures and sounds stay encoded: rows come as Arrow holds them, with `{"bytes": …, "path": …}` where the dataset has an
image. No code of a dataset is ever run (`trust_remote_code` is never passed), and `datasets` opens no pickle.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from finesight.config.place import SHIPPED, resolve_path
from finesight.config.sources import HubSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.sources.values import filled

_SAVED: Final = ("dataset_dict.json", "state.json")
"""Files in the folders that `save_to_disk` writes: of several splits, and of one."""


class HubReader:
    """Rows of one split of a dataset, mapped into memory by `datasets`."""

    def __init__(self, dataset: Any, file: str, root: str) -> None:
        self.file, self.root = file, root
        self._rows = dataset.with_format("arrow")
        self.columns = tuple(dataset.column_names)
        self.notes: tuple[tuple[str, str], ...] = ()
        if not len(self._rows):
            raise DataError("there is no row", file, "name another `split`")

    def __len__(self) -> int:
        return len(self._rows)

    def origin(self, index: int) -> Origin:
        """The dataset with its split, and the row."""
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        """What `datasets` says of the content, and sizes and times of its files."""
        files = [str(item["filename"]) for item in self._rows.cache_files]
        stats = [os.stat(name) for name in files]
        told = [
            f"{name} {found.st_size} {found.st_mtime_ns}" for name, found in zip(files, stats, strict=True)
        ]
        return "\n".join([self._rows._fingerprint, *told])

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, Any]:
        """Values of row `index`; what is null is left out."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        names = self.columns if columns is None else [name for name in self.columns if name in columns]
        try:
            table = self._rows[index]
            found = {}
            for name in names:
                column = table.column(name)
                column.validate(full=True)
                found[name] = column[0].as_py(maps_as_pydicts="strict")
            return filled(found)
        except Exception as error:  # of pyarrow, of datasets, of the system
            what = f"the row cannot be read ({type(error).__name__}: {error})"
            raise DataError(
                what, str(self.origin(index)), "load the dataset anew, or leave the row out"
            ) from error


class HubStream:
    """Rows of one split of a dataset one after another, as they arrive."""

    def __init__(self, dataset: Any, file: str, root: str) -> None:
        self.file, self.root = file, root
        self._rows = dataset
        self.notes: tuple[tuple[str, str], ...] = ()
        self.columns = tuple(dataset.column_names or self._first())

    def _first(self) -> Mapping[str, Any]:
        """The first row: `datasets` does not know the columns of all files before it has read of them."""
        for row in self.iter_rows():
            if isinstance(row, DataError):
                raise row
            return row
        raise DataError("there is no row", self.file, "name another `split`")

    def origin(self, index: int) -> Origin:
        """The dataset with its split, and the row."""
        return Origin(self.file, index + 1)

    def identity(self) -> str:
        """The dataset and its features: nothing more is known before it is read."""
        return f"{self.file} {self._rows.features}"

    def iter_rows(self, start: int = 0) -> Iterator[Mapping[str, Any] | DataError]:
        """Rows from number `start` on, with the error in place of one that cannot be used."""
        rows = iter(self._rows.skip(start) if start else self._rows)
        number = start
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:  # the connection, a damaged file: nothing comes after it
                what = f"the stream ended ({type(error).__name__}: {_short(error)})"
                raise DataError(
                    what, str(self.origin(number)), "check the connection and begin again"
                ) from error
            try:
                yield filled(row)
            except TypeError as error:
                yield DataError(str(error), str(self.origin(number)), "leave the row out")
            number += 1


def open_hub(source: HubSource) -> HubReader | HubStream:
    """The reader of a `hub` source; a stream where the source has `stream: true`."""
    folder = _folder(source.path)
    file = f"{source.path}{f' ({source.name})' if source.name else ''}, split {source.split}"
    dataset = (
        _from_disk(folder, source) if folder is not None and _is_saved(folder) else _loaded(folder, source)
    )
    root = str(folder) if folder is not None else _cache_root()
    if not source.stream:
        return HubReader(dataset, file, root)
    from datasets import Dataset

    if isinstance(dataset, Dataset):  # a saved one is mapped, and never streamed by itself
        dataset = dataset.to_iterable_dataset()
    if dataset.features:
        dataset = dataset.decode(False)
    return HubStream(dataset, file, root)


def _folder(path: str) -> Path | None:
    """The folder or file of this machine that `path` names; None for a dataset of the hub."""
    place = Path(path).expanduser()
    if path.startswith((SHIPPED, ".", "/", "~")) or place.exists():
        return resolve_path(path)
    return None


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


def _from_disk(folder: Path, source: HubSource) -> Any:
    """What `save_to_disk` wrote."""
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except Exception as error:
        what = f"the saved dataset cannot be read ({type(error).__name__}: {_short(error)})"
        raise DataError(what, str(folder), "save it anew by `save_to_disk`") from error
    if not isinstance(found, DatasetDict):
        return found
    if source.split not in found:
        raise _no_split(str(folder), source.split, list(found))
    return found[source.split]


def _loaded(folder: Path | None, source: HubSource) -> Any:
    """What `load_dataset` makes of a hub id or a folder."""
    from datasets import load_dataset

    where = str(folder) if folder is not None else source.path
    try:
        return load_dataset(
            where, source.name, split=source.split, revision=source.revision, streaming=source.stream
        )
    except Exception as error:
        raise _why(error, source, where, folder is not None) from error


def _why(error: Exception, source: HubSource, where: str, local: bool) -> DataError:
    """The error of `load_dataset` with what a person can do about it."""
    from datasets.exceptions import DatasetNotFoundError

    words = _short(error)
    if isinstance(error, ValueError) and "split" in words.lower():
        return _no_split(where, source.split, _splits(source, where))
    if "config" in words.lower() and isinstance(error, ValueError):
        return DataError(words, where, "name a configuration by `name` of this source")
    if "script" in words.lower():
        what = "the dataset is a program, and no program of a dataset is run"
        return DataError(
            what, where, "convert it to parquet where you trust it, and read that by `source: parquet`"
        )
    if isinstance(error, FileNotFoundError) and local:
        what = "`datasets` finds no data in this folder"
        return DataError(
            what, where, "give a folder of parquet, CSV, JSON or picture files, or one that it saved"
        )
    if isinstance(error, DatasetNotFoundError) and not local:
        what = f"there is no dataset `{where}` on the hub, or it is not open to you ({words})"
        return DataError(what, where, "correct `path`; for a gated dataset, log in by `hf auth login`")
    if not local and (isinstance(error, ConnectionError | OSError) or "offline" in words.lower()):
        what = f"the hub cannot be reached, and the dataset is not in the cache ({type(error).__name__}: {words})"
        mend = "check the connection (and HF_HUB_OFFLINE), or load it once where there is one, and copy the folder"
        return DataError(what, where, mend)
    what = f"`datasets` cannot read it ({type(error).__name__}: {words})"
    return DataError(what, where, "check `path`, `name`, `split` and `revision` of this source")


def _splits(source: HubSource, where: str) -> list[str]:
    from datasets import get_dataset_split_names

    try:
        return [str(name) for name in get_dataset_split_names(where, source.name, revision=source.revision)]
    except Exception:  # the error that led here is told
        return []


def _no_split(where: str, split: str, have: list[str]) -> DataError:
    mend = (
        f"set `split` to {' or '.join(f'`{name}`' for name in have)}"
        if have
        else "correct `split` of this source"
    )
    return DataError(f"there is no split `{split}`", where, mend)


def _cache_root() -> str:
    """The folder below which `datasets` keeps what rows of a hub dataset name by path."""
    from datasets import config
    from huggingface_hub import constants

    common = os.path.commonpath([str(config.HF_DATASETS_CACHE), constants.HF_HUB_CACHE])
    return common if len(Path(common).parts) > 2 else str(config.HF_DATASETS_CACHE)


def _short(error: BaseException) -> str:
    """The error's words in one line, with those of the error that caused it."""
    words = " ".join(str(error).split())[:300]
    return f"{words}: {_short(error.__cause__)}" if error.__cause__ is not None else words
