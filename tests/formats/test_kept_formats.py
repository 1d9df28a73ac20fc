"""Files of each format and version that finesight has ever written: they load, and mean what they meant.

`tools/keep_formats.py` wrote them; docs/formats.md says when it does so again.
"""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from readings import PLACES, READINGS

from finesight.cli.main import run
from finesight.core.errors import DataError, FinesightError, RunError
from finesight.core.formats import FORMATS, Kind, check_format
from finesight.models.compose.modeling_finesight import FinesightLlavaConfig
from finesight.reports.tables import read

KEPT = Path(__file__).with_name("kept")
VERSIONS = sorted(
    (folder for folder in KEPT.iterdir() if folder.is_dir()), key=lambda folder: int(folder.name)
)
NUMBER = re.compile(rb'format(?:\\?")?: ?(\d+)')
"""The first number in a file, be it JSON, YAML, or metadata among binary data."""
TOLERANCE = 1e-5
"""Of losses and logits: other processors round them otherwise."""


def expected(version: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((version / "expected.json").read_text(encoding="utf-8"))
    return found


def alike(kept: Any, now: Any, at: str) -> None:
    """What was kept is there now; a newer finesight may say more."""
    if isinstance(kept, Mapping):
        assert kept.keys() <= now.keys(), at
        for key, value in kept.items():
            alike(value, now[key], f"{at}.{key}")
    elif isinstance(kept, list):
        assert len(kept) == len(now), at
        for number, (one, other) in enumerate(zip(kept, now, strict=True)):
            alike(one, other, f"{at}[{number}]")
    else:
        assert now == (pytest.approx(kept, abs=TOLERANCE) if isinstance(kept, float) else kept), at


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is kept; the working directory is a copy of it."""
    copy = tmp_path_factory.mktemp("kept") / "copy"
    shutil.copytree(request.param, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        yield request.param


@pytest.mark.parametrize("kind", READINGS)
def test_what_was_kept_loads_and_means_what_it_meant(version: Path, kind: Kind) -> None:
    wanted = expected(version)
    if kind in wanted["readings"]:  # formats that came later are in later folders
        alike(wanted["readings"][kind], json.loads(json.dumps(READINGS[kind]())), kind)


def test_every_format_of_today_is_kept() -> None:
    """A format that is new, or whose number rises, needs `tools/keep_formats.py`; nothing kept is ever taken away."""
    newest = VERSIONS[-1]
    assert expected(newest)["formats"] == FORMATS
    assert FORMATS.keys() == READINGS.keys() == PLACES.keys()
    for kind, places in PLACES.items():
        for place in places:
            found = NUMBER.search((newest / place).read_bytes())
            assert found is not None and int(found[1]) == FORMATS[kind], place
    assert [folder.name for folder in VERSIONS] == [str(number) for number in range(1, len(VERSIONS) + 1)]
    assert FORMATS["composed"] == FinesightLlavaConfig.finesight_format
    for version in VERSIONS:
        assert sum(file.stat().st_size for file in version.rglob("*") if file.is_file()) < 1_000_000


def test_git_has_all_of_them() -> None:
    """No rule of .gitignore takes a kept file away."""
    try:
        words = ["git", "-C", str(KEPT), "ls-files", "--others", "--ignored", "--exclude-standard", "."]
        told = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout of git")
    assert told.stdout == ""


READ_BACK = [(kind, place) for kind, places in PLACES.items() if kind != "inspection" for place in places]
READ_BACK = [(kind, place) for kind, place in READ_BACK if not place.endswith((".parquet", ".arrow"))]
"""All but the summary of an inspection, which nothing reads, and files whose metadata stand in several places."""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the newest kept files, to be changed; the working directory."""
    folder = Path(shutil.copytree(VERSIONS[-1], tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def renumber(file: Path, text: bytes) -> None:
    data = file.read_bytes()
    found = NUMBER.search(data)
    assert found is not None
    file.write_bytes(data[: found.start(1)] + text + data[found.end(1) :])


@pytest.mark.parametrize(("kind", "place"), READ_BACK, ids=lambda word: word.replace("/", "-"))
def test_what_a_newer_finesight_wrote_is_refused(copy: Path, kind: Kind, place: str) -> None:
    renumber(copy / place, b"9")  # as long as the number before, so that binary files stay whole
    with pytest.raises(FinesightError) as caught:
        READINGS[kind]()
    (fault,) = caught.value.faults
    assert (
        fault.what == f"this is format 9 of `{kind}`, and this finesight reads formats up to {FORMATS[kind]}"
    )
    assert Path(place).name in fault.where or str(Path(place).parent) in fault.where
    assert fault.mend == "it was made by a newer finesight: update finesight"
    assert caught.value.exit_status == 2


def test_a_newer_run_is_refused_at_every_door(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renumber(copy / "finished/environment.json", b"9")
    words = {
        "train": ["train", "finished/recipe.yaml", "--resume"],
        "evaluate": ["evaluate", "finished", "--split", "val"],
        "generate": ["generate", "finished", "--image", "picture.png", "Which?"],
        "export": ["export", "finished", "elsewhere"],
        "report": ["report", "finished"],
    }
    for name, line in words.items():
        assert run(line) == 2, name
        told = capsys.readouterr().err
        assert "format 9 of `run`" in told and "environment.json" in told and "update finesight" in told, name
        assert "Traceback" not in told


@pytest.mark.parametrize("kind", ["run", "adapter", "shards", "tensors"])
def test_a_number_that_is_always_written_is_missed(copy: Path, kind: Kind) -> None:
    place = copy / PLACES[kind][0]
    place.write_bytes(place.read_bytes().replace(b"format", b"Format", 1))
    with pytest.raises(FinesightError, match=f"of which format of `{kind}`|cannot be read"):
        READINGS[kind]()


def test_numbers_of_what_people_write_themselves_may_be_absent() -> None:
    check_format("recipe", None, "here", RunError, others=True)
    check_format("predictions", "png", "here", DataError, others=True)  # a column of theirs
    for written in (None, "1", 1.0, True, 0, -1):
        with pytest.raises(RunError, match="of which format of `run` it is"):
            check_format("run", written, "here", RunError)
    check_format("run", FORMATS["run"], "here", RunError)


@pytest.mark.parametrize("kind", ["recipe", "run", "predictions", "results", "plan"])
def test_a_report_refuses_what_is_newer_in_each_file(copy: Path, kind: Kind) -> None:
    (place,) = (place for place in PLACES[kind] if place.startswith("finished/"))
    renumber(copy / place, b"9")
    with pytest.raises(FinesightError, match=f"format 9 of `{kind}`") as caught:
        read(Path("finished"))
    assert Path(place).name in caught.value.faults[0].where


def test_a_newer_conversion_is_not_written_over(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renumber(copy / "shards/tar/manifest.json", b"9")
    before = {file: file.read_bytes() for file in (copy / "shards/tar").iterdir()}
    assert run(["convert", "recipe.yaml", "--out", "shards/tar", "--to", "tar"]) == 2
    assert "format 9 of `shards`" in capsys.readouterr().err
    after = {file: file.read_bytes() for file in (copy / "shards/tar").iterdir() if file.name != ".lock"}
    assert after == before


def test_the_table_of_the_docs_has_every_format() -> None:
    text = (KEPT.parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE))
    assert told == {kind: str(number) for kind, number in FORMATS.items()}


def test_the_kept_files_are_no_part_of_the_package() -> None:
    root = KEPT.parents[2]
    about = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert about["tool"]["setuptools"]["packages"]["find"]["where"] == ["src"]
    assert not (root / "MANIFEST.in").exists()
