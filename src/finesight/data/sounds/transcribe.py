"""Speech models behind one small protocol: samples in, stretches of speech out.

Both decode without chance (temperature 0), so that the same sound gives the same words; each half minute stands alone,
since a model that is shown its own words of before may repeat them for ever.

S samples at 16,000 a second.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np

from finesight.config.speech import Speech
from finesight.core.errors import ModelError
from finesight.runtime.cachedir import checksum_of
from finesight.runtime.quiet import no_progress_bars

Backend = Literal["faster-whisper", "transformers"]

_WHERE: Final = "data.speech.model"
_INSTALL: Final = "pip install 'finesight[audio]'"
_FILES: Final[Mapping[Backend, tuple[str, ...]]] = {
    "faster-whisper": (
        *("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*"),
    ),
    "transformers": ("*.json", "*.txt", "*.safetensors"),
}
"""Files that a model is loaded from."""
_WEIGHTS: Final[Mapping[Backend, str]] = {"faster-whisper": "model.bin", "transformers": "*.safetensors"}

_log = logging.getLogger("finesight")


@dataclass(frozen=True)
class Stretch:
    """Words that were said from `begin` to `end`, in seconds, with the blanks that part them from those before."""

    begin: float
    end: float
    text: str


class Transcriber(Protocol):
    """A loaded speech model."""

    def __call__(self, samples: np.ndarray) -> Sequence[Stretch]:
        """What is said in the samples, float32 (S,). Raises RuntimeError where the device fails."""


@dataclass(frozen=True)
class SpeechModel:
    """A speech model that is not loaded yet: its folder, what runs it, and a checksum of its files."""

    folder: Path
    backend: Backend
    checksum: str


def find_speech_model(speech: Speech) -> SpeechModel:
    """The model that the settings name, fetched where it is a name; raises ModelError where there is none."""
    place = Path(speech.model).expanduser()
    if place.is_dir():
        backend = _backend_of(place) if speech.backend == "auto" else speech.backend
        folder = place
    else:
        backend = "faster-whisper" if speech.backend == "auto" else speech.backend
        if place.exists() or place.is_absolute() or speech.model.startswith((".", "~")):
            raise ModelError("there is no such folder", f"{_WHERE}: {speech.model}", "correct the path")
        folder = _fetched(speech.model, backend)
    if not list(folder.glob(_WEIGHTS[backend])):
        what = f"the folder holds no {_WEIGHTS[backend]}, which {backend} loads"
        mend = "name another folder; `data.speech.backend` says what runs it"
        raise ModelError(what, f"{_WHERE}: {speech.model}", mend)
    files = {file for pattern in _FILES[backend] for file in folder.glob(pattern) if file.is_file()}
    told = "\0".join(f"{file.name} {checksum_of(file)}" for file in sorted(files))
    return SpeechModel(folder, backend, hashlib.blake2b(told.encode(), digest_size=16).hexdigest())


def _backend_of(folder: Path) -> Backend:
    return "faster-whisper" if (folder / "model.bin").exists() else "transformers"


def _fetched(name: str, backend: Backend) -> Path:
    """The folder of a model of the hub: the one that was fetched before, so that a run goes on with what it began with;
    else it is fetched now.
    """
    try:
        if backend == "faster-whisper":
            from faster_whisper.utils import download_model

            fetch: Callable[..., str] = download_model
        else:
            from huggingface_hub import snapshot_download

            fetch = partial(snapshot_download, allow_patterns=list(_FILES[backend]))
        with suppress(FileNotFoundError):
            folder = Path(fetch(name, local_files_only=True))
            if list(folder.glob(_WEIGHTS[backend])):
                return folder
        _log.info("fetching the speech model %s", name)
        return Path(fetch(name))
    except ImportError as error:
        raise _not_installed(error) from error
    except ValueError as error:
        mend = "name a folder, a size that faster-whisper knows, or a hub id such as `Systran/faster-whisper-small`"
        raise ModelError(f"there is no such speech model: {error}", f"{_WHERE}: {name}", mend) from error
    except Exception as error:  # whatever the hub's client and the network raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        mend = "download it elsewhere, and name its folder"
        raise ModelError(f"the speech model cannot be fetched: {said}", f"{_WHERE}: {name}", mend) from error


def _not_installed(error: ImportError) -> ModelError:
    return ModelError(f"sounds are transcribed by faster-whisper: {error}", "data.speech", _INSTALL)


def open_transcriber(speech: Speech, model: SpeechModel) -> Transcriber:
    """Load a speech model; raises ModelError where it cannot be."""
    _log.info("loading the speech model %s (%s)", speech.model, model.backend)
    return _OPEN[model.backend](speech, model.folder)


class _FasterWhisper:
    def __init__(self, speech: Speech, folder: Path) -> None:
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise _not_installed(error) from error
        _check_device(speech, ctranslate2.get_cuda_device_count() > 0)
        level = ctranslate2.get_log_level()
        ctranslate2.set_log_level(
            logging.ERROR
        )  # it warns that a CPU computes in fp32 what is stored in fp16
        try:
            self._model = WhisperModel(str(folder), device=speech.device, local_files_only=True)
        except (RuntimeError, ValueError, OSError) as error:
            raise _unloadable(speech, error) from error
        finally:
            ctranslate2.set_log_level(level)
        _check_language(speech, self._model.supported_languages)
        self._speech = speech

    def __call__(self, samples: np.ndarray) -> Sequence[Stretch]:
        segments, _ = self._model.transcribe(
            samples,
            language=self._speech.language,
            beam_size=self._speech.num_beams,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return [Stretch(segment.start, segment.end, segment.text) for segment in segments]


class _Pipeline:
    def __init__(self, speech: Speech, folder: Path) -> None:
        import torch
        from transformers import (
            AutomaticSpeechRecognitionPipeline,
            WhisperForConditionalGeneration,
            WhisperProcessor,
        )

        _check_device(speech, torch.cuda.is_available())
        cuda = torch.cuda.is_available() and speech.device != "cpu"
        try:
            processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
            with no_progress_bars():
                model, info = WhisperForConditionalGeneration.from_pretrained(
                    folder,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float16 if cuda else torch.float32,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise _unloadable(speech, error) from error
        wrong = sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"]))
        if wrong:
            raise _unloadable(speech, ValueError(f"it lacks weights of Whisper, such as {wrong[0]}"))
        own = model.generation_config
        self._asked: dict[str, Any] = {
            "num_beams": speech.num_beams,
            "temperature": 0.0,
            "condition_on_prev_tokens": False,
        }
        if own.is_multilingual:
            _check_language(speech, [name.strip("<|>") for name in own.lang_to_id])
            self._asked |= {"task": "transcribe", "language": speech.language}
        else:
            _check_language(speech, ["en"])
        self._pipeline = AutomaticSpeechRecognitionPipeline(
            model=model.eval(),
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
            device="cuda" if cuda else "cpu",
        )

    def __call__(self, samples: np.ndarray) -> Sequence[Stretch]:
        found = self._pipeline(samples, return_timestamps=True, generate_kwargs=dict(self._asked))
        last = len(samples) / 16_000
        return [
            Stretch(begin or 0.0, last if end is None else end, chunk["text"])
            for chunk in found["chunks"]
            for begin, end in (chunk["timestamp"],)
            # where two windows meet there may be one of no words that ends before it begins
            if chunk["text"].strip()
        ]


def _check_device(speech: Speech, cuda: bool) -> None:
    if speech.device == "cuda" and not cuda:
        where = "data.speech.device: cuda"
        raise ModelError("the speech model finds no CUDA device", where, "set it to auto or cpu")


def _check_language(speech: Speech, known: Sequence[str]) -> None:
    if speech.language is not None and speech.language not in known:
        few = ", ".join(sorted(known)) if len(known) <= 20 else f"{len(known)} others, but not this one"
        mend = "take it out, or use a model of many languages, such as `small` instead of `small.en`"
        raise ModelError(f"the speech model knows {few}", f"data.speech.language: {speech.language}", mend)


def _unloadable(speech: Speech, error: Exception) -> ModelError:
    said = next(iter(str(error).splitlines()), type(error).__name__)
    mend = "check that the folder is a whole Whisper model of this kind"
    return ModelError(f"the speech model cannot be loaded: {said}", f"{_WHERE}: {speech.model}", mend)


_OPEN: Final[Mapping[Backend, Callable[[Speech, Path], Transcriber]]] = {
    "faster-whisper": _FasterWhisper,
    "transformers": _Pipeline,
}
