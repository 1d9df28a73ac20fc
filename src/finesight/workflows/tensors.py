"""What is fed to the model, as a table in a file: safetensors, or Arrow, Feather or Parquet by the file's suffix.

B samples, T tokens of the longest, P pictures of all of them, C channels, H × W pixels. The tensors are `input_ids`,
`attention_mask` and `targets`, each (B, T), and `pixel_values` (P, C, H, W), normalised as the model gets it. Reading
gives back the same bits.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finesight.core.batch import Example
from finesight.core.errors import RunError
from finesight.core.formats import FORMATS, check_format
from finesight.core.ports import Ports
from finesight.data.loading.collate import collate
from finesight.models.forward import float_pictures
from finesight.runtime.files import write_bytes

SUFFIXES = (".safetensors", ".arrow", ".feather", ".parquet")
_KEY = "finesight"
"""Key of the metadata, a JSON object, in all of these formats."""


@dataclass(frozen=True)
class Fed:
    """A batch as arrays. `ids` name the samples (B), `pictures` count the pictures of each, or what the model's
    processor makes of them; `counts` do so for each tensor that has not a row a sample.
    """

    tensors: Mapping[str, np.ndarray]
    ids: tuple[str, ...]
    pictures: tuple[int, ...]
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def fed(examples: Sequence[Example], ports: Ports) -> Fed:
    """What the model's forward pass gets of these examples, and the targets of its logits."""
    batch = collate(examples, ports.pad_id)
    tensors = {**float_pictures(batch.inputs, ports.image), "targets": batch.targets}
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
    items = {
        name for example in examples for name, extra in example.extras.items() if extra.counts == "items"
    }
    counts = {
        name: tuple(len(example.extras[name].array) if name in example.extras else 0 for example in examples)
        for name in sorted(items & arrays.keys())
    }
    return Fed(arrays, batch.ids, counts.get("pixel_values", (0,) * len(examples)), counts)


def check_place(path: Path) -> None:
    """Raise RunError where the suffix names no format, or where a file of another origin is in the way."""
    if path.suffix not in SUFFIXES:
        raise RunError(
            f"`{path.suffix}` is no format of a table",
            str(path),
            f"end its name with one of {', '.join(SUFFIXES)}",
        )
    if path.is_dir() or (path.is_file() and not _is_ours(path)):
        raise RunError("this is not a table that inspect wrote", str(path), "give another name, or remove it")


def _is_ours(path: Path) -> bool:
    try:
        read_table(path)
    except (RunError, OSError):
        return False
    return True


def write_table(path: Path, table: Fed) -> None:
    """Write a whole file or none; its suffix tells the format."""
    about = {"format": FORMATS["tensors"], "ids": table.ids, "pictures": table.pictures}
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        data = save(dict(table.tensors), {_KEY: json.dumps(about, ensure_ascii=False)})
    else:
        data = _arrow_bytes(table, about, path.suffix)
    write_bytes(path, data)


def read_table(path: Path) -> Fed:
    """The batch of a file that `write_table` wrote; raises RunError for another one."""
    try:
        tensors, about = _read_safetensors(path) if path.suffix == ".safetensors" else _read_arrow(path)
        check_format("tensors", about.get("format"), str(path), RunError)
        return Fed(tensors, tuple(about["ids"]), tuple(about["pictures"]))
    except (ValueError, KeyError, TypeError) as error:
        what = f"this is not a table that inspect wrote: {error}"
        raise RunError(what, str(path), "write it anew with `finesight inspect … --tensors`") from error


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _arrow_bytes(table: Fed, about: Mapping[str, Any], suffix: str) -> bytes:
    """A row a sample: each tensor a column of lists, the pixels of all pictures of a sample in one."""
    import pyarrow as pa

    columns: dict[str, Any] = {"id": pa.array(table.ids, pa.string())}
    for name, tensor in table.tensors.items():
        counts = table.counts.get(name)
        rows = tensor if counts is None else np.split(tensor, np.cumsum(counts)[:-1])
        flat = pa.array(tensor.reshape(-1))
        sizes = np.cumsum([0, *(row.size for row in rows)])
        columns[name] = pa.LargeListArray.from_arrays(pa.array(sizes, pa.int64()), flat)
    shapes = {name: tensor.shape for name, tensor in table.tensors.items()}
    made = pa.table(columns).replace_schema_metadata({_KEY: json.dumps({**about, "shapes": shapes})})
    buffer = io.BytesIO()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(made, buffer)
    else:
        with pa.ipc.new_file(buffer, made.schema) as file:
            file.write_table(made)
    return buffer.getvalue()


def _read_arrow(path: Path) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    import pyarrow as pa

    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
    else:
        table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    about = json.loads((table.schema.metadata or {})[_KEY.encode()])
    tensors = {}
    for name, shape in about["shapes"].items():
        flat = table.column(name).combine_chunks().flatten()
        tensors[name] = flat.to_numpy(zero_copy_only=False).reshape(shape)
    return tensors, about
