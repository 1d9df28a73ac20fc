"""The benchmark of CSV files, over small ones: it measures what it says; no time is asserted."""

from pathlib import Path

import pytest

from benchmarks import csv_index
from finesight.data.sources.csv import CsvReader


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    path = tmp_path / "pictures.csv"
    csv_index.write_pictures(path, 3 << 20)
    return path


def test_the_file_of_pictures(pictures: Path) -> None:
    assert pictures.stat().st_size >= 3 << 20
    found = CsvReader(pictures, ",", pictures.parent)
    assert found.columns == ("b64string_images", "caption", "note")
    assert found.row(7)["note"] == 'it says "7",\r\nand more'
    assert len({found.row(index)["b64string_images"] for index in range(len(found))}) == len(found)


def test_both_ways_give_the_same_bytes(pictures: Path) -> None:
    rows = csv_index.Rows(pictures)
    assert rows.differ(30) == 0
    assert len(rows.finesight(3)) >= 20_000
    assert rows.cost(rows.parsed, 1, 5) > 0


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(csv_index.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(
        csv_index, "in_a_fresh_process", lambda kind, path, cache: csv_index.opened(kind, path)
    )
    results = csv_index.measure(2 << 20, 1000, 1, 5)
    opening, rows, many = results
    assert [result.name for result in results] == ["csv_index-open", "csv_index-rows", "csv_index-many"]
    assert opening.rounds.keys() == {"finesight", "finesight again", "pandas", "csv"}
    assert all(cost > 0 for cost in opening.rounds["pandas"] + opening.rounds["csv"])
    assert len({tuple(found) for found in opening.facts["rows"].values()}) == 1
    assert rows.facts["rows that differ, of 500"] == 0
    assert csv_index.kept(results) in (True, False)
    path = many.keep(["python"], tmp_path)
    assert path.name.startswith("csv_index-many-")


def test_a_fresh_process_tells_what_it_took(pictures: Path, tmp_path: Path) -> None:
    told = csv_index.in_a_fresh_process("finesight", pictures, tmp_path)
    assert told["rows"] == len(CsvReader(pictures, ",", tmp_path))
    assert 0 <= told["bytes"] < told["peak"]
    (tmp_path / "empty.csv").touch()
    with pytest.raises(RuntimeError, match="is empty"):
        csv_index.in_a_fresh_process("finesight", tmp_path / "empty.csv", tmp_path)


def test_limits() -> None:
    def results(
        cpu: float = 0.9, more: float = 99.0, rows: int = 5, ratio: float = 10.0, differ: int = 0
    ) -> list:
        opening = {"finesight": [cpu], "pandas": [2.0], "csv": [5.0]}
        facts = {"MB beyond the imports": {"finesight": more}, "rows": {"finesight": [5], "csv": [rows]}}
        both = {"index and csv / finesight": ("index and csv", "finesight")}
        return [
            csv_index.Result("csv_index-open", "s", opening, {}, facts),
            csv_index.Result(
                "csv_index-rows",
                "µs",
                {"finesight": [1.0], "index and csv": [ratio]},
                both,
                {"rows that differ, of 500": differ},
            ),
            csv_index.Result("csv_index-many", "s", {"500,000 rows again": [2.9]}, {}, {}),
        ]

    assert csv_index.kept(results())
    for wrong in ({"cpu": 1.1}, {"more": 101.0}, {"rows": 4}, {"ratio": 9.9}, {"differ": 1}):
        assert not csv_index.kept(results(**wrong))
