"""The benchmark of the loader measures what it says; no time is asserted."""

from pathlib import Path

import pytest

from benchmarks import loader


def test_both_give_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "SAMPLES", 20)
    monkeypatch.setattr(loader, "BATCH", 8)
    monkeypatch.setattr(loader, "WORKERS", (0, 1))
    plain = loader.examples_of
    monkeypatch.setattr(loader, "examples_of", lambda folder: plain(folder, samples=20, size=32))
    result, equal = loader.measure(1, tmp_path)
    assert equal
    assert set(result.ratios()) == {"DataLoader / finesight, 0 workers", "DataLoader / finesight, 1 workers"}
    assert all(cost > 0 for costs in result.rounds.values() for cost in costs)
    assert "× " in result.table()


def test_memory_is_looked_at_over_the_whole_epoch() -> None:
    found = loader.memory(rows=20_000, workers=1)
    assert found["MiB of growth"] < loader.GROWTH
    first, last = found["MiB at the first and the last tenth of 20,000 samples"]
    assert 0 < first < 10_000 and last > 0
