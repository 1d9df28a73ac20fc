"""Both backends on the same Whisper: real speech, long sounds, times; what transformers alone would say."""

from pathlib import Path

import numpy as np
import pytest
from speech_files import hears_speech, spoken, whisper_folder
from test_spoken_runs import SENTENCES, word_errors

from finesight.config.speech import Speech
from finesight.core.errors import ModelError
from finesight.data.sounds.decode import decode_sound
from finesight.data.sounds.ears import Ears
from finesight.data.sounds.journal import text_of
from finesight.data.sounds.transcribe import find_speech_model, open_transcriber

pytestmark = hears_speech


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from whisper_in_transformers import write_whisper

    place, source = tmp_path_factory.mktemp("whisper"), whisper_folder()
    assert source is not None
    write_whisper(source, place)
    return place


@pytest.fixture(scope="module")
def long() -> np.ndarray:
    """Thirty-five seconds: more than Whisper sees at once."""
    pause = np.zeros(16_000, np.float32)
    parts = [part for each in SENTENCES * 3 for part in (decode_sound(spoken(each), each), pause)]
    return np.concatenate(parts)[: 35 * 16_000]


def test_transformers_hears_as_faster_whisper_does(folder: Path, clean_cache: Path) -> None:
    speech = Speech(model=str(folder), num_beams=1)
    assert find_speech_model(speech).backend == "transformers"
    ears = Ears(speech)
    with ears.at_work():
        heard = [ears.words(spoken(said), said) for said in SENTENCES[:2]]
    assert np.mean([word_errors(*pair) for pair in zip(SENTENCES[:2], heard, strict=True)]) <= 0.2, heard
    other = Ears(Speech(model=str(whisper_folder())))
    assert other.identity != ears.identity


def test_its_words_are_those_of_plain_transformers(folder: Path) -> None:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    samples = decode_sound(spoken(SENTENCES[3]), "here")
    processor = WhisperProcessor.from_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    features = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    tokens = model.generate(features, num_beams=2, return_timestamps=True)
    (plain,) = processor.batch_decode(tokens, skip_special_tokens=True)
    speech = Speech(model=str(folder), num_beams=2)
    own = open_transcriber(speech, find_speech_model(speech))
    assert text_of(own(samples), timestamps=False) == plain.strip()


@pytest.mark.parametrize("backend", ["faster-whisper", "transformers"])
def test_a_long_sound_is_heard_to_its_end(folder: Path, long: np.ndarray, backend: str) -> None:
    place = whisper_folder() if backend == "faster-whisper" else folder
    speech = Speech(model=str(place), num_beams=1)
    stretches = open_transcriber(speech, find_speech_model(speech))(long)
    begins = [stretch.begin for stretch in stretches]
    assert begins == sorted(begins) and begins[-1] > 28
    assert all(0 <= stretch.begin <= stretch.end <= 61 for stretch in stretches)
    heard = text_of(stretches, timestamps=False)
    assert word_errors(" ".join((SENTENCES * 3)[:11]), heard) <= 0.3, heard


def test_folders_that_are_not_whole_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    part = shutil.copytree(folder, tmp_path / "part")
    weights = load_file(part / "model.safetensors")
    weights.pop("model.encoder.conv1.weight")
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    speech = Speech(model=str(part))
    with pytest.raises(ModelError, match=r"lacks weights of Whisper.*conv1"):
        open_transcriber(speech, find_speech_model(speech))
    speech = Speech(model=str(folder), language="de")
    with pytest.raises(ModelError, match="the speech model knows en"):
        open_transcriber(speech, find_speech_model(speech))
    with pytest.raises(ModelError, match=r"holds no model\.bin"):
        find_speech_model(Speech(model=str(folder), backend="faster-whisper"))
