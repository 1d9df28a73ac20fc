"""Paths of a recipe lead to files that exist, or the error names what is near."""

from pathlib import Path

import pytest

from finesight.config import place
from finesight.config.place import is_address, resolve_path
from finesight.core.errors import DataError


def test_a_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    assert resolve_path(str(tmp_path / "rows.csv")) == tmp_path / "rows.csv"
    assert resolve_path(str(tmp_path)) == tmp_path


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(place, "files", lambda package: tmp_path / package)
    file = tmp_path / "finesight" / "assets" / "pictures" / "flags" / "flags.csv"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_shipped_data(shipped: Path) -> None:
    assert resolve_path("shipped:flags/flags.csv") == shipped
    with pytest.raises(DataError, match="did you mean flags"):
        resolve_path("shipped:flags/flag.csv")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rows.cvs", ["does not exist", "did you mean rows.csv"]),
        ("zzz", ["holds rows.csv"]),
        ("no/such/rows.csv", ["does not exist either"]),
        ("a" * 5000, ["cannot be a path"]),
        ("a\x00b", ["does not exist"]),
    ],
)
def test_a_file_that_does_not_exist(tmp_path: Path, name: str, told: list[str]) -> None:
    (tmp_path / "rows.csv").touch()
    with pytest.raises(DataError) as error:
        resolve_path(f"{tmp_path}/{name}", "data.train.path")
    assert "data.train.path" in str(error.value)
    for piece in told:
        assert piece in str(error.value)


def test_shipped_paths_stay_inside() -> None:
    with pytest.raises(DataError, match="leads out of the shipped data"):
        resolve_path("shipped:../../recipes/quickstart.yaml")


@pytest.mark.parametrize(
    "address", ["s3://bucket/rows.csv", "memory://x", "HTTPS://host/x", "zip::s3://bucket/x.zip"]
)
def test_addresses_are_told_from_paths(address: str) -> None:
    assert is_address(address)
    with pytest.raises(DataError, match="is an address") as error:
        resolve_path(address, "data.train.path")
    assert "data.train.path" in str(error.value)


@pytest.mark.parametrize(
    "path", ["rows.csv", "/a/b", "C://rows.csv", "a::b.csv", "shipped:flags/flags.csv", "a//b", ""]
)
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_address(path)


@pytest.mark.parametrize("start", ["file://", "FILE://", "local://"])
def test_local_addresses_are_paths(tmp_path: Path, start: str) -> None:
    (tmp_path / "rows.csv").touch()
    assert not is_address(f"{start}{tmp_path}/rows.csv")
    assert resolve_path(f"{start}{tmp_path}/rows.csv") == tmp_path / "rows.csv"
