"""Transcripts of one speech model and its settings: a file in the cache folder that grows by a line a sound.

A line is the checksum of a JSON object and the object. It is written at once, so a process that is killed loses the
sound that it was at; a line that is not whole, or not as it was written, counts as none.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from xxhash import xxh3_64_hexdigest

from finesight.data.sounds.transcribe import Stretch

FORMAT: Final = 1
"""Of the lines. It is a part of the file's name: a journal of other lines is not looked at."""

_log = logging.getLogger("finesight")


@dataclass(frozen=True)
class Transcript:
    """What is said in a sound of so many seconds."""

    seconds: float
    stretches: tuple[Stretch, ...]


class Journal:
    """The transcripts in a file, by the hash of a sound's bytes. Who adds to it holds the file's lock.

    Without a file they are kept in memory alone.
    """

    def __init__(self, file: Path | None, settings: Mapping[str, Any]) -> None:
        self.file = file
        self._settings = settings
        self._known: dict[str, Transcript] = {}
        self._offset = 0
        self._torn = False

    def get(self, sound: str) -> Transcript | None:
        """The transcript of a sound, if it is known."""
        return self._known.get(sound)

    def read(self) -> None:
        """Take in what was written since the last look, by this process or another one."""
        if self.file is None:
            return
        try:
            with open(self.file, "rb") as stream:
                if stream.seek(0, 2) < self._offset:  # another file stands in its place
                    self._offset = 0
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            self._offset = 0
            return
        end = data.rfind(b"\n") + 1
        self._offset += end
        self._torn = end < len(data)
        damaged = 0
        for line in data[:end].splitlines():
            try:
                self._take(line)
            except (ValueError, KeyError, TypeError):
                damaged += 1
        if damaged:
            _log.info("%s: %s lines are damaged, and made anew where they are wanted", self.file, damaged)

    def _take(self, line: bytes) -> None:
        checksum, _, told = line.partition(b" ")
        if checksum.decode("ascii") != xxh3_64_hexdigest(told):
            raise ValueError
        entry = json.loads(told)
        if "sound" in entry:
            stretches = tuple(Stretch(**stretch) for stretch in entry["stretches"])
            self._known[entry["sound"]] = Transcript(entry["seconds"], stretches)

    def add(self, sound: str, transcript: Transcript) -> None:
        """Know the transcript of a sound from now on. Raises OSError where the file cannot be written."""
        self._known[sound] = transcript
        if self.file is None:
            return
        lines = [
            {
                "sound": sound,
                "seconds": transcript.seconds,
                "stretches": [asdict(stretch) for stretch in transcript.stretches],
            }
        ]
        if not self.file.exists():
            lines.insert(0, {"format": FORMAT, "settings": dict(self._settings)})
        with open(self.file, "ab") as stream:
            stream.write(b"\n" * self._torn + b"".join(map(_line, lines)))
        self._torn = False


def _line(entry: Mapping[str, Any]) -> bytes:
    told = json.dumps(entry).encode("ascii")
    return f"{xxh3_64_hexdigest(told)} ".encode("ascii") + told + b"\n"


def text_of(stretches: Sequence[Stretch], timestamps: bool) -> str:
    """The words of a transcript: one after another, or each stretch on a line that begins with its times."""
    if not timestamps:
        return "".join(stretch.text for stretch in stretches).strip()
    told = ((stretch.begin, stretch.end, stretch.text.strip()) for stretch in stretches)
    return "\n".join(f"[{_clock(begin)} → {_clock(end)}] {text}" for begin, end, text in told if text)


def _clock(seconds: float) -> str:
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes:02d}:{rest // 100:02d}.{rest % 100:02d}"
