"""What is in the source tree is in the package, too."""

import tomllib
from pathlib import Path

import finesight

ROOT = Path(__file__).parents[2]


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_file_beside_the_code_is_packaged() -> None:
    source = ROOT / "src" / "finesight"
    patterns = project()["tool"]["setuptools"]["package-data"]["finesight"]  # type: ignore[index]
    packaged = {file for pattern in patterns for file in source.glob(pattern)}
    there = {file for file in source.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert there - packaged == set()


def test_every_folder_of_code_is_a_package() -> None:
    folders = {file.parent for file in (ROOT / "src" / "finesight").rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_one_version() -> None:
    assert project()["project"]["version"] == finesight.__version__  # type: ignore[index]


def test_every_direct_dependency_has_a_pinned_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines}
    about = project()["project"]
    wanted = [*about["dependencies"], *about["optional-dependencies"]["dev"]]  # type: ignore[index]
    names = {word.partition(">=")[0].lower() for word in wanted}
    assert {name.replace("-", "_") for name in names} <= {name.replace("-", "_") for name in pinned}
