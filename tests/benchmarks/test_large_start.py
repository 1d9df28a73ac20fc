"""What the benchmark of large starts says of its measurements; no time is asserted."""

import copy
import json
import mmap
from pathlib import Path
from typing import Any

import pytest

from benchmarks import large_start
from benchmarks.large_start import Costs, compare, recipe_of, write_rows
from finesight.config.load import parse_recipe


def one(rows: int, seconds: float, most: int, **more: Any) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "cpu": seconds / 2,
        "steps": {"rows": seconds},
        "memory": {"kept": most // 2, "most": most},
        "samples": {"train": rows - rows // 10, "val": rows // 10},
        "tokens": 7 * rows,
        "fingerprint": f"f{rows}",
        "first": ["a", "b"],
        "milliseconds an example": {"beginning": 1.0, "middle": 1.1, "end": 0.9},
        **more,
    }


@pytest.fixture
def few() -> list[dict[str, Any]]:
    return [one(100, 5.0, 9_000), *(one(100, 0.3, 2_000) for _ in range(3))]


@pytest.fixture
def many() -> list[dict[str, Any]]:
    return [one(1000, 50.0, 90_000), *(one(1000, seconds, 47_000) for seconds in (1.0, 2.0, 9.0))]


def test_what_is_right(few: list[dict[str, Any]], many: list[dict[str, Any]]) -> None:
    told = compare(few, many)
    assert told["faults"] == []
    assert told["bytes a row of a warm start"] == 50.0
    assert told["rows a second when checked"] == 20.0
    assert told["CPU ms an example at the middle"] == 1.1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seconds": 3.5}, "a warm start takes 3.5 s"),
        ({"memory": {"kept": 1, "most": 1_000_000}}, "bytes a row"),
        ({"first": ["b", "a"]}, "`first` of a warm start is not that of the cold one"),
        ({"fingerprint": "other"}, "`fingerprint`"),
        ({"milliseconds an example": {"beginning": 1.0, "middle": 1.0, "end": 2.0}}, "reading gets slower"),
    ],
)
def test_what_is_wrong(
    few: list[dict[str, Any]], many: list[dict[str, Any]], change: dict[str, Any], told: str
) -> None:
    for item in many[1:]:
        item |= copy.deepcopy(change)
    faults = compare(few, many)["faults"]
    assert len(faults) == 1
    assert told in faults[0]


def test_rows_and_recipe(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 130)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 130
    assert len({row["question"] for row in rows}) == 130
    assert len({row["image"] for row in rows}) == 64
    assert parse_recipe(recipe_of(tmp_path / "rows.jsonl")).data.val is not None


def test_costs_of_a_block() -> None:
    with Costs() as costs:
        # fresh pages: what `bytearray` gets may be memory that an earlier test has left with the process
        held = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        costs.after("one")
        held.write(b"x" * len(held))
        costs.after("two")
    held.close()
    told = costs.told()
    assert set(told["steps"]) == {"one", "two"}
    assert told["seconds"] >= sum(told["steps"].values()) * 0.99
    assert told["memory"]["most"] >= 60 << 20


def test_a_start_in_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "rows.jsonl", 60)
    monkeypatch.setattr(large_start, "READ", 5)
    told = [large_start.start(tmp_path / "rows.jsonl") for _ in range(2)]
    assert sum(told[0]["samples"].values()) == 60
    for name in ("samples", "tokens", "fingerprint", "first"):
        assert told[0][name] == told[1][name]
