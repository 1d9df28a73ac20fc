"""A model that hears, by the commands: it learns to tell tones apart, answers, is resumed, and says what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Watcher, essence, picture_bytes
from tones import HEIGHTS, QUESTION, as_wav, tone, tone_mapping, tone_rows

import finesight as fs
from finesight.cli.main import run as command
from finesight.config.load import parse_recipe
from finesight.core.errors import FinesightError, Interrupted
from finesight.workflows.train import train


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tone_rows(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def heard(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned to tell tones apart."""
    folder = tmp_path_factory.mktemp("hearing")
    (folder / "recipe.yaml").write_text(json.dumps(tone_mapping(rows, folder / "run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        assert command(["train", str(folder / "recipe.yaml")]) == 0
    return folder / "run"


def test_tones_are_told_apart(heard: Path) -> None:
    """Chance is 1/3; measured: 1.0 with the seeds 3 and 4."""
    (score,) = json.loads((heard / "results.json").read_text())["scores"]
    assert (score["name"], score["count"]) == ("exact_match", 15) and score["value"] >= 0.7
    counts = json.loads((heard / "environment.json").read_text())["parameters"]
    assert counts["audio_tower"]["trainable"] > 0 and counts["audio_projector"]["trainable"] > 0
    assert counts["vision_tower"]["trainable"] == 0
    names = {"modeling_finesight.py", "processing_finesight.py"}
    assert names <= {path.name for path in (heard / "model").iterdir()}


def test_it_is_asked_by_the_command(heard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = 0
    (tmp_path / "a.png").write_bytes(picture_bytes("red", "blue"))
    for name, hertz in HEIGHTS.items():
        (tmp_path / "a.wav").write_bytes(as_wav(tone(hertz, 0.6, 99)))
        for image in ([], ["--image", str(tmp_path / "a.png")]):
            capsys.readouterr()
            words = ["generate", str(heard), QUESTION, "--audio", str(tmp_path / "a.wav"), *image, "--json"]
            assert command(words) == 0
            (told,) = json.loads(capsys.readouterr().out)["answers"]
            right += told["answer"] == name
    assert right >= 4


def test_too_long_a_sound_is_told(heard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.wav").write_bytes(as_wav(tone(300, 1.5)))
    assert command(["generate", str(heard), QUESTION, "--audio", str(tmp_path / "long.wav")]) == 2
    told = capsys.readouterr().err
    assert "longer than 1 seconds" in told and "long.wav" in told and "Traceback" not in told


def test_it_is_evaluated_again(heard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command(["evaluate", str(heard), "--split", "val", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kept = json.loads((heard / "results.json").read_text())["scores"]
    assert [score["value"] for score in told["scores"]] == [score["value"] for score in kept]


def test_inspection_shows_them(heard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command(["inspect", str(heard / "recipe.yaml"), "--json"]) == 0
    (shown,) = (one for one in json.loads(capsys.readouterr().out)["shown"] if one["pictures"])
    assert shown["turns"][0]["parts"] == [None, "[sound] ", QUESTION]
    counts = {piece["kind"]: piece["count"] for piece in shown["pieces"] if piece["count"] > 1}
    assert counts["picture"] == 4 and 2 <= counts["sound"] <= 5


def _short(rows: Path, folder: Path) -> dict[str, Any]:
    mapping = tone_mapping(rows, folder)
    mapping["data"]["train"]["max_samples"] = 24
    mapping["train"] |= {"max_steps": 4, "batch_size": 6}
    mapping["evaluation"] |= {"every": 4, "max_samples": 2}
    return mapping


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
    train(parse_recipe(_short(rows, tmp_path / "whole")))
    recipe = parse_recipe(_short(rows, tmp_path / "run"))

    def stop() -> None:
        raise Interrupted("stopped", "here", "go on")

    with pytest.raises(Interrupted):
        train(recipe, observer=Watcher("step", 2, stop))
    train(recipe, resume=True)
    ours, theirs = essence(tmp_path / "run"), essence(tmp_path / "whole")
    for name in ours:
        if name != "results":
            assert ours[name] == theirs[name], name


def test_bad_sounds_are_bad_rows(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        (tmp_path / f"{number}.wav").write_bytes(as_wav(tone(300, 1.5 if number == 4 else 0.4)))
    lines = [{"audio": f"{number}.wav", "question": "How?", "answer": "low"} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mapping = _short(tmp_path / "rows.jsonl", tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(json.dumps(mapping))
    assert command(["train", str(tmp_path / "recipe.yaml")]) == 2
    told = capsys.readouterr().err
    assert "longer than 1 seconds" in told and "rows.jsonl, row 5" in told and "Traceback" not in told
    mapping["model"]["compose"].pop("audio")
    with pytest.raises(FinesightError, match="this model takes no sounds") as caught:
        fs.train(mapping)
    assert "model.compose.audio" in str(caught.value)
