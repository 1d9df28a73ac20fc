"""From a sound to its words: those that are kept, else what the speech model hears."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from filelock import FileLock, Timeout

from finesight.config.speech import Speech
from finesight.core.errors import DataError, ModelError
from finesight.data.sounds.decode import RATE, SoundLimits, decode_sound
from finesight.data.sounds.journal import FORMAT, Journal, Transcript, text_of
from finesight.data.sounds.transcribe import SpeechModel, Transcriber, find_speech_model, open_transcriber
from finesight.runtime.cachedir import NoCache, cache_folder
from finesight.runtime.notices import Notices

_KIND: Final = "transcripts"
_FORM: Final = 1
"""To be counted up with what finesight itself decides about the words of a sound."""

_log = logging.getLogger("finesight")


class Ears:
    """The speech model of a recipe, loaded when a sound is met whose words are not kept.

    One process listens at a time with the same model and settings: others wait, and find the words written down.
    """

    def __init__(self, speech: Speech) -> None:
        self.speech = speech
        self.listened = 0
        self._lock: FileLock | None = None
        self._tick: Callable[[int], object] = bool
        self._notices = Notices()
        self._held = False

    @cached_property
    def model(self) -> SpeechModel:
        """The model's files; raises ModelError where there are none."""
        return find_speech_model(self.speech)

    @property
    def name(self) -> str:
        """The model as messages call it."""
        return f"{self.speech.model} ({self.model.backend})"

    @cached_property
    def identity(self) -> str:
        """Changes with the model and with every setting that may change a word or which sounds are let in."""
        told = {
            **self._settings,
            "timestamps": self.speech.timestamps,
            "max_seconds": self.speech.max_seconds,
        }
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What the words of a sound depend on beside the sound."""
        return {
            "form": _FORM,
            "model": self.model.checksum,
            "backend": self.model.backend,
            "language": self.speech.language,
            "num_beams": self.speech.num_beams,
        }

    @cached_property
    def _journal(self) -> Journal:
        try:
            place = cache_folder(_KIND, json.dumps([FORMAT, self._settings], sort_keys=True))
        except NoCache as error:
            self._do_without(error)
            return Journal(None, self._settings)
        journal = Journal(place.with_name(f"{place.name}.jsonl"), self._settings)
        self._read(journal)
        return journal

    @cached_property
    def _transcriber(self) -> Transcriber:
        return open_transcriber(self.speech, self.model)

    @contextmanager
    def at_work(self, tick: Callable[[int], object] = bool, notices: Notices | None = None) -> Iterator[None]:
        """Listen to several sounds; at the end other processes may. `tick` may raise to stop a wait for them."""
        self._tick, self._notices, before = tick, notices or self._notices, self.listened
        try:
            yield
        finally:
            if self._lock is not None:
                self._lock.release()
            self._lock, self._held = None, False
            if self.listened > before:
                _log.info("%s sounds were transcribed by %s", f"{self.listened - before:,}", self.name)

    def words(self, data: bytes, where: str) -> str:
        """What is said in a sound file; raises DataError at `where` for one without words, or that is not let in."""
        sound = hashlib.blake2b(data, digest_size=16).hexdigest()
        transcript = self._journal.get(sound) or self._listen(data, sound, where)
        if transcript.seconds > self.speech.max_seconds:
            mend = "cut it into pieces, raise `data.speech.max_seconds`, or leave the row out"
            raise DataError(f"the sound is longer than {self.speech.max_seconds:g} seconds", where, mend)
        text = text_of(transcript.stretches, self.speech.timestamps)
        if not text:
            mend = "listen to it; another `data.speech.model` may hear more, else leave the row out"
            raise DataError("the speech model hears no words in the sound", where, mend)
        return text

    def _listen(self, data: bytes, sound: str, where: str) -> Transcript:
        samples = decode_sound(data, where, SoundLimits(seconds=self.speech.max_seconds))
        self._wait_for_others()
        found = self._journal.get(sound)
        if found is None:
            transcriber = self._transcriber
            try:
                found = Transcript(round(len(samples) / RATE, 3), tuple(transcriber(samples)))
            except RuntimeError as error:  # no memory, or libraries of the GPU that are not there
                said = next(iter(str(error).splitlines()), "RuntimeError")
                mend = "free some memory, or set `data.speech.device: cpu`"
                raise ModelError(f"the speech model cannot go on: {said}", where, mend) from error
            self.listened += 1
            try:
                self._journal.add(sound, found)
            except OSError as error:
                self._do_without(error)
        return found

    def _wait_for_others(self) -> None:
        """Hold the journal, and know all that others wrote."""
        file = self._journal.file
        if self._held or file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(file.with_suffix(".lock"), timeout=0, fallback_to_soft=False)
            self._acquire(lock)
            self._lock = lock
        except NotImplementedError:  # a file system without locks: two at once write the same words
            pass
        except OSError as error:
            self._do_without(error)
        self._held = True
        self._read(self._journal)

    def _acquire(self, lock: FileLock) -> None:
        said = False
        while True:
            try:
                lock.acquire()
                return
            except Timeout:
                if not said:
                    _log.info("another process transcribes with %s: waiting for it", self.name)
                said = True
                self._tick(0)
                time.sleep(0.1)

    def _read(self, journal: Journal) -> None:
        try:
            journal.read()
        except OSError as error:
            self._do_without(error)
            journal.file = None

    def _do_without(self, error: Exception) -> None:
        told = "transcripts cannot be kept, so the sounds will be transcribed anew by the next run"
        self._notices.add("fallback", f"{told}: {error}")
