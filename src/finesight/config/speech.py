"""The `data.speech` section: sounds become words before a model sees them."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from finesight.config.base import Section, Switch


class Speech(Section):
    """A speech model that writes down what is said in the sounds of samples: the model that learns reads these words.

    Each sound is transcribed once; the transcripts are kept in the cache folder, by what is in the sound, the model and
    these settings.
    """

    model: Annotated[str, Field(min_length=1)]
    """The speech model: a folder, a size that faster-whisper knows (`tiny.en`, `small`, `large-v3`, …), or a hub id."""
    backend: Literal["auto", "faster-whisper", "transformers"] = "auto"
    """What runs it: faster-whisper (folders with a `model.bin`) or the speech pipeline of transformers (Whisper with
    safetensors). `auto` looks into a folder, and takes faster-whisper for a name."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = None
    """The language that is spoken, such as `en` or `de`; found out for each sound where absent."""
    timestamps: Switch = False
    """Begin each stretch of speech on a line of its own, with its begin and end: `[00:00.00 → 00:02.40] …`."""
    num_beams: PositiveInt = 5
    """Beams of the search for the words; 1 is the fastest."""
    max_seconds: PositiveFloat = 600.0
    """Longest sound, in seconds; a longer one is a bad row."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the speech model computes; `auto` takes CUDA where it is, else the CPU. A GPU may write a word otherwise
    than a CPU; transcripts that are kept stay as they are."""
