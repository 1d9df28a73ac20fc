"""Files with random damage: samples or a DataError that names the file, never another error, never a hang."""

import base64
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from row_files import png, read, rows, tiny_ports

from finesight.config.sources import CsvSource, FolderSource, JsonSource
from finesight.core.errors import DataError
from finesight.data.dataset import ExampleSet

pytestmark = pytest.mark.proof

MUTANTS = 100
SECONDS = 5


def csv_file(folder: Path) -> tuple[Path, CsvSource]:
    table = [{**row, "caption": f'"{row["caption"]}", said'} for row in rows(5)]
    lines = [",".join(table[0])]
    lines += [",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in table]
    file = folder / "table.csv"
    file.write_text("\r\n".join(lines), encoding="utf-8")
    return file, CsvSource(source="csv", path=str(file), tags=("kind",), group="group")


def tsv_file(folder: Path) -> tuple[Path, CsvSource]:
    """Without quotes but those that are part of a field."""
    table = [{**row, "caption": f'a 5" pipe, {row["caption"]} "so"'.replace("\n", " ")} for row in rows(5)]
    file = folder / "table.tsv"
    file.write_text(
        "\n".join("\t".join(row) for row in [table[0], *(row.values() for row in table)]), encoding="utf-8"
    )
    return file, CsvSource(source="csv", path=str(file), tags=("kind",), group="group")


def json_file(
    name: str, indent: int | None = None, kind: str = "json"
) -> Callable[[Path], tuple[Path, FolderSource | JsonSource]]:
    def write(folder: Path) -> tuple[Path, FolderSource | JsonSource]:
        table: list[dict[str, object]] = [dict(row) for row in rows(5)]
        table[1] |= {"image": "a.png", "kind": 3, "group": None}
        table[2] |= {"kind": [1, {"a": 1.5e3}], "caption": "é\u2028 😀"}
        (folder / "a.png").write_bytes(png(9))
        file = folder / name
        if name.endswith(("jsonl", "ndjson")):
            file.write_text("\n".join(json.dumps(row) for row in table), encoding="utf-8")
        elif name.startswith("held"):
            file.write_text(json.dumps({"info": {"a": []}, "data": table}), encoding="utf-8")
        else:
            file.write_text(json.dumps(table, ensure_ascii=False, indent=indent), encoding="utf-8")
        if kind == "folder":
            return file, FolderSource(source="folder", path=str(folder), tags=("kind",), group="group")
        return file, JsonSource(source="json", path=str(file), tags=("kind",), group="group")

    return write


SPICE = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\\",
    b"\xff",
    b"{",
    b"[",
    b"}",
    b"]",
    b":",
    b"\\ud800",
    b"../",
    b".png",
]
SPICE += [
    b"\xef\xbb\xbf",
    b"NaN",
    b"-",
    b"1e999",
    b"9" * 4400,
    b"[" * 3000,
    b'{"a":' * 2000,
    b"<image>",
    b"\xe2\x80\xa8",
]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A few changes: bits, insertions, cuts, repeats, mostly where the structure is."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        marks = [at for at, byte in enumerate(data) if byte in b'",\n{}[]:'] or [0]
        at = draw.choice(marks) if draw.random() < 0.5 else draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + bytes([draw.randrange(256)]) + data[at:]
        elif kind == 2:
            data = data[:at] + draw.choice(SPICE) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + draw.randint(1, 40) :]
        elif kind == 4:
            data = data[: at or 1]
        else:
            data = data[:at] + data[at : at + draw.randint(1, 2000)] + data[at:]
    return data


@pytest.mark.parametrize(
    "make",
    [
        csv_file,
        tsv_file,
        json_file("rows.json"),
        json_file("rows.json", 1, "folder"),
        json_file("held.json"),
        json_file("rows.ndjson"),
        json_file("rows.jsonl", kind="folder"),
    ],
    ids=[
        "csv",
        "tsv",
        "json",
        "json in a folder",
        "json under a key",
        "json lines",
        "json lines in a folder",
    ],
)
def test_random_damage(
    make: Callable[..., tuple[Path, CsvSource]], tmp_path: Path, proof_factor: int
) -> None:
    file, source = make(tmp_path)
    whole = file.read_bytes()
    draw = random.Random(str(file.name))
    ports, kept, faults, refused = tiny_ports(), 0, 0, 0
    for number in range(MUTANTS * proof_factor):
        mutant = damaged(whole, draw)
        file.write_bytes(mutant)
        began = time.perf_counter()
        try:
            samples, policy = read(source, on_bad_row="skip")
            examples = ExampleSet(samples, ports, policy)
            for index in range(len(examples)):
                assert examples[0, index].supervised > 0
        except DataError as error:
            refused += 1
            _check_words(error, tmp_path)
        except Exception as error:
            raise AssertionError(f"mutant {number}: {base64.b64encode(mutant).decode()}") from error
        else:
            kept += len(examples)
            faults += len(policy.faults)
            assert all(fault.file == str(file) and fault.row >= 1 and fault.reason for fault in policy.faults)
            assert len({fault.row for fault in policy.faults}) == len(policy.faults)
            rows_read = len(samples.places[0][0].reader)
            assert len(examples) + len(policy.faults) == rows_read  # each row is a sample or a fault
        assert time.perf_counter() - began < SECONDS
    assert kept > MUTANTS / 10
    assert faults > MUTANTS / 20
    assert (
        refused > MUTANTS / 50
    )  # of JSON Lines that which stands before the first row is broken, if anything


def _check_words(error: DataError, folder: Path) -> None:
    assert all(fault.what and fault.where and fault.mend for fault in error.faults)
    assert str(folder) in str(error)
