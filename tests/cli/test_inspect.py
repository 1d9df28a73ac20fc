"""`finesight inspect` through the command line: every class of fault, counts that add up, files, leaks."""

import base64
import csv
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import picture_bytes, tiny_mapping, write_pictures

from finesight.cli.main import run
from finesight.config.yaml import write
from finesight.workflows.tensors import read_table

Rows = list[dict[str, str]]
FILES = {"samples.html", "faults.csv", "twice.csv", "summary.json"}


class Place:
    """A table, a recipe over it and a folder for what an inspection writes."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.table, self.out = folder / "table.csv", folder / "out"
        write_pictures(self.table, pairs=14)
        self.rows = self.read(self.table)
        self.mapping = tiny_mapping(self.table, folder / "run")
        del self.mapping["data"]["transforms"], self.mapping["data"]["val"]
        self.said = ""

    @staticmethod
    def read(file: Path) -> Rows:
        with file.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    @property
    def data(self) -> dict[str, Any]:
        return self.mapping["data"]  # type: ignore[no-any-return]

    def recipe(self) -> Path:
        file = self.folder / "recipe.yaml"
        file.write_text(write(self.mapping), encoding="utf-8")
        if self.rows:
            with self.table.open("w", encoding="utf-8", newline="") as stream:
                table = csv.DictWriter(stream, self.rows[0].keys())
                table.writeheader()
                table.writerows(self.rows)
        return file

    def inspect(self, *words: str, status: int = 0) -> dict[str, Any]:
        """What `inspect --out` says as JSON; counts add up in the whole and in each split."""
        self._capsys.readouterr()
        command = ["inspect", str(self.recipe()), "--out", str(self.out), "--jobs", "0", "--json", *words]
        assert run(command) == status
        captured = self._capsys.readouterr()
        self.said = captured.err
        assert "Traceback" not in self.said
        assert ("error:" in self.said) == (status == 2)
        result = json.loads(captured.out)
        for part in (result, *result["splits"].values()):
            assert part["rows"] == part["samples"] + part["faults"]
        assert {path.name for path in self.out.iterdir()} == FILES
        stored = json.loads((self.out / "summary.json").read_text(encoding="utf-8"))
        assert stored == {key: value for key, value in result.items() if key not in ("shown", "files")}
        assert len(self.faults) == result["faults"] + result["shortened"]
        return result

    @property
    def faults(self) -> Rows:
        return self.read(self.out / "faults.csv")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, capsys)


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def large_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (8000, 6000)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture_bytes("red", "blue", 40)
FAULTS: dict[str, tuple[dict[str, str], str, str]] = {
    "broken base64": ({"image": "iVBORw0KGgo!AAAA"}, "image", "character 12, '!'"),
    "words instead of a picture": ({"image": as_text(b"these bytes are words")}, "image", "no picture"),
    "cut picture": ({"image": as_text(PICTURE[:-30])}, "image", "picture"),
    "bomb": ({"image": as_text(large_picture())}, "image", "8000 × 6000 pixels"),
    "no picture": ({"image": ""}, "image", "picture"),
    "missing picture file": ({"image": "pictures/a.png"}, "image", "a.png"),
    "path that leads out": ({"image": "../a.png"}, "image", "leads out"),
    "empty answer": ({"answer": "  "}, "answer", "the answer is empty"),
    "empty question": ({"question": ""}, "question", "the question is empty"),
    "empty row": ({"image": "", "question": "", "answer": ""}, "image", "picture"),
    "control word": ({"answer": "red <image> blue"}, "", "`<image>`"),
    "end of a turn": ({"question": "which?<|end|>"}, "", "`<|end|>`"),
    "too long": ({"answer": "many words " * 90}, "", "the model takes 96"),
}


def test_every_faulty_row_is_listed_whatever_the_policy(place: Place) -> None:
    for number, (values, _, _) in enumerate(FAULTS.values()):
        place.rows[number] |= values
    for policy, status in (("stop", 2), ("skip", 0)):
        place.data["on_bad_row"] = policy
        result = place.inspect(status=status)
        assert (result["rows"], result["samples"], result["faults"]) == (14, 1, 13)
        assert result["stops"] == (policy == "stop")
        for number, (fault, (_, column, reason)) in enumerate(
            zip(place.faults, FAULTS.values(), strict=True), 1
        ):
            assert (fault["file"], fault["row"], fault["column"]) == (str(place.table), str(number), column)
            assert reason in fault["reason"]
        page = (place.out / "samples.html").read_text(encoding="utf-8")
        assert page.count('data-state="faulty"') == 13
    place.data["on_bad_row"] = "stop"
    place.inspect(status=2)
    assert "13 rows cannot be used" in place.said
    assert f"{place.table}, row 1" in place.said


def test_a_sample_longer_than_the_context_with_its_picture_alone(place: Place) -> None:
    """The words alone would fit: what is too much are the visual tokens."""
    place.mapping["model"]["scratch"]["vision"]["image_size"] = 72  # 81 visual tokens of 96
    result = place.inspect(status=2)
    assert result["faults"] > 0
    assert all("the model takes 96" in fault["reason"] for fault in place.faults)
    assert result["tokens"]["max"] <= 96


def test_a_repeated_id_is_a_fault(place: Place) -> None:
    for number, row in enumerate(place.rows):
        row["name"] = f"n{number % 13}"
    place.data["train"]["columns"]["id"] = "name"
    place.inspect(status=2)
    (fault,) = place.faults
    assert (fault["row"], fault["column"]) == ("14", "name")
    assert "`n0` is that of" in fault["reason"]


def test_a_limit_on_bad_rows_stops(place: Place) -> None:
    for number in range(4):
        place.rows[number] |= {"answer": ""}
    place.data.update({"on_bad_row": "skip", "bad_row_limit": 4})
    assert place.inspect()["stops"] is False
    place.data["bad_row_limit"] = 3
    assert place.inspect(status=2)["stops"] is True
    assert "more than 3 rows are bad" in place.said
    assert run(["train", str(place.recipe()), "--dry-run"]) == 2


def test_no_row_left_stops_whatever_the_policy(place: Place) -> None:
    for row in place.rows:
        row["answer"] = ""
    place.data["on_bad_row"] = "skip"
    result = place.inspect(status=2)
    assert (result["rows"], result["samples"]) == (14, 0)
    assert "no rows are left" in place.said


def test_all_sources_that_cannot_be_opened_are_told_at_once(place: Place) -> None:
    place.data["val"] = {"source": "csv", "path": str(place.folder / "none.csv")}
    place.data["train"]["columns"]["answer"] = "answers"
    assert run(["inspect", str(place.recipe())]) == 2
    said = place._capsys.readouterr().err
    assert "2 things are wrong" in said
    assert "did you mean `answer`" in said
    assert "none.csv" in said


def test_what_train_would_see(place: Place) -> None:
    """Samples, tokens and splits are those of a run over the same recipe."""
    place.data["val"] = {"split": 0.3}
    result = place.inspect()
    assert run(["train", str(place.folder / "recipe.yaml")]) == 0
    facts = json.loads((place.folder / "run/environment.json").read_text())["data"]
    assert set(facts) == set(result["splits"]) == {"train", "val"}
    for name, part in result["splits"].items():
        assert part["samples"] == facts[name]["samples"]
        assert part["tokens"]["total"] == facts[name]["tokens"]
        assert part["supervised_tokens"] == facts[name]["supervised_tokens"]


def test_a_summary_has_percentiles_and_sizes(place: Place) -> None:
    place.rows[3]["image"] = as_text(picture_bytes("red", "green", 30))
    result = place.inspect()
    assert result["format"] == 1
    assert {
        "name",
        "rows",
        "samples",
        "faults",
        "left_out",
        "read",
        "context",
        "stops",
        "policy",
        "notices",
    } <= set(result)
    assert list(result["tokens"]) == [
        "total",
        "mean",
        "min",
        "p1",
        "p5",
        "p25",
        "p50",
        "p75",
        "p95",
        "p99",
        "max",
    ]
    assert 0 < result["supervised_share"] < 1
    assert result["pictures"]["count"] == 14
    assert (result["pictures"]["width"]["p50"], result["pictures"]["width"]["max"]) == (12, 30)
    assert result["pictures"]["aspect"]["max"] == 1
    assert sum(result["lengths"]["counts"]) == 14
    assert result["read"] == {"rows": 14, "of": 14}


def photo(number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture of its own: some rectangles on a slope of grey."""
    random = np.random.default_rng(number)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    for _ in range(7):
        x, y, width, height = random.integers(4, 30, 4).tolist()
        image.paste(tuple(random.integers(0, 255, 3).tolist()), (x, y, x + width, y + height))
    return image


def as_cell(image: Image.Image, form: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return as_text(buffer.getvalue())


def test_near_equal_pictures_across_splits_are_counted_and_a_group_mends_it(place: Place) -> None:
    """T44: the same photographs, saved again smaller and as JPEG, on both sides of a split by row."""
    place.rows = []
    for number in range(20):
        image = photo(number)
        again = image.resize((96, 80), Image.Resampling.BICUBIC)
        for copy in (as_cell(image), as_cell(again, "JPEG", quality=85)):
            place.rows.append(
                {
                    "image": copy,
                    "question": "what?",
                    "answer": f"answer {len(place.rows)}",
                    "kind": f"k{number}",
                }
            )
    place.data["val"] = {"split": 0.3}
    result = place.inspect()
    assert result["splits"]["val"]["samples"] == 12
    leaked = result["near_pictures"]["val/train"]
    assert leaked > 0
    within = result["near_pictures"]["train"] + result["near_pictures"]["val"]
    assert leaked + within == 20  # each second copy is in the other split, or beside its first one
    assert result["duplicates"] == {"train": 0, "val": 0, "val/train": 0}
    lines = place.read(place.out / "twice.csv")
    assert len(lines) == 20
    for line in lines:
        assert line["kind"] == "picture"
        assert (int(line["row"]) - 1) // 2 == (int(line["other_row"]) - 1) // 2
    page = (place.out / "samples.html").read_text(encoding="utf-8")
    assert f"{leaked} pictures of validation look the same as one in train." in page
    assert "the source’s group" in page
    place.data["train"]["group"] = "kind"
    result = place.inspect()
    assert result["near_pictures"]["val/train"] == 0
    assert result["near_pictures"]["train"] + result["near_pictures"]["val"] == 20


def test_duplicates_word_for_word(place: Place) -> None:
    for number, row in enumerate(place.rows):
        row |= {"image": as_cell(photo(number)), "answer": f"number {number}"}
    place.rows[5], place.rows[9] = dict(place.rows[2]), dict(place.rows[2])
    other = place.folder / "other.csv"
    with other.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, place.rows[0].keys())
        table.writeheader()
        table.writerows(place.rows[:1] + place.rows[2:3])
    place.data["val"] = {**place.data["train"], "path": str(other)}
    result = place.inspect()
    assert result["faults"] == 0
    assert result["duplicates"] == {"train": 2, "val": 0, "val/train": 2}
    lines = [line for line in place.read(place.out / "twice.csv") if line["kind"] == "sample"]
    assert [(line["split"], line["row"], line["other_split"], line["other_row"]) for line in lines] == [
        ("train", "6", "train", "3"),
        ("train", "10", "train", "3"),
        ("val", "1", "train", "1"),
        ("val", "2", "train", "3"),
    ]


def test_a_stated_sample_of_the_rows(place: Place) -> None:
    place.rows *= 5
    result = place.inspect("--rows", "7")
    assert result["read"] == {"rows": 7, "of": 70}
    assert result["rows"] == 7
    assert "Read were 7 of 70 rows" in (place.out / "samples.html").read_text(encoding="utf-8")


def test_rows_that_are_not_wanted_are_counted(place: Place) -> None:
    place.data["train"] |= {"where": {"kind": "k1"}, "max_samples": 3}
    place.rows[0] |= {"answer": ""}  # not wanted
    place.rows[3] |= {"answer": ""}
    place.rows[11] |= {"answer": ""}  # after the last that is needed
    place.data["on_bad_row"] = "skip"
    result = place.inspect()
    assert (result["samples"], result["faults"], result["left_out"]) == (3, 1, 4)
    assert result["read"] == {"rows": 8, "of": 14}
    assert [fault["row"] for fault in place.faults] == ["4"]


def test_samples_are_shown_by_number_id_and_split(place: Place) -> None:
    place.data["val"] = {"split": 0.3}
    shown = place.inspect("--sample", "2", "--sample", "1")["shown"]
    assert [(view["split"], view["number"]) for view in shown] == [("train", 2), ("train", 1)]
    wanted = shown[0]["id"]
    (view,) = place.inspect("--id", wanted)["shown"]
    assert (view["id"], view["number"]) == (wanted, 2)
    assert len(place.inspect("--split", "val", "--show", "2")["shown"]) == 2
    assert place.inspect("--show", "2")["shown"] == place.inspect("--show", "2")["shown"]
    for words, told in (
        (("--sample", "99"), "has no sample 99"),
        (("--id", "nobody"), "the id `nobody`"),
        (("--split", "test"), "there is no split `test`"),
        (("--sample", "0"), "--sample"),
    ):
        assert run(["inspect", str(place.recipe()), *words]) == 2
        assert told in place._capsys.readouterr().err


def test_the_screen_tells_what_is_learned(place: Place) -> None:
    place.rows[0] |= {"question": "Which [bold]colours[/bold]?", "answer": "red, blue"}
    place.rows[1] |= {"answer": ""}
    assert run(["inspect", str(place.recipe()), "--sample", "1", "--jobs", "0"]) == 2
    said = place._capsys.readouterr().out
    assert "12 × 12 → 16 × 16 as the model gets it" in said
    assert "Which [bold]colours[/bold]?" in said
    assert "<image>×4" in said
    learned = said[said.index("⟦") : said.index("⟧") + 1]
    assert learned.replace(" ", "") == "⟦red,·blue<|end|>⟧"
    assert "1 of 14 rows cannot be used." in said
    assert "the answer is empty" in said


def test_nothing_is_written_where_something_else_is(place: Place) -> None:
    place.out.mkdir()
    (place.out / "recipe.yaml").write_text("run: {name: x}")
    assert run(["inspect", str(place.recipe()), "--out", str(place.out)]) == 2
    assert "this is a run" in place._capsys.readouterr().err
    notes = place.folder / "notes.safetensors"
    notes.write_text("mine")
    for name, told in (
        ("notes.safetensors", "not a table that inspect wrote"),
        ("fed.txt", "`.txt` is no format"),
    ):
        assert run(["inspect", str(place.recipe()), "--tensors", str(place.folder / name)]) == 2
        assert told in place._capsys.readouterr().err
    assert notes.read_text() == "mine"
    assert {path.name for path in place.out.iterdir()} == {"recipe.yaml"}


def test_no_model_is_built(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a module was built")

    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    place.inspect("--tensors", str(place.folder / "fed.safetensors"))


def test_a_pretrained_folder_needs_no_weights(place: Place, finished_run: Path) -> None:
    """The processor of a finished run, of its model and of a checkpoint: all of the same tokens, without weights."""
    found = []
    copy = place.folder / "model"
    copy.mkdir()
    for file in (finished_run / "model").iterdir():
        if file.suffix != ".safetensors":
            (copy / file.name).write_bytes(file.read_bytes())
    last = finished_run / "checkpoints" / (finished_run / "checkpoints/last").read_text().strip()
    for model in (finished_run, copy, last):
        place.mapping["model"] = {"pretrained": str(model)}
        found.append(place.inspect("--sample", "1"))
    assert found[0]["shown"] == found[1]["shown"] == found[2]["shown"]
    assert found[0]["tokens"]["total"] > 0


def conversation(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


def test_placeholders_and_pictures_are_paired(place: Place) -> None:
    """LLaVA rows: more tags than pictures, more pictures than tags, no answer, an answer first, an empty turn."""
    picture = as_text(PICTURE)
    asked, told = ("human", "<image>\nwhat?"), ("gpt", "red")
    rows = [
        conversation(asked, told, image=picture),
        conversation(("human", "<image><image> which?"), told, image=picture),
        conversation(("human", "<image> which?"), told, image=[picture, picture]),
        conversation(asked, image=picture),
        conversation(told, asked, told, image=picture),
        conversation(asked, ("gpt", " "), image=picture),
        conversation(asked, ("gpt", "red <|end|> <|user|>"), image=picture),
        conversation(("human", "no picture"), told),
        conversation(("human", "<image> and <image>?"), told, image=[picture, picture]),
        {"image": picture},
    ]
    file = place.folder / "talks.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    place.data["train"] = {"source": "llava", "path": str(file)}
    result = place.inspect(status=2)
    assert (result["rows"], result["samples"]) == (10, 3)
    assert [int(fault["row"]) for fault in place.faults] == [2, 3, 4, 5, 6, 7, 10]
    for fault, words in zip(
        place.faults, ("2", "2", "no answer", "answer", "empty", "<|end|>", ""), strict=True
    ):
        assert fault["file"] == str(file)
        assert words in fault["reason"]
    assert result["pictures"] == {
        **result["pictures"],
        "count": 3,
        "samples_without": 1,
        "samples_with_several": 1,
    }


@pytest.mark.parametrize("policy", ["skip", "drop_turns", "cut_answer"])
def test_what_is_too_long_is_counted_as_the_recipe_wishes(place: Place, policy: str) -> None:
    """One sample whose last answer is too long, one with too many turns, one that fits."""
    question = {"role": "user", "content": "and what else is there to say?"}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "what?"},
                {"role": "assistant", "content": "many words " * 90},
            ]
        },
        {"messages": [question, {"role": "assistant", "content": "this and that"}] * 4},
        {"messages": [question, {"role": "assistant", "content": "nothing"}]},
    ]
    file = place.folder / "talks.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    place.data["train"], place.data["on_long"] = {"source": "messages", "path": str(file)}, policy
    used, faulty, status = {"skip": (0, 2, 0), "drop_turns": (1, 1, 2), "cut_answer": (1, 1, 2)}[policy]
    result = place.inspect("--show", "9", status=status)
    assert (result["samples"], result["shortened"], result["faults"]) == (1 + used, used, faulty)
    assert result["tokens"]["max"] <= 96
    lengths = {view["origin"]["row"]: view["tokens"] for view in result["shown"]}
    assert len(lengths) == 1 + used
    assert max(lengths.values()) == result["tokens"]["max"]
    page = (place.out / "samples.html").read_text(encoding="utf-8")
    assert ("left out from the start" in page) == (policy == "drop_turns")
    assert ("the answer is cut after" in page) == (policy == "cut_answer")


def test_pictures_of_turns_that_are_dropped_go_with_them(place: Place) -> None:
    turns = [
        ("human", "<image> what is there to be seen in this one?"),
        ("gpt", "this and that and more"),
    ] * 4
    file, tensors = place.folder / "talks.json", place.folder / "fed.safetensors"
    file.write_text(json.dumps([conversation(*turns, image=[as_text(PICTURE)] * 4)]), encoding="utf-8")
    place.data["train"], place.data["on_long"] = {"source": "llava", "path": str(file)}, "drop_turns"
    place.data["max_tokens"] = 60
    (shown,) = place.inspect("--tensors", str(tensors))["shown"]
    fed = read_table(tensors)
    left = len(shown["pictures"])
    assert 0 < left < 4
    assert (fed.pictures, len(fed.tensors["pixel_values"])) == ((left,), left)
    assert (fed.tensors["input_ids"] == 1).sum() == 4 * left  # visual tokens
    assert sum(turn["parts"].count(None) for turn in shown["turns"]) == left


def test_the_first_rows_of_a_stream(place: Place) -> None:
    with tarfile.open(place.folder / "shard.tar", "w") as tar:
        for number in range(9):
            files = {"png": PICTURE, "txt": b"" if number == 3 else f"answer {number}".encode()}
            for kind, data in files.items():
                member = tarfile.TarInfo(f"{number:04}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    columns = {"image": "png", "answer": "txt"}
    source = {"source": "tar", "path": str(place.folder / "shard.tar"), "columns": columns, "stream": True}
    place.data["train"], place.data["on_bad_row"] = {**source, "buffer": 5}, "skip"
    for words, rows, of in (((), 5, None), (("--rows", "7"), 7, None), (("--rows", "20"), 9, 9)):
        result = place.inspect(*words)
        assert result["read"] == {"rows": rows, "of": of}
        assert (result["rows"], result["faults"]) == (rows, 1)
        assert place.faults[0]["reason"] == "the answer is empty"
        page = (place.out / "samples.html").read_text(encoding="utf-8")
        assert (f"the first {rows} rows of a stream" in page) == (of is None)


def test_content_that_changed_under_its_size_and_time(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finesight.data.files.index._SMALL", 0)  # an index of small files, too, is kept
    recipe = place.recipe()
    long_ago = place.table.stat().st_mtime - 1000
    os.utime(place.table, (long_ago, long_ago))
    command = ["inspect", str(recipe), "--jobs", "0", "--show", "0", "--json"]
    assert run(command) == 0
    place.table.write_bytes(place.table.read_bytes().replace(b"green", b"greys"))
    os.utime(place.table, (long_ago, long_ago))
    capsys.readouterr()
    assert run(command) == 2
    told = capsys.readouterr().err
    assert "other content than when it was indexed" in told
    assert str(place.table) in told
    os.utime(place.table)
    assert run(command) == 0


def test_damaged_tables_never_end_in_a_traceback(place: Place, proof_factor: int) -> None:
    """T31: bytes of a table changed, lost and added: rows and faults add up, or the file is refused as a whole."""
    whole = place.recipe() and place.table.read_bytes()
    place.rows, seen = [], set[int]()
    place.data["on_bad_row"] = "skip"
    recipe = place.recipe()
    for seed in range(12 * proof_factor):
        random = np.random.default_rng(seed)
        data = bytearray(whole)
        for _ in range(random.integers(1, 30)):
            at = int(random.integers(len(data)))
            kind = random.integers(3)
            data[at : at + int(kind != 1)] = bytes(random.integers(0, 256, int(kind != 0), np.uint8))
        place.table.write_bytes(bytes(data))
        place._capsys.readouterr()
        status = run(["inspect", str(recipe), "--jobs", "0", "--show", "0", "--json"])
        said = place._capsys.readouterr()
        assert status in (0, 2), said.err
        assert "Traceback" not in said.err
        if said.out:
            result = json.loads(said.out)
            assert result["rows"] == result["samples"] + result["faults"] == result["read"]["rows"]
        else:
            assert str(place.table) in said.err
        seen.add(status)
    assert 0 in seen


@pytest.mark.slow
def test_worker_processes_find_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from finesight.data.inspection import surveys

    place.rows[3] |= {"answer": ""}
    place.rows[5] |= {"answer": "many words " * 90}
    place.data["val"] = {"split": 0.3}
    alone = place.inspect("--show", "2", status=2)
    in_workers = surveys.over_rows
    monkeypatch.setattr(surveys, "_MANY", 5)
    monkeypatch.setattr(
        surveys, "over_rows", lambda *given, **more: in_workers(*given, **{**more, "patience": 0, "chunk": 4})
    )
    assert place.inspect("--show", "2", "--jobs", "2", status=2) == alone
