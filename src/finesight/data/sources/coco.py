"""COCO and VizWiz caption annotations: one JSON file with `images` and `annotations`, joined.

Rows are captions, or pictures (`per`): each has its picture's file name as `image`, all captions of the picture as
`references`, and the further keys of picture and annotation under their own names. A file without annotations (the test
set of a challenge) gives its pictures without captions, to be answered. What is held of the file is where each element
stands, and which caption belongs to which picture.
"""

import json
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from finesight.config.sources import CocoSource
from finesight.core.errors import DataError
from finesight.core.sample import Origin
from finesight.data.files.index import Broken, FileIndex
from finesight.data.files.store import Table, find_table
from finesight.data.sources.json import checked_row, parse_json
from finesight.data.sources.json_scan import OBJECT, ItemScan
from finesight.runtime.cachedir import NoCache, cached

_RENAMED: Final = {"id": "image_id", "file_name": "image"}
_OWN: Final = ("image", "caption", "references", "image_id", "annotation_id")
_QUICK: Final = ("image", "caption", "references", "image_id")
"""Columns for which no element is read anew."""
_MARKS: Final = {"is_rejected": 1, "is_precanned": 2}
_NO_CAPTION: Final = 4
_BROKEN, _UNKNOWN = -1, -2
"""Instead of a picture: the annotation is none; the picture that it names is not listed."""

_FORM: Final = 1
_LARGEST_ELEMENT: Final = 8 << 20
_WINDOW: Final = 4 << 20
_HEAD: Final = 1 << 16
_MOST_KEYS: Final = 1000
_LIST = re.compile(rb'\s*("(?:[^"\\]|\\.)*+")\s*:\s*(?=\[)', re.DOTALL)
_WRITE: Final = (
    'write {"images": [{"id": …, "file_name": …}, …], "annotations": [{"image_id": …, "caption": …}, …]}'
)


class _Elements:
    """The elements of one list in a JSON file, any at once."""

    def __init__(self, table: Table, start: int) -> None:
        self._index = FileIndex(table.path, table.name, f"json items {start}", partial(ItemScan, start))
        self.notes = self._index.notes
        count = len(self._index.offsets) - 1
        if count == 1:
            first, end = self._span(0)
            if not self._index.read(first, min(end, first + _HEAD), table.name).strip():
                count = 0  # [ ]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def _span(self, number: int) -> tuple[int, int]:
        return int(self._index.offsets[number]), int(self._index.offsets[number + 1]) - 1

    def get(self, number: int, where: str) -> dict[str, Any]:
        """Element `number`, which must be an object."""
        start, end = self._span(number)
        if end - start > _LARGEST_ELEMENT:
            what = f"the element has {end - start:,} bytes; at most {_LARGEST_ELEMENT:,} are read"
            raise DataError(what, where, "check whether a bracket or quote is missing")
        data = self._index.read(start, end, where)
        try:
            return checked_row(parse_json(data), data, where)
        except ValueError as error:
            raise DataError(f"the element is not JSON: {error}", where, _WRITE) from error

    def each(self, where: str) -> Iterator[Any]:
        """All elements one after another, None for one that cannot be read."""
        offsets, number = self._index.offsets, 0
        while number < self._count:
            first = int(offsets[number])
            stop = int(np.searchsorted(offsets, first + _WINDOW, side="right")) - 1
            stop = min(max(stop, number + 1), self._count)
            end = int(offsets[stop]) - 1
            if end - first > _LARGEST_ELEMENT:
                yield None
            else:
                data = self._index.read(first, end, where)
                found = _loaded(b"[" + data + b"]")  # at once: this is many times quicker
                if isinstance(found, list) and len(found) == stop - number:
                    yield from found
                else:
                    spans = (self._span(place) for place in range(number, stop))
                    yield from (_loaded(data[start - first : behind - first]) for start, behind in spans)
            number = stop


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


class _Texts:
    """Texts end to end, any at once."""

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        # plain views: slices of numpy's mapped arrays are slow
        self._content, self._ends = memoryview(np.asarray(content).data), np.asarray(ends)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "_Texts":
        content, ends = bytearray(), array("q")
        for text in texts:
            content += text.encode("utf-8", "surrogatepass")
            ends.append(len(content))
        return cls(np.frombuffer(content, np.uint8), np.array(ends, dtype=np.int64))

    def __getitem__(self, number: int) -> str:
        start = self._ends.item(number - 1) if number else 0
        return str(self._content[start : self._ends.item(number)], "utf-8")

    def save(self, folder: Path, name: str) -> None:
        np.save(folder / f"{name}.npy", np.asarray(self._content), allow_pickle=False)
        np.save(folder / f"{name}_ends.npy", self._ends, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, name: str) -> "_Texts":
        return cls(*(np.load(folder / f"{file}.npy", mmap_mode="r") for file in (name, f"{name}_ends")))


@dataclass
class _Join:
    """What is asked of every row, by caption (A,) and by picture (P,).

    `of_caption` (A,) is the caption's picture, or why there is none; `marks` (A,) its marks; `captions` its words.
    `whole` (P,) says whether a picture has an id; `files` are names, `ids` are as JSON. `keys` are those of all.
    """

    of_caption: np.ndarray
    marks: np.ndarray
    whole: np.ndarray
    captions: _Texts
    files: _Texts
    ids: _Texts
    keys: tuple[str, ...]


_ARRAYS: Final = ("of_caption", "marks", "whole")
_TEXTS: Final = ("captions", "files", "ids")


def _join(pictures: _Elements, captions: _Elements | None, where: str) -> _Join:
    numbers: dict[Any, int] = {}
    keys: dict[str, None] = {}
    whole = np.zeros(len(pictures), dtype=bool)
    files, ids, words = [], [], []
    for number, found in enumerate(pictures.each(where)):
        name = _id_of(found, "id")
        file = found.get("file_name") if name is not None else None
        files.append(file if isinstance(file, str) else "")
        ids.append(json.dumps(name))
        if name is None:
            continue
        whole[number] = True
        if numbers.setdefault(name, number) != number:
            what = f"pictures {numbers[name] + 1} and {number + 1} have the same id, {name!r}"
            raise DataError(what, where, "give each picture its own id")
        _note(keys, found)
    count = 0 if captions is None else len(captions)
    of_caption, marks = np.full(count, _BROKEN, dtype=np.int64), np.zeros(count, dtype=np.uint8)
    for number, found in enumerate(() if captions is None else captions.each(where)):
        name = _id_of(found, "image_id")
        text = found.get("caption") if name is not None else None
        words.append(text if isinstance(text, str) else "")
        if name is None:
            continue
        of_caption[number] = numbers.get(name, _UNKNOWN)
        marks[number] = sum(bit for key, bit in _MARKS.items() if found.get(key) is True)
        if not isinstance(text, str):
            marks[number] |= _NO_CAPTION
        _note(keys, found)
    texts = (_Texts.of(words), _Texts.of(files), _Texts.of(ids))
    return _Join(of_caption, marks, whole, *texts, tuple(keys))


def _id_of(found: Any, key: str) -> int | str | None:
    name = found.get(key) if isinstance(found, dict) else None
    return name if isinstance(name, int | str) and not isinstance(name, bool) else None


def _note(keys: dict[str, None], found: Mapping[str, Any]) -> None:
    if len(keys) < _MOST_KEYS and not keys.keys() >= found.keys():
        keys.update(dict.fromkeys(found))


def _kept_join(pictures: _Elements, captions: _Elements | None, table: Table, digest: str) -> _Join:
    """The join from the cache, under a hash of the file's content; made where it is not there."""
    made: list[_Join] = []

    def write(folder: Path) -> None:
        made.append(_join(pictures, captions, table.name))
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(made[0], name), allow_pickle=False)
        for name in _TEXTS:
            getattr(made[0], name).save(folder, name)
        (folder / "keys.json").write_text(json.dumps(made[0].keys), encoding="utf-8")

    try:
        folder = cached("coco", digest, _FORM, write, source=str(table.path.absolute()))
        of_caption, marks, whole = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS
        )
        words, files, ids = (_Texts.load(folder, name) for name in _TEXTS)
        keys = tuple(json.loads((folder / "keys.json").read_bytes()))
        return _Join(of_caption, marks, whole, words, files, ids, keys)
    except (NoCache, OSError, ValueError):
        return made[0] if made else _join(pictures, captions, table.name)


class CocoReader:
    """Captions of pictures, or pictures with their captions; a row keeps the number that it has in the file."""

    def __init__(self, table: Table, source: CocoSource) -> None:
        self.file, self.root = table.name, table.root
        outer, places = self._lists(table)
        self._identity, self._table, self._digest = outer.identity(), table, outer.digest
        self._pictures = _Elements(table, places["images"])
        self._captions = _Elements(table, places["annotations"]) if "annotations" in places else None
        self._join = join = _kept_join(self._pictures, self._captions, table, outer.digest)
        counts: Counter[str] = Counter()
        used = self._let_in(join, source, counts)
        self._sorted = np.flatnonzero(used)[np.argsort(join.of_caption[used], kind="stable")]
        self._firsts = np.searchsorted(join.of_caption[self._sorted], np.arange(len(join.whole) + 1))
        self._per_caption = len(join.of_caption) > 0 and source.per == "caption"
        self._rows = self._chosen(join, used, counts)
        self.columns = tuple(dict.fromkeys([*_OWN, *(_RENAMED.get(key, key) for key in join.keys)]))
        said = (("captions", f"{self.file}: {count:,} {text}") for text, count in counts.items())
        self.notes: tuple[tuple[str, str], ...] = (*table.notes, *self._pictures.notes, *said)
        if not len(self._rows):
            raise DataError(
                "there is no row", self.file, "give a file with pictures, and captions that are used"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_join"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._join = _kept_join(self._pictures, self._captions, self._table, self._digest)

    def _lists(self, table: Table) -> tuple[FileIndex, dict[str, int]]:
        """Where the two lists begin."""
        try:
            outer = FileIndex(table.path, table.name, "json items", ItemScan)
        except Broken as error:
            raise DataError(f"the file is not JSON: {error.what}", table.name, error.mend) from error
        places: dict[str, int] = {}
        if outer.facts["bracket"] == OBJECT:
            for start, end in zip(
                outer.offsets[:_MOST_KEYS].tolist(), outer.offsets[1:].tolist(), strict=False
            ):
                found = _LIST.match(outer.read(start, min(start + _HEAD, end - 1), table.name))
                key = _loaded(found[1]) if found else None
                if found and key in ("images", "annotations"):
                    if key in places:
                        raise DataError(f"the key `{key}` comes twice", table.name, "keep one of them")
                    places[key] = start + found.end()
        if "images" not in places:
            raise DataError("there is no list `images` in the file", table.name, _WRITE)
        return outer, places

    def _let_in(self, join: _Join, source: CocoSource, counts: Counter[str]) -> np.ndarray:
        """Mask (A,) of the captions that the options let in."""
        used: np.ndarray = (join.of_caption >= 0) & (join.marks & _NO_CAPTION == 0)
        for (key, bit), wanted in zip(_MARKS.items(), (source.rejected, source.precanned), strict=True):
            marked = join.marks & bit > 0
            if marked.any():
                word = key.removeprefix("is_")
                counts[f"{word} captions are {'used' if wanted else 'left out'}"] += int(marked.sum())
            if not wanted:
                used &= ~marked
        return used

    def _chosen(self, join: _Join, used: np.ndarray, counts: Counter[str]) -> np.ndarray:
        """Numbers of the captions, or of the pictures, that are rows; broken elements are rows with an error."""
        broken = (join.of_caption < 0) | (join.marks & _NO_CAPTION > 0)
        if self._per_caption:
            return np.flatnonzero(used | broken)
        if not len(join.of_caption):
            counts["pictures have no caption: they can be answered, not learned from"] = len(join.whole)
            return np.arange(len(join.whole))
        kept = (np.diff(self._firsts) > 0) | ~join.whole
        if not kept.all():
            counts["pictures are left out: none of their captions is used"] = int((~kept).sum())
        if broken.any():
            counts["annotations are left out: without a caption, or of a picture that is not listed"] = int(
                broken.sum()
            )
        return np.flatnonzero(kept)

    def __len__(self) -> int:
        return len(self._rows)

    def origin(self, index: int) -> Origin:
        """The file, and the number of the caption (or of the picture) in its list."""
        return Origin(self.file, int(self._rows[index]) + 1)

    def identity(self) -> str:
        """Size and time of the file."""
        return self._identity

    def row(self, index: int, columns: Collection[str] | None = None) -> Mapping[str, Any]:
        """Values of row `index`: of the picture, of the caption, and all captions of the picture."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        where, number = str(self.origin(index)), int(self._rows[index])
        caption = number if self._per_caption else None
        picture = number if caption is None else self._picture_of(caption, where)
        if not self._join.whole[picture]:
            self._pictures.get(picture, where)  # says what is wrong, unless it is that:
            raise DataError("the picture has no `id`", where, _WRITE, "image_id")
        values: dict[str, Any] = {}
        if columns is None or not set(_QUICK).issuperset(columns):
            values = self._further(picture, caption, where)
        try:
            name = self._join.files[picture]
            values["image_id"] = json.loads(self._join.ids[picture])
            if columns is None or not {"references", "caption"}.isdisjoint(columns):
                values["references"] = references = self._references(picture)
                first = references[0] if references else ""
                values["caption"] = first if caption is None else self._join.captions[caption]
        except UnicodeDecodeError as error:
            what = "a text holds half of a surrogate pair"
            raise DataError(what, where, r"write both halves, such as \ud83d\ude00") from error
        if name:
            values["image"] = name
        return values if columns is None else {name: values[name] for name in values if name in columns}

    def _picture_of(self, caption: int, where: str) -> int:
        """The picture of a caption; raises DataError where there is none, or the caption is none."""
        picture = int(self._join.of_caption[caption])
        if picture >= 0 and not self._join.marks[caption] & _NO_CAPTION:
            return picture
        assert self._captions is not None
        found = self._captions.get(caption, where)
        if not isinstance(found.get("caption"), str):
            raise DataError("the annotation has no `caption`", where, _WRITE, "caption")
        what = f"the annotation names the picture {found.get('image_id')!r}, which is not listed"
        raise DataError(what, where, "add it to `images`, or take the annotation out", "image_id")

    def _further(self, picture: int, caption: int | None, where: str) -> dict[str, Any]:
        """All keys of the picture, and those of the caption that it has not."""
        found = self._pictures.get(picture, where)
        values = {_RENAMED.get(key, key): value for key, value in found.items() if value is not None}
        if caption is not None and self._captions is not None:
            own = self._captions.get(caption, where)
            values |= {key: own[key] for key in own if key not in values and key not in ("id", "image_id")}
            if "id" in own:
                values["annotation_id"] = own["id"]
        return values

    def _references(self, picture: int) -> list[str]:
        """The captions of a picture that are used, in the order of the file."""
        numbers = self._sorted[int(self._firsts[picture]) : int(self._firsts[picture + 1])]
        texts = (self._join.captions[number] for number in numbers.tolist())
        return [text for text in texts if text.strip()]


def open_coco(source: CocoSource) -> CocoReader:
    """The reader of a `coco` source."""
    table = find_table(source.path, source.root)
    try:
        return CocoReader(table, source)
    except Broken as error:
        raise DataError(f"the file is not JSON: {error.what}", table.name, error.mend) from error
