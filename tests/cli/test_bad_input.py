"""Bad input through the command line: status 2, one message that names place and cure, and nothing half-written."""

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_runs import picture_bytes, tiny_mapping, write_pictures

import finesight
from finesight.cli.main import run
from finesight.config.yaml import write

Rows = list[dict[str, str]]


class Place:
    """A table, a recipe over it, and the run's directory, all in one folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.table = write_pictures(folder / "table.csv", pairs=12)
        self.run = folder / "run"
        self.mapping = tiny_mapping(self.table, self.run)
        self.mapping["train"] |= {"max_steps": 1}
        self.mapping["evaluation"] = {
            "every": 1,
            "metrics": ["exact_match"],
            "resamples": 10,
            "max_samples": 1,
        }

    @property
    def recipe(self) -> Path:
        file = self.folder / "recipe.yaml"
        file.write_text(write(self.mapping), encoding="utf-8")
        return file

    def rows(self) -> Rows:
        with self.table.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    def change(self, number: int, **values: str) -> None:
        """Change row `number` (from 1) of the table."""
        rows = self.rows()
        rows[number - 1] |= values
        with self.table.open("w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, rows[0].keys())
            table.writeheader()
            table.writerows(rows)

    def train(self, *words: str, status: int = 2) -> str:
        """What `train` says on standard error, where it ends with `status`."""
        self._capsys.readouterr()
        assert run(["train", str(self.recipe), *words]) == status
        said = self._capsys.readouterr().err
        assert "Traceback" not in said
        assert ("error:" in said) == (status == 2)
        return re.sub(r"\s+", " ", said)

    def refused(self, *parts: str, **words: str) -> None:
        """`train` refuses, says each of `parts`, and leaves nothing that a second start would stumble over."""
        said = self.train(*words)
        for part in ("where:", "mend:", *parts):
            assert part in said, (part, said)
        left = {path.name for path in self.run.iterdir()} if self.run.is_dir() else set()
        assert left <= {"recipe.yaml", "log.txt", ".lock"}


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, capsys)


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def large_picture() -> bytes:
    """Few bytes of many pixels."""
    buffer = io.BytesIO()
    Image.new("1", (8000, 6000)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture_bytes("red", "blue", 40)
ROWS: dict[str, tuple[dict[str, str], str, str, str]] = {
    "broken base64": ({"image": "iVBORw0KGgo!AAAA"}, "image", "character 12, '!'", "encode the picture"),
    "base64 cut short": ({"image": as_text(PICTURE)[:61]}, "image", "cut short", "export it again"),
    "no picture": ({"image": as_text(b"these bytes are words, not a picture")}, "image", "picture", "PNG"),
    "cut picture": ({"image": as_text(PICTURE[:-30])}, "image", "picture", "row out"),
    "too large": ({"image": as_text(large_picture())}, "image", "8000 × 6000 pixels", "smaller"),
    "nothing": ({"image": ""}, "image", "there is no picture", "on_bad_row"),
    "missing picture file": ({"image": "pictures/a.png"}, "image", "there is no file", "correct the path"),
    "path that leads out": (
        {"image": "../a.png"},
        "image",
        "leads out of the folder",
        "put the file below",
    ),
    "empty caption": ({"answer": "  "}, "answer", "the answer is empty", "fill it in"),
    "empty question": ({"question": ""}, "question", "the question is empty", "fill it in"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row(place: Place, name: str) -> None:
    values, column, what, mend = ROWS[name]
    place.change(5, **values)
    place.refused(f"{place.table}, row 5, column `{column}`", what, mend)


@pytest.mark.parametrize("name", ["broken base64", "empty caption"])
def test_a_bad_row_in_a_folder(place: Place, name: str) -> None:
    values, column, what, _ = ROWS[name]
    rows = place.rows()
    rows[2] |= values
    (place.folder / "data").mkdir()
    (place.folder / "data/rows.json").write_text(json.dumps(rows))
    place.mapping["data"]["train"] = {"source": "folder", "path": str(place.folder / "data")}
    place.refused(f"{place.folder}/data/rows.json, row 3, column `{column}`", what)


def test_a_row_of_too_many_words(place: Place) -> None:
    place.change(4, answer="many words " * 90)
    place.refused(f"{place.table}, row 4", "tokens, the model takes 96", "shorten it")


def test_a_row_with_a_control_token(place: Place) -> None:
    place.change(4, answer="<image> of red")
    place.refused(f"{place.table}, row 4", "the answer contains `<image>`")


def test_a_broken_table(place: Place) -> None:
    text = place.table.read_text(encoding="utf-8")
    place.table.write_text(text + 'a,b,"c\n', encoding="utf-8")
    place.refused(f"{place.table}, row 13", "a quote is opened and not closed")
    place.table.write_text(text + "a,b\n", encoding="utf-8")
    place.refused(f"{place.table}, row 13", "2 fields, the header 4")
    place.table.write_text("", encoding="utf-8")
    place.refused(str(place.table), "the file is empty")


def test_a_missing_file(place: Place) -> None:
    place.mapping["data"]["train"]["path"] = str(place.folder / "tabel.csv")
    place.refused("tabel.csv` does not exist", "did you mean table.csv")


def test_missing_columns(place: Place) -> None:
    place.mapping["data"]["train"] |= {"columns": {"image": "picture", "answer": "answr"}, "tags": ["artist"]}
    place.refused(
        "3 things are wrong",
        "there is no column `picture`",
        "there is no column `answr`",
        "did you mean `answer`?",
        "there is no column `artist`",
        "it has `image`, `question`, `answer`, `kind`",
        str(place.table),
    )


def test_no_rows_left(place: Place) -> None:
    place.mapping["data"]["train"]["where"] = {"kind": "none"}
    place.refused("no rows are left for `data.train`", "`where` (kind: none)", str(place.table))


@pytest.mark.parametrize(
    ("split", "what"),
    [
        ({"split": {"column": "kind", "values": ["k9"]}}, "the split `val` is empty"),
        ({"split": {"column": "kind", "values": ["k0", "k1"]}}, "the split `train` is empty"),
        ({"split": {"column": "sort", "values": ["k0"]}}, "there is no column `sort`"),
    ],
)
def test_an_empty_split(place: Place, split: Mapping[str, Any], what: str) -> None:
    place.mapping["data"]["val"] = split
    place.refused(what, "data.val")


def test_all_mistakes_of_a_recipe_at_once(place: Place) -> None:
    place.mapping["train"] |= {"lr": -1.0, "batch_sise": 4}
    place.mapping["data"] |= {"on_bad_row": "ignore", "transforms": {"rotate": 270.0, "flip": "sideways"}}
    place.mapping["data"]["train"]["delimiter"] = ";;"
    place.refused(
        "train.lr",
        "train.batch_sise",
        "batch_size",
        "data.on_bad_row",
        "data.transforms.rotate",
        "data.transforms.flip",
        "data.train.delimiter",
    )
    assert not place.run.exists()


def test_a_mended_table_trains_in_the_same_place(place: Place) -> None:
    good = place.rows()[4]["image"]
    place.change(5, image="?")
    place.refused("row 5")
    place.change(5, image=good)
    place.train(status=0)
    results = (place.run / "results.json").read_bytes()
    assert "continue it with --resume" in place.train()  # and a run that exists is left as it is
    assert (place.run / "results.json").read_bytes() == results
    assert (place.run / "faults.csv").read_text(encoding="utf-8").splitlines() == ["file,row,column,reason"]


def test_skip_lists_what_it_left_out(place: Place) -> None:
    place.change(5, image="?")
    place.change(9, answer="")
    place.change(11, answer="many words " * 90)
    place.mapping["data"] |= {"on_bad_row": "skip", "bad_row_limit": 3}
    said = place.train(status=0)
    assert "rows that could not be used are listed in faults.csv" in said
    with (place.run / "faults.csv").open(encoding="utf-8", newline="") as stream:
        faults = list(csv.DictReader(stream))
    assert [(fault["file"], fault["row"], fault["column"]) for fault in faults] == [
        (str(place.table), "5", "image"),
        (str(place.table), "9", "answer"),
        (str(place.table), "11", ""),
    ]
    notices = json.loads((place.run / "notices.json").read_text(encoding="utf-8"))
    assert [notice["count"] for notice in notices if notice["kind"] == "dropped"] == [3]
    counts = json.loads((place.run / "environment.json").read_text(encoding="utf-8"))["data"]
    assert counts["train"]["samples"] + counts["val"]["samples"] == 9


def test_a_limit_on_bad_rows(place: Place) -> None:
    for number in (2, 5, 9):
        place.change(number, image="?")
    place.mapping["data"] |= {"on_bad_row": "skip", "bad_row_limit": 2}
    place.refused(
        "more than 2 rows are bad", *(f"{place.table}, row {number}" for number in (2, 5, 9)), "bad_row_limit"
    )


def test_nothing_but_bad_rows(place: Place) -> None:
    for number in range(1, 13):
        place.change(number, answer="")
    place.mapping["data"] |= {"on_bad_row": "skip"}
    place.refused("no rows are left for `data.train`: 12 are bad", "row 1: the answer is empty")


def test_a_dry_run_tells_the_same(place: Place) -> None:
    place.change(5, image="?")
    assert f"{place.table}, row 5, column `image`" in place.train("--dry-run")
    assert not place.run.exists()


def test_a_dry_run_names_the_command_that_follows(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(place.recipe), "train.lr=1e-3", "--dry-run"]) == 0
    assert f"Next:   finesight train {place.recipe} train.lr=1e-3\n" in capsys.readouterr().out


def test_a_process_of_its_own(place: Place) -> None:
    place.change(5, image="?")
    start = "from finesight.cli.main import main; main()"
    command = [sys.executable, "-c", start, "train", str(place.recipe), "--json"]
    source = str(Path(finesight.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=place.folder, env=environment
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert f"{place.table}, row 5, column `image`" in ended.stderr


SOURCES: dict[str, Callable[[], dict[str, Any]]] = {
    "base64 table with a prompt": lambda: {
        "source": "csv",
        "path": "shipped:flags/flags.csv",
        "columns": {"image": "b64string_images", "answer": "caption"},
        "prompt": "Describe the picture.",
        "group": "country",
        "max_samples": 24,
    },
    "folder with rows": lambda: {
        "source": "folder",
        "path": "shipped:things",
        "columns": {"answer": "name"},
        "prompt": "Which {kind} is it?",
        "tags": ["kind"],
        "max_samples": 24,
    },
}


@pytest.mark.parametrize("name", [*SOURCES, "captions beside pictures"])
def test_data_as_people_bring_it(place: Place, name: str) -> None:
    if name in SOURCES:
        place.mapping["data"]["train"] = SOURCES[name]()
    else:
        for number, colour in enumerate(["red", "green", "blue", "white", "yellow", "black"]):
            (place.folder / f"p/{number % 2}").mkdir(parents=True, exist_ok=True)
            (place.folder / f"p/{number % 2}/{number}.png").write_bytes(picture_bytes(colour, "red"))
            (place.folder / f"p/{number % 2}/{number}.txt").write_text(f"{colour} and red\n")
        place.mapping["data"]["train"] = {"source": "folder", "path": str(place.folder / "p")}
    place.train("--dry-run", status=0)
