"""A pretended speech model, and a cache of its own for each test."""

from pathlib import Path

import pytest
from speech_files import Pretended, pretend


@pytest.fixture
def clean_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(clean_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Pretended, str]:
    return pretend(tmp_path / "speech-model", monkeypatch)
