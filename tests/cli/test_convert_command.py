"""`finesight convert` as a person meets it."""

import json
from pathlib import Path

import pytest
from archives import write_csv_table

from finesight.cli.convert import _bytes
from finesight.cli.main import run
from finesight.core.errors import FinesightError


def test_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write_csv_table(tmp_path / "a.csv", 12), tmp_path / "out"
    assert (
        run(["convert", str(file), "--out", str(out), "--shard-rows", "5", "--jobs", "0", "tags=[kind]"]) == 0
    )
    told = capsys.readouterr().out
    assert f"Shards:   3 in {out}\n" in told
    assert "Rows:     12, with 12 pictures" in told
    assert f'Next:     in the recipe, `train: {{source: tar, path: "{out}", tags: [kind]}}`' in told
    assert (
        run(["convert", str(file), "--out", str(out), "--shard-rows", "5", "--jobs", "0", "tags=[kind]"]) == 0
    )
    assert "all of them were there, and whole" in capsys.readouterr().out


def test_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write_csv_table(tmp_path / "a.csv", 12), tmp_path / "out"
    assert run(["convert", str(file), "--to", "parquet", "--out", str(out), "--jobs", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["rows"], told["shards"], told["faults"]) == ("done", 12, 1, 0)
    assert told["read_back"] == {"source": "parquet", "path": str(out)}


def test_what_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_csv_table(tmp_path / "a.csv", 12)
    with open(file, "a") as stream:
        stream.write("bm8gcGljdHVyZQ==,caption,k1\n")
    out = str(tmp_path / "out")
    for words, told in (
        ([str(file), "--out", out, "--jobs", "0"], f"{file}, row 13, column `b64string_images`"),
        ([str(file)], "--out"),
        ([str(file), "--out", out, "--shard-size", "1GB", "--shard-rows", "7"], "both given"),
        ([str(file), "--out", out, "--shard-size", "much"], "`much` is no size"),
        ([str(tmp_path / "none.csv"), "--out", out], "does not exist"),
        ([str(file), "--out", out, "colums.answer=x"], "did you mean `columns`"),
        ([str(tmp_path / "none.yaml"), "--out", out], "no file"),
        ([str(file), "--out", out, "--to", "zip"], "zip"),
    ):
        assert run(["convert", *words]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error
    assert run(["convert", str(file), "--out", out, "--jobs", "0", "--on-bad-row", "skip"]) == 0
    assert f"Faults:   1 rows, listed in {out}/faults.csv" in capsys.readouterr().out


def test_sizes() -> None:
    sizes = {
        "512MB": 512 * 10**6,
        "1GiB": 1 << 30,
        "2gb": 2 * 10**9,
        "100": 100,
        "1.5 MiB": 3 << 19,
        "64k": 64_000,
    }
    assert {text: _bytes(text) for text in sizes} == sizes
    for text in ("", "MB", "-1MB", "1XB", "0", "1iB", "9" * 30):
        with pytest.raises(FinesightError, match="is no size"):
            _bytes(text)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(
        word in told for word in ("manifest.json", "--shard-size", "--on-bad-row", "source=coco", "Examples")
    )


def test_wrong_settings_that_wrote_nothing_do_not_stand_in_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_bytes("question,answer\nwhere?,Straße\n".encode("cp1252"))
    command = ["convert", str(tmp_path / "rows.csv"), "source=text", "--out", str(tmp_path / "shards")]
    assert run(command) == 2
    assert "encoding: cp1252" in capsys.readouterr().err
    assert run([*command, "encoding=cp1252"]) == 0
    assert run([*command, "encoding=latin-1"]) == 2
    assert "another conversion" in capsys.readouterr().err
