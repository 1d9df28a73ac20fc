"""What the world gives: a sample of messages, with references, tags and the place that it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Origin:
    """Where a sample stands: a file and its row. The first row of data is 1; 0 is the file itself."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}" if self.row else self.file


@dataclass(frozen=True)
class Text:
    """Words in a message."""

    text: str


@dataclass(frozen=True)
class FileMark:
    """A file as it was when it was looked at: the name that a row has for it, its size in bytes (−1: unknown), and
    what changes with it (a time, a version; empty: unknown).
    """

    name: str
    size: int = -1
    version: str = ""


@dataclass(frozen=True)
class Image:
    """A picture in a message, still encoded (the bytes of a PNG, JPEG, ... file).

    `file` tells where it is from, unless the row itself holds it.
    """

    data: bytes = field(repr=False)
    file: FileMark | None = None


@dataclass(frozen=True)
class Audio:
    """A sound in a message, still encoded (the bytes of a WAV, FLAC, MP3, ... file); `file` as for a picture."""

    data: bytes = field(repr=False)
    file: FileMark | None = None


Part = Text | Image | Audio
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. An answer that is not to `learn` is read, as the questions are."""

    role: Role
    parts: tuple[Part, ...]
    learn: bool = True

    @property
    def text(self) -> str:
        """The words of the turn, without its pictures."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures of the turn, in order."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def sounds(self) -> tuple[Audio, ...]:
        """The sounds of the turn, in order."""
        return tuple(part for part in self.parts if isinstance(part, Audio))


@dataclass(frozen=True)
class Sample:
    """One training or evaluation item.

    `references` are the answers that an evaluation compares with; `tags` slice scores; `group` names what must
    stay on one side of a split and what a bootstrap resamples (empty: the sample alone).
    """

    id: str
    messages: tuple[Message, ...]
    references: tuple[str, ...]
    origin: Origin
    tags: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    @property
    def prompt(self) -> str:
        """The words of the last user turn."""
        return next((turn.text for turn in reversed(self.messages) if turn.role == "user"), "")

    @property
    def images(self) -> tuple[Image, ...]:
        """All pictures of the sample, in order of their turns."""
        return tuple(image for turn in self.messages for image in turn.images)

    @property
    def sounds(self) -> tuple[Audio, ...]:
        """All sounds of the sample, in order of their turns."""
        return tuple(sound for turn in self.messages for sound in turn.sounds)
