"""What is fed to the model, saved and read again: bit for bit what a training batch is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import tiny_recipe

from finesight.core.batch import IGNORE, Example
from finesight.core.errors import RunError
from finesight.data.loading.loader import windows
from finesight.models.forward import float_pictures
from finesight.runtime.notices import Notices
from finesight.workflows.inspect import Inspection, inspect
from finesight.workflows.prepare import order_of, prepare
from finesight.workflows.tensors import SUFFIXES, Fed, fed, read_table, write_table


def same_bits(one: Fed, other: Fed) -> None:
    assert (one.ids, one.pictures) == (other.ids, other.pictures)
    assert set(one.tensors) == set(other.tensors)
    for name, tensor in one.tensors.items():
        again = other.tensors[name]
        assert (tensor.dtype, tensor.shape) == (again.dtype, again.shape)
        assert tensor.tobytes() == again.tobytes(), name


@pytest.fixture(scope="module")
def table(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """The first batch's samples of a tiny run."""
    folder = tmp_path_factory.mktemp("fed")
    found = inspect(
        tiny_recipe(tiny_data, folder), samples=[3, 1, 7], tensors=folder / "fed.safetensors", jobs=0
    )
    assert found.table is not None
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_reads_back_bit_for_bit(table: Inspection, suffix: str, tmp_path: Path) -> None:
    assert table.table is not None
    write_table(tmp_path / f"fed{suffix}", table.table)
    same_bits(read_table(tmp_path / f"fed{suffix}"), table.table)


def test_it_is_what_training_feeds(tiny_data: Path, tmp_path: Path) -> None:
    """The first batch of a run: the same ids, tokens, targets, and pictures with their random changes, normalised."""
    recipe = tiny_recipe(tiny_data, tmp_path / "run")
    prepared = prepare(recipe, Notices())
    examples = prepared.splits["train"]
    (batch, *_) = next(windows(examples, order_of(recipe, examples), 0, 1, 4, workers=0))
    saved = inspect(recipe, ids=batch.ids, tensors=tmp_path / "fed.arrow", jobs=0).table
    assert saved is not None
    expected = {**float_pictures(batch.inputs, prepared.ports.image), "targets": batch.targets}
    same_bits(saved, Fed({name: tensor.numpy() for name, tensor in expected.items()}, batch.ids, (1,) * 4))


def test_the_picture_on_the_page_is_the_one_that_is_fed(table: Inspection) -> None:
    from io import BytesIO

    from PIL import Image
    from row_files import tiny_ports

    assert table.table is not None
    port = tiny_ports().image
    assert port is not None
    for number, view in enumerate(table.views):
        with Image.open(BytesIO(view.fed[0].data)) as file:
            levels = np.asarray(file.convert("RGB")).transpose(2, 0, 1)
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (port.mean, port.std))
        back = np.round((table.table.tensors["pixel_values"][number] * std + mean) * 255)
        assert np.array_equal(back.astype(np.uint8), levels)


def test_other_programs_read_it(table: Inspection, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    assert table.table is not None
    write_table(tmp_path / "fed.safetensors", table.table)
    loaded = load_file(tmp_path / "fed.safetensors")
    assert np.array_equal(loaded["input_ids"], table.table.tensors["input_ids"])
    import pyarrow.parquet as pq

    write_table(tmp_path / "fed.parquet", table.table)
    rows = pq.read_table(tmp_path / "fed.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(table.table.ids)
    assert rows[1]["input_ids"] == table.table.tensors["input_ids"][1].tolist()
    (metadata,) = [json.loads(value) for value in pq.read_schema(tmp_path / "fed.parquet").metadata.values()]
    assert metadata["format"] == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_pictures_none_and_odd_numbers(suffix: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    bits = random.integers(0, 2**32, (3, 3, 2, 2), np.uint32).view(np.float32)
    bits[0, 0, 0] = (-0.0, np.float32(1e-45))
    tensors = {
        "input_ids": random.integers(0, 300, (3, 5)),
        "targets": np.full((3, 5), IGNORE),
        "attention_mask": np.ones((3, 5), np.int64),
        "pixel_values": bits,
    }
    counts = (2, 0, 1)
    one = Fed(tensors, ("a", 'é\n"', ""), counts, {"pixel_values": counts})
    write_table(tmp_path / f"x{suffix}", one)
    same_bits(read_table(tmp_path / f"x{suffix}"), one)
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pixels = pq.read_table(tmp_path / "x.parquet").column("pixel_values").to_pylist()
        assert [len(row) for row in pixels] == [24, 0, 12]


def test_words_alone_have_no_pixels(tmp_path: Path) -> None:
    from row_files import tiny_ports

    tokens = np.arange(4, dtype=np.int32)
    one = fed([Example("t", tokens, tokens)], tiny_ports())
    assert set(one.tensors) == {"input_ids", "attention_mask", "targets"}
    for suffix in SUFFIXES:
        write_table(tmp_path / f"x{suffix}", one)
        same_bits(read_table(tmp_path / f"x{suffix}"), one)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"words", bytes(range(256))])
def test_what_is_no_table_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(RunError, match="not a table"):
        read_table(tmp_path / f"x{suffix}")


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(RunError, match="not a table"):
        read_table(tmp_path / "x.safetensors")
