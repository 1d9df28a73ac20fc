"""Spoken questions from end to end: training, resuming, evaluation, inspection, answers; with real speech."""

import base64
import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speech_files import LEVELS, hears_speech, level, pretend, spoken, whisper_folder
from tiny_runs import Watcher, essence, picture_bytes, rows, tiny_mapping

import finesight as fs
from finesight.cli.main import run
from finesight.config.load import parse_recipe
from finesight.core.errors import DataError, FinesightError, Interrupted
from finesight.data.sounds import ears as ears_module
from finesight.data.sounds.transcribe import open_transcriber
from finesight.workflows import train as workflow

SENTENCES = (
    "Which colours are in this flag?",
    "What is the name of the animal in this picture?",
    "Is there a red house on the left side of the street?",
    "How many people are standing in front of the door?",
    "Please describe the weather in one short sentence.",
)


def word_errors(said: str, heard: str) -> float:
    """Changed, missing and extra words by the number of words; capitals, marks and -our do not count."""
    one, two = (re.findall(r"[a-z']+", text.lower().replace("colour", "color")) for text in (said, heard))
    row = list(range(len(two) + 1))
    for at, word in enumerate(one, 1):
        before, row[0] = row[0], at
        for there, other in enumerate(two, 1):
            before, row[there] = row[there], min(before + (word != other), row[there] + 1, row[there - 1] + 1)
    return row[-1] / len(one)


def test_word_errors_are_counted() -> None:
    assert word_errors("a b c d", "a b c d") == 0
    assert word_errors("a b c d", "a x c") == 0.5
    assert word_errors("a b", "a b c") == 0.5


@hears_speech
def test_real_speech_is_heard_through_a_source(tmp_path: Path, clean_cache: Path, invoke: Any) -> None:
    lines = [{"audio": f"{at}.wav", "answer": "yes"} for at in range(4)]
    said = SENTENCES[:4]
    for at, sentence in enumerate(said):
        (tmp_path / f"{at}.wav").write_bytes(spoken(sentence))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mapping = tiny_mapping(tmp_path / "rows.jsonl", tmp_path / "run")
    mapping["data"] = {
        "train": {"source": "json", "path": str(tmp_path / "rows.jsonl")},
        "speech": {"model": str(whisper_folder()), "num_beams": 1},
    }
    mapping.pop("evaluation")
    samples = fs.load_data(mapping)["train"]
    errors = [word_errors(each, samples[at].prompt) for at, each in enumerate(said)]
    assert np.mean(errors) <= 0.2, [sample.prompt for sample in samples]
    told = json.loads(invoke("inspect", str(write(mapping, tmp_path)), "--json", "--sample", "2"))
    shown = told["shown"][0]["turns"][0]["parts"]
    assert shown == [samples[1].prompt]
    mapping["data"]["speech"]["timestamps"] = True
    timed = fs.load_data(mapping)["train"][1].prompt
    found = re.fullmatch(r"\[00:(\d\d\.\d\d) → 00:(\d\d\.\d\d)\] (.+)", timed)
    assert found and found[3] == samples[1].prompt
    assert 0 <= float(found[1]) < float(found[2]) <= len(spoken(SENTENCES[1])) / 2 / 22_050 + 1


def write(mapping: dict[str, Any], folder: Path) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(mapping))
    return file


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line: what it prints on standard output."""

    def call(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert run(words) == status, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def spoken_rows(folder: Path, count: int = 24) -> Path:
    """Rows with a picture, a spoken question about it and the answer: its left or its right colour."""
    lines = []
    for at in range(count):
        colours = [("red", "blue"), ("green", "white"), ("black", "yellow")][at % 3]
        number = (100, 200)[at // 3 % 2]
        (folder / f"{number}.wav").write_bytes(level(number))
        image = base64.b64encode(picture_bytes(*colours)).decode()
        answer = colours[number == 200]
        lines.append({"image": image, "audio": f"{number}.wav", "answer": answer, "kind": f"k{at % 2}"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


def spoken_mapping(data: Path, folder: Path, model: str) -> dict[str, Any]:
    mapping = tiny_mapping(data, folder)
    mapping["data"] = {
        "train": {"source": "json", "path": str(data), "tags": ["kind"]},
        "val": {"split": 0.25},
        "speech": {"model": model},
    }
    return mapping


@pytest.fixture(scope="module")
def spoken_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that learned from spoken questions, its folder, its recipe and the pretended speech model."""
    folder = tmp_path_factory.mktemp("spoken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINESIGHT_CACHE", str(folder / "cache"))
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        model, place = pretend(folder / "speech-model", patch)
        mapping = spoken_mapping(spoken_rows(folder), folder / "run", place)
        workflow.train(parse_recipe(mapping))
        yield folder, mapping, model


def test_a_run_learns_from_spoken_questions(spoken_run: Any) -> None:
    folder, _, model = spoken_run
    assert sorted(model.heard) == [100, 200]
    assert len(rows(folder / "run" / "metrics.jsonl")) > 12
    asked = {row["prompt"] for row in rows(folder / "run" / "predictions" / "val.jsonl")}
    assert asked <= {LEVELS[100], LEVELS[200]} and asked
    notices = json.loads((folder / "run" / "notices.json").read_text())
    assert "speech" in [notice["kind"] for notice in notices]


def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    spoken_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mapping, model = spoken_run
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    mapping = {**mapping, "run": {**mapping["run"], "dir": str(tmp_path / "run")}}
    stop = Watcher("step", 7, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        workflow.train(parse_recipe(mapping), observer=stop)
    workflow.train(parse_recipe(mapping), resume=True)
    assert essence(tmp_path / "run") == essence(folder / "run")
    assert len(model.loaded) == 1, "the words were kept"


def test_a_run_does_not_go_on_with_other_words(
    spoken_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, mapping, _ = spoken_run
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    mapping = {**mapping, "run": {**mapping["run"], "dir": str(tmp_path / "run")}}
    stop = Watcher("step", 7, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        workflow.train(parse_recipe(mapping), observer=stop)
    mapping["data"] = {**mapping["data"], "speech": {**mapping["data"]["speech"], "timestamps": True}}
    with pytest.raises(FinesightError, match=r"data\.speech|changed|other data"):
        workflow.train(parse_recipe(mapping), resume=True)


def test_an_evaluation_hears_as_the_training_did(spoken_run: Any, tmp_path: Path) -> None:
    folder, _, model = spoken_run
    before = len(model.heard)
    fs.evaluate(folder / "run", split="val", out=tmp_path, metrics=["exact_match"])
    own = (folder / "run" / "predictions" / "val.jsonl").read_bytes()
    assert (tmp_path / "predictions" / "val.jsonl").read_bytes() == own
    assert len(model.heard) == before


def test_an_inspection_shows_what_was_heard(spoken_run: Any, tmp_path: Path, invoke: Any) -> None:
    file = write(spoken_run[1], tmp_path)
    told = invoke("inspect", str(file), "--sample", "1", "--out", str(tmp_path / "out"))
    heard = next(text for text in (LEVELS[100], LEVELS[200]) if text in told)
    assert heard in (tmp_path / "out" / "samples.html").read_text()


def test_an_answer_to_a_spoken_question(spoken_run: Any, tmp_path: Path, invoke: Any) -> None:
    folder, _, _ = spoken_run
    picture, sound = tmp_path / "a.png", tmp_path / "question.wav"
    picture.write_bytes(picture_bytes("red", "blue"))
    sound.write_bytes(level(100))
    words = ["generate", str(folder / "run"), "--image", str(picture)]
    (spoken_one,) = json.loads(invoke(*words, "--audio", str(sound), "--json"))["answers"]
    (written,) = json.loads(invoke(*words, LEVELS[100], "--json"))["answers"]
    assert spoken_one == {**written, "heard": LEVELS[100]}
    assert spoken_one["prompt"] == LEVELS[100]
    assert invoke(*words, "--audio", str(sound)).strip() == written["answer"].strip()
    (beside,) = json.loads(invoke(*words, "--audio", str(sound), "In a word.", "--json"))["answers"]
    assert beside["prompt"] == f"{LEVELS[100]}\nIn a word."
    assert fs.generate(folder / "run", picture, audio=sound) == [spoken_one]
    (alone,) = fs.generate(folder / "run", audio=sound)
    assert (alone["image"], alone["prompt"]) == (None, LEVELS[100])


def test_a_run_without_speech_asks_for_a_speech_model(
    spoken_run: Any, finished_run: Path, tmp_path: Path, invoke: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, sound = tmp_path / "a.png", tmp_path / "question.wav"
    picture.write_bytes(picture_bytes("red", "blue"))
    sound.write_bytes(level(100))
    words = ["generate", str(finished_run), "--image", str(picture), "--audio", str(sound)]
    with pytest.raises(DataError, match="nothing says what transcribes the sound") as caught:
        fs.generate(finished_run, picture, audio=sound)
    assert "--speech-model" in caught.value.faults[0].mend
    named = spoken_run[1]["data"]["speech"]["model"]
    (answer,) = json.loads(invoke(*words, "--speech-model", named, "--json"))["answers"]
    assert answer["heard"] == answer["prompt"] == LEVELS[100]


def test_sounds_that_cannot_be_used_are_named(spoken_run: Any, tmp_path: Path) -> None:
    folder, _, _ = spoken_run
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    for name, what in (("broken.wav", "no sound that can be read"), ("none.wav", "the sound cannot be read")):
        with pytest.raises(DataError, match=what) as caught:
            fs.generate(folder / "run", audio=tmp_path / name)
        assert caught.value.faults[0].where == str(tmp_path / name)


def test_without_speech_the_error_names_the_key(spoken_run: Any, tmp_path: Path) -> None:
    _, mapping, _ = spoken_run
    data = {key: value for key, value in mapping["data"].items() if key != "speech"}
    mapping = {**mapping, "data": data, "run": {**mapping["run"], "dir": str(tmp_path / "run")}}
    with pytest.raises(DataError, match="this model takes no sounds") as caught:
        fs.train(mapping)
    assert "`data.speech.model`" in caught.value.faults[0].mend
    assert "rows.jsonl, row " in caught.value.faults[0].where


@hears_speech
def test_real_speech_asks_a_model(spoken_run: Any, tmp_path: Path) -> None:
    folder, _, _ = spoken_run
    sound = tmp_path / "question.wav"
    sound.write_bytes(spoken(SENTENCES[0]))
    picture = tmp_path / "a.png"
    picture.write_bytes(picture_bytes("red", "blue"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ears_module, "open_transcriber", open_transcriber)
        (answer,) = fs.generate(folder / "run", picture, audio=sound, speech_model=str(whisper_folder()))
    assert word_errors(SENTENCES[0], answer["heard"]) <= 0.2
