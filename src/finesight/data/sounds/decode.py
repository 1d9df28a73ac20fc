"""The one way from a sound file to samples: 16,000 a second, one channel.

FFmpeg's libraries decode, through PyAV. It reads far more than sounds: playlists and lists that name other files and
addresses, pictures, films with hostile codecs. So the container is chosen here by the first bytes, from a short list of
which none names other files, and its codec must be one of sound. Decoding stops at the longest sound that is let in, so
that a small file cannot become a large one.

S samples of the result.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from finesight.core.errors import DataError, ModelError

RATE: Final = 16_000
"""Samples a second that speech models take."""

_REPLACE: Final = "leave the row out, or replace the file"
_READ: Final = (
    "WAV, FLAC, MP3, Ogg, M4A, AAC, AIFF, AU, CAF, WebM and AMR are read; convert the file to one of them"
)
_CODECS: Final = (
    *("pcm_", "adpcm_", "flac", "alac", "mp3", "mp2", "mp1", "vorbis", "opus", "aac", "amr", "gsm", "wav"),
    *("speex", "ac3", "eac3"),
)
"""How the names of the codecs begin that are let in."""
_RATES: Final = range(1_000, 768_001)
_CHANNELS: Final = 64
_SILENT_PACKETS: Final = 20_000
"""Packets one after another that may give no sound: far more than a whole sound file begins with."""
_UNKNOWN_SIZE: Final = 0x7FFF0000
"""From here on the size in a WAV's header was not known when it was written, as by `espeak-ng --stdout`."""
_TORN: Final = 4096
"""Bytes that a WAV may lack of what its header says: some writers count their own header."""
_ESTIMATED: Final = ("mp3", "aac", "amr")
"""Containers whose length nobody knows before the end."""
_ROUNDING: Final = 1e-6
"""Seconds that the sum of a sound's frames may be beside its length."""
_LOST_PACKETS: Final = 2
"""Damaged packets that these may have, which begin and end in the midst of a stream."""


@dataclass(frozen=True)
class SoundLimits:
    """Largest sound that is let in: `file_bytes` encoded, `seconds` long; `mend` says what to do with a longer one."""

    file_bytes: int = 256 << 20
    seconds: float = 600.0
    mend: str = "cut it into pieces, raise `data.speech.max_seconds`, or leave the row out"


class _Refusal(Exception):
    """A sound that is not let in: `what` is wrong with it, and how to `mend` it."""

    def __init__(self, what: str, mend: str = _REPLACE) -> None:
        super().__init__(what, mend)
        self.what, self.mend = what, mend


def decode_sound(data: bytes, where: str, limits: SoundLimits = SoundLimits()) -> np.ndarray:
    """The samples of a sound file, float32 (S,) from −1 to 1. Raises DataError at `where` for what is not let in."""
    av = _pyav()
    try:
        kind = _kind(data, limits)
        found = _decoded(av, data, kind, limits)
    except _Refusal as refusal:
        raise DataError(refusal.what, where, refusal.mend) from None
    except (av.error.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"the sound cannot be decoded: {said}", where, _REPLACE) from error
    return found


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ModelError(
            f"sounds are decoded by PyAV, which cannot be imported: {error}",
            "data.speech",
            "pip install 'finesight[audio]'",
        ) from error
    return av


def _kind(data: bytes, limits: SoundLimits) -> str:
    """FFmpeg's name of the container, by the first bytes."""
    if not data:
        raise _Refusal("the sound is empty: 0 bytes")
    if len(data) > limits.file_bytes:
        what = f"the sound file has {len(data):,} bytes; at most {limits.file_bytes:,} are let in"
        raise _Refusal(what, "save it smaller (as FLAC, MP3 or Ogg), or leave the row out")
    begin = _after_tag(data)
    head = data[begin : begin + 16]
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        _check_wav(data)
        return "wav"
    for starts, kind in (
        ((b"fLaC",), "flac"),
        ((b"OggS",), "ogg"),
        ((b"\x1aE\xdf\xa3",), "matroska"),
        ((b".snd",), "au"),
        ((b"caff",), "caf"),
        ((b"#!AMR",), "amr"),
    ):
        if head.startswith(starts):
            return kind
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # layer 0: AAC with its own frames
        return "aac"
    if begin or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        return "mp3"
    raise _Refusal(f"this is no sound that can be read: it begins with {bytes(data[:8])!r}", _READ)


def _after_tag(data: bytes) -> int:
    """Where the sound begins: after an ID3 tag, whose size is written in four times seven bits."""
    if not data.startswith(b"ID3") or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _check_wav(data: bytes) -> None:
    """Raise _Refusal where the file ends before what its header says: FFmpeg would take the rest for the whole."""
    position = 12
    for _ in range(1000):
        if position + 8 > len(data):
            return
        name, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        if name == b"data":
            lacking = position + 8 + size - len(data)
            if lacking > _TORN and size < _UNKNOWN_SIZE:
                raise _Refusal(f"the sound is cut short: {lacking:,} of {size:,} bytes are not there")
            return
        position += 8 + size + size % 2


def _decoded(av: Any, data: bytes, kind: str, limits: SoundLimits) -> np.ndarray:
    with av.open(io.BytesIO(data), mode="r", format=kind, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise _Refusal("the file holds no sound")
        stream = container.streams.audio[0]
        codec = "nobody knows what" if stream.codec_context is None else stream.codec_context.name
        if not codec.startswith(_CODECS):
            raise _Refusal(f"the sound is coded as {codec}, which is not read", _READ)
        # 16 bits, as faster-whisper's own decoder has it: the same samples to the last bit
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        parts: list[np.ndarray] = []
        seconds = 0.0
        for frame in _frames(av, container, stream, kind):
            if frame.sample_rate not in _RATES or not 0 < len(frame.layout.channels) <= _CHANNELS:
                told = f"{frame.sample_rate:,} samples a second in {len(frame.layout.channels)} channels"
                raise _Refusal(f"the sound has {told}", "save it with 16,000 samples a second in one channel")
            seconds += frame.samples / frame.sample_rate
            if seconds > limits.seconds + _ROUNDING:
                raise _Refusal(f"the sound is longer than {limits.seconds:g} seconds", limits.mend)
            frame.pts = None  # gaps in the times of frames are not filled
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        if not seconds:
            raise _Refusal("the sound is empty: 0 samples")
        declared = (container.duration or 0) / av.time_base
        if kind not in _ESTIMATED and seconds < 0.97 * declared - 0.5:
            raise _Refusal(f"the sound is cut short: {seconds:.1f} of {declared:.1f} seconds are there")
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts).astype(np.float32) / np.float32(32768)


def _frames(av: Any, container: Any, stream: Any, kind: str) -> Iterator[Any]:
    lost = silent = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            lost += 1
            if kind not in _ESTIMATED or lost > _LOST_PACKETS:
                raise
            continue
        silent = 0 if frames else silent + 1
        if silent > _SILENT_PACKETS:
            raise _Refusal("the file holds thousands of parts without a sound")
        yield from frames
