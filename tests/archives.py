"""Small archives made of the shipped pictures: tar shards, parquet and Arrow files, caption annotations."""

import base64
import csv
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

SHIPPED = Path(__file__).parents[1] / "src" / "finesight" / "assets" / "pictures"


@cache
def pictures() -> tuple[tuple[str, bytes, str], ...]:
    """Name, bytes and caption of some shipped pictures."""
    folder = SHIPPED / "things"
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))[:24]
    names = [f"{number:02d}-{Path(row['image']).name}" for number, row in enumerate(rows)]
    data = [(folder / row["image"]).read_bytes() for row in rows]
    return tuple((name, held, row["caption"]) for name, held, row in zip(names, data, rows, strict=True))


def tar_bytes(members: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive of files with these names and bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return stream.getvalue()


def special(name: str, kind: bytes, link: str = "") -> bytes:
    """The header of a member that is no file."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, link
    return header.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
"""The end of an archive."""


def rows_as_members(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    """Members of rows with a picture, a caption and a JSON object."""
    found = []
    for number in range(first, first + count):
        _, data, caption = pictures()[number % len(pictures())]
        found += [
            (f"train/{number:04d}.png", data),
            (f"train/{number:04d}.txt", caption.encode()),
            (f"train/{number:04d}.json", json.dumps({"number": number, "kind": f"k{number % 3}"}).encode()),
            (f"train/{number:04d}.cls", b"%d\n" % (number % 5)),
        ]
    return found


def write_shards(folder: Path, shards: int, rows: int) -> str:
    """Some tar shards; the pattern that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        data = tar_bytes(rows_as_members(rows, number * rows))
        (folder / f"shard-{number:04d}.tar").write_bytes(data)
    return f"{folder}/shard-{{0000..{shards - 1:04d}}}.tar"


def table(count: int, first: int = 0) -> pa.Table:
    """A table as Hugging Face writes them, with columns of many types."""
    chosen = [pictures()[number % len(pictures())] for number in range(first, first + count)]
    numbers = range(first, first + count)
    return pa.table(
        {
            "image": [{"bytes": data, "path": name} for name, data, _ in chosen],
            "caption": [caption for _, _, caption in chosen],
            "messages": [
                [{"role": "user", "content": caption}, {"role": "assistant", "content": "é"}]
                for _, _, caption in chosen
            ],
            "number": pa.array(numbers, pa.int32()),
            "score": pa.array([None if n % 4 == 0 else n / 2 for n in numbers], pa.float32()),
            "kind": pa.array([f"k{n % 3}" for n in numbers]).dictionary_encode(),
            "many": [[name, None] if n % 2 else [] for n, (name, _, _) in zip(numbers, chosen, strict=True)],
        }
    )  # fmt: skip


def write_csv_table(path: Path, count: int, **more: str) -> Path:
    """A CSV with pictures as base64."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        rows = csv.DictWriter(stream, ["b64string_images", "caption", "kind", *more])
        rows.writeheader()
        for number in range(count):
            _, data, caption = pictures()[number % len(pictures())]
            cell = base64.b64encode(data).decode()
            rows.writerow(
                {
                    "b64string_images": cell,
                    "caption": f"{caption}, {number}",
                    "kind": f"k{number % 3}",
                    **more,
                }
            )
    return path


def write_pictures(folder: Path) -> list[str]:
    """The pictures as files in a folder; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data, _ in pictures():
        (folder / name).write_bytes(data)
    return [name for name, _, _ in pictures()]


def annotations(folder: Path, captions: int = 3, **more: Any) -> Path:
    """Pictures and a COCO file of captions beside them."""
    names = write_pictures(folder)
    document: Mapping[str, Any] = {
        "info": {"description": "for tests"},
        "images": [
            {"id": 1000 + n, "file_name": name, "width": 36, "vizwiz_url": f"u{n}"} for n, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": 1000 + number % len(names),
                "caption": f"{pictures()[number % len(names)][2]}, number {number}",
                "is_rejected": number % 7 == 3,
                "is_precanned": number % 11 == 5,
            }
            for number in range(captions * len(names))
        ],
        **more,
    }  # fmt: skip
    file = folder / "captions.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file
