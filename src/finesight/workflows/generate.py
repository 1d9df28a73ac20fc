"""Answer a question about pictures from the shell: a written one, or a spoken one."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from finesight.config.loading import Load
from finesight.config.recipe import Recipe
from finesight.config.speech import Speech
from finesight.config.train import Generation
from finesight.core.errors import DataError
from finesight.core.sample import Audio, Image, Message, Origin, Part, Sample, Text
from finesight.data.samples import DEFAULT_PROMPT
from finesight.data.sounds.ears import Ears
from finesight.data.sounds.hearing import with_words
from finesight.generation.predict import answer_all
from finesight.models.decoding import decoding
from finesight.models.load import Reading
from finesight.models.spread import settle
from finesight.runtime.device import choose_device
from finesight.runtime.notices import Notices
from finesight.workflows.held import held, say_held
from finesight.workflows.places import find_model

_log = logging.getLogger("finesight")

_TOGETHER = 16
"""Pictures that are answered together."""


def generate(
    model_or_run: str,
    images: Sequence[Path],
    question: str | None,
    *,
    audio: Path | None = None,
    speech_model: str | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    load: Load | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Answers of a model to one question about each picture: a list of {`image`, `prompt`, `answer`}.

    A model that hears gets `audio` as it is, after the picture, unless its run has `data.speech` or a `speech_model` is
    named. Else what is said in it is the question, or stands before it, as in training; each answer then has `heard`,
    too. The sound is transcribed as the run says, or by `speech_model`. Without pictures there is one answer, with
    `image` None. Without any question the run's own prompt is asked. `load` says in which numbers and on which devices
    the model is held, `settings` are keys of the recipe's `generation` section. Raises DataError for a file that is no
    picture or sound, naming it; ModelError or RunError where a model cannot be loaded.
    """
    pictures = [(path, _read(path, "picture")) for path in images]
    sound = None if audio is None else _read(audio, "sound")
    notices = Notices()
    place = choose_device(device, notices)
    found = find_model(model_or_run, Reading(load=load or Load(), device=place.type))
    heard: str | None = None
    written = speech_model is not None or (found.recipe is not None and found.recipe.data.speech is not None)
    hears = found.loaded.ports.sound is not None and not written
    if audio is not None and sound is not None and not hears:
        heard = _heard(sound, audio, _speech(found.recipe, speech_model, model_or_run))
    if question is None:
        asks = heard is not None or (hears and sound is not None and not pictures)
        question = _own_prompt(found.recipe, asks, hears)
    given = Audio(sound) if hears and sound is not None else None
    samples = [_sample(path, data, heard, question, given) for path, data in pictures]
    if not samples:
        if found.loaded.ports.image is not None and given is None:
            _log.warning("no picture is given: the question is asked alone")
        samples = [_sample(audio or Path("QUESTION"), None, heard, question, given)]
    model, ports = found.loaded.model, found.loaded.ports
    settle(model, place)
    say_held(held(found), notices)
    model.eval()
    base = found.recipe.generation if found.recipe else Generation()
    config = decoding(Generation(**{**base.model_dump(), **settings}), ports)
    answers: list[str] = []
    for at in range(0, len(samples), _TOGETHER):
        part = samples[at : at + _TOGETHER]
        answers += answer_all(model, ports, part, config)
    return [
        {
            "image": str(sample.origin) if sample.images else None,
            "prompt": sample.prompt,
            "answer": text,
            **({} if heard is None else {"heard": heard}),
        }
        for sample, text in zip(samples, answers, strict=True)
    ]


def _own_prompt(recipe: Recipe | None, spoken: bool, hears: bool) -> str | None:
    """The fixed prompt of the recipe's training data, if it has one; none beside a spoken question, unless the run
    learned from sounds with it.
    """
    none = None if spoken else DEFAULT_PROMPT
    if recipe is None or (spoken and recipe.data.speech is None and not hears):
        return none
    sources = recipe.data.train if isinstance(recipe.data.train, tuple) else (recipe.data.train,)
    return sources[0].prompt or none


def _speech(recipe: Recipe | None, model: str | None, model_or_run: str) -> Speech:
    """How sounds are transcribed: as the run has it, with the model that the person names."""
    own = None if recipe is None else recipe.data.speech
    if model is not None:
        return (
            Speech(model=model) if own is None else own.model_copy(update={"model": model, "backend": "auto"})
        )
    if own is None:
        raise DataError(
            "nothing says what transcribes the sound: the model has no run with `data.speech`",
            model_or_run,
            "name a speech model, such as `--speech-model small`",
        )
    return own


def _heard(sound: bytes, audio: Path, speech: Speech) -> str:
    ears = Ears(speech)
    with ears.at_work():
        return ears.words(sound, str(audio))


def _read(path: Path, kind: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"the {kind} cannot be read: {error.strerror}"
        raise DataError(what, str(path), "correct the path") from error


def _sample(
    path: Path, picture: bytes | None, heard: str | None, question: str | None, sound: Audio | None = None
) -> Sample:
    parts: tuple[Part, ...] = (
        *([] if picture is None else [Image(picture)]),
        *([] if sound is None else [sound]),
        *([] if heard is None else [Audio(b"")]),
        *([] if question is None else [Text(question)]),
    )
    turn = Message("user", parts)
    turns = (turn,) if heard is None else with_words([turn], [heard], str)
    return Sample(path.name, turns, (), Origin(str(path), 0))
