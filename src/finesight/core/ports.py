"""All that data needs to know of a model, built without its weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from finesight.core.batch import Extra
from finesight.core.sample import Message

if TYPE_CHECKING:
    import numpy as np

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]

Size = tuple[int, int]
"""Width and height in pixels."""


class PicturePort(Protocol):
    """How pictures enter a model.

    `placeholder` is what the template writes for one picture, empty where pictures stand in no text (a captioner's);
    `placeholder_id` the token that is repeated for it, −1 where there is none. `sized`: what stands in the text
    depends on the picture's size. `most` is the largest number of pictures in a sample, None where there is none.
    """

    @property
    def placeholder(self) -> str:
        """What the template writes for one picture."""

    @property
    def placeholder_id(self) -> int:
        """The token that stands for a part of a picture."""

    @property
    def sized(self) -> bool:
        """Whether `words` depends on the sizes."""

    @property
    def most(self) -> int | None:
        """The largest number of pictures in a sample."""

    def words(self, sizes: Sequence[Size]) -> tuple[str, ...]:
        """What stands in the text for each picture of one sample, in place of its placeholder."""


@dataclass(frozen=True)
class ImagePort:
    """The commonest way, done here: squashed to `height` × `width` pixels, then (level / 255 − mean) / std.

    `placeholder` stands for `tokens_per_image` visual tokens.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Resample
    placeholder: str
    placeholder_id: int
    tokens_per_image: int
    most: int | None = None

    @property
    def sized(self) -> bool:
        """All pictures have equally many visual tokens."""
        return False

    def words(self, sizes: Sequence[Size]) -> tuple[str, ...]:
        """The placeholder of each picture, repeated for its visual tokens."""
        return (self.placeholder * self.tokens_per_image,) * len(sizes)


class ProcessedPictures(PicturePort, Protocol):
    """Pictures that the model's own processor prepares."""

    def prepare(self, pictures: "Sequence[np.ndarray]") -> Mapping[str, Extra]:
        """Inputs of the model for the pictures of one sample, each uint8 (C, H, W)."""

    def along(
        self, tokens: "np.ndarray", targets: "np.ndarray | None", extras: Mapping[str, Extra]
    ) -> Mapping[str, Extra]:
        """Inputs that have a value for each token (T,) of one sample; without `targets` the model is asked."""


class SoundPort(Protocol):
    """How sounds enter a model that hears: mono, `rate` samples a second, at most `most` in a sample, each at most
    `seconds` long.

    `placeholder` is what the template writes for one sound, empty where sounds stand in no text; `placeholder_id` the
    token that is repeated for it, −1 where there is none.
    """

    @property
    def rate(self) -> int:
        """Samples a second."""

    @property
    def most(self) -> int | None:
        """The largest number of sounds in a sample, None where there is none."""

    @property
    def seconds(self) -> float:
        """The longest sound."""

    @property
    def placeholder(self) -> str:
        """What the template writes for one sound."""

    @property
    def placeholder_id(self) -> int:
        """The token that stands for a part of a sound."""

    def words(self, samples: Sequence[int]) -> tuple[str, ...]:
        """What stands in the text for each sound of so many samples, in place of its placeholder."""

    def prepare(self, sounds: "Sequence[np.ndarray]") -> Mapping[str, Extra]:
        """Inputs of the model for the sounds of one sample, each float32 (samples,)."""


@dataclass(frozen=True)
class Encoder:
    """What an encoder–decoder does apart from its answers, which its decoder writes.

    `read` gives the text that the encoder reads of some turns, None where it reads pictures or sounds alone; `start`
    are the tokens that the decoder begins an answer with. `context` is the longest text of the encoder, in tokens.
    """

    read: Callable[[Sequence[Message]], str] | None
    start: tuple[int, ...]
    context: int


@dataclass(frozen=True)
class Ports:
    """Tokenizer, template and picture settings of one model.

    `tokenizer` is a fast `transformers` tokenizer. `render(messages, ask)` writes the turns as the model reads
    them, one `placeholder` for each picture; with `ask` it ends where the model's answer begins. Where there is an
    `encoder`, only answers are rendered.
    `context` is the longest sequence in tokens; `fingerprint` changes whenever an example would. `sound` is there where
    the model hears. `first_id` stands in place of the first token of every text, where that is no token of the
    tokenizer (BLIP's). `asked_ids` end a prompt that the model is asked with, for a `generate` that takes the last
    token off. Prompts of unlike lengths are answered together where the model `pads`; with `plain_generate`, the
    model's own way of answering is passed by. `said` are kinds and words of what is to be told of this model.
    """

    tokenizer: Any
    render: Callable[[Sequence[Message], bool], str]
    image: ImagePort | ProcessedPictures | None
    pad_id: int
    end_ids: tuple[int, ...]
    context: int
    fingerprint: str
    encoder: Encoder | None = None
    sound: SoundPort | None = None
    first_id: int | None = None
    asked_ids: tuple[int, ...] = ()
    pads: bool = True
    plain_generate: bool = False
    said: tuple[tuple[str, str], ...] = ()

    @property
    def sized(self) -> bool:
        """Whether a sample's pictures and sounds must be read to know its tokens."""
        pictures = self.image is not None and self.image.sized
        return pictures or (self.sound is not None and bool(self.sound.placeholder))
