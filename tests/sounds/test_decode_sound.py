"""Sound files to samples: the same as faster-whisper's own, and what is not let in."""

import io
import random
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from faster_whisper.audio import decode_audio
from speech_files import level, wav

from finesight.core.errors import DataError
from finesight.data.sounds.decode import SoundLimits, decode_sound

LIMITS = SoundLimits()
MUTANTS = 300


def melody(seconds: float = 1.0, rate: int = 22_050, channels: int = 1) -> np.ndarray:
    """Samples that change all the time, int16 (S,) or (S, channels)."""
    times = np.arange(round(seconds * rate)) / rate
    one = 8000 * np.sin(2 * np.pi * (200 + 300 * times) * times)
    return (one if channels == 1 else np.stack([one, one / 2], axis=1)).astype(np.int16)


def coded(samples: np.ndarray, container: str, codec: str, rate: int) -> bytes:
    """A file of this kind, one channel."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 22_050
        change = av.AudioResampler(
            format=stream.format.name, layout="mono", rate=rate, frame_size=stream.frame_size or None
        )
        for part in [*change.resample(frame), *change.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return buffer.getvalue()


KINDS = [
    ("wav", "pcm_s16le", 22_050),
    ("wav", "pcm_f32le", 8_000),
    ("flac", "flac", 44_100),
    ("mp3", "libmp3lame", 22_050),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
    ("mp4", "aac", 22_050),
    ("adts", "aac", 22_050),
    ("aiff", "pcm_s16be", 22_050),
    ("au", "pcm_s16be", 22_050),
    ("caf", "pcm_s16le", 22_050),
]


@pytest.mark.parametrize(("container", "codec", "rate"), KINDS, ids=lambda value: str(value))
def test_each_kind_is_decoded_as_by_faster_whisper(container: str, codec: str, rate: int) -> None:
    data = coded(melody(), container, codec, rate)
    found = decode_sound(data, "here", LIMITS)
    assert found.dtype == np.float32
    assert 0.9 < len(found) / 16_000 < 1.2
    np.testing.assert_array_equal(found, decode_audio(io.BytesIO(data)))


def test_two_channels_become_one_and_a_sound_of_the_right_kind_stays_as_it_is() -> None:
    both = wav(melody(channels=2))
    np.testing.assert_array_equal(decode_sound(both, "here"), decode_audio(io.BytesIO(both)))
    np.testing.assert_array_equal(decode_sound(level(100), "here"), np.full(1600, 100 / 32768, np.float32))


def test_a_tag_before_an_mp3_is_passed_over() -> None:
    data = coded(melody(), "mp3", "libmp3lame", 22_050)
    assert data.startswith(b"ID3")
    assert len(decode_sound(data, "here")) > 15_000


WHOLE = wav(melody())
LIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the sound is empty: 0 bytes"),
        (b"no sound at all", "this is no sound that can be read"),
        (LIST, "this is no sound that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "this is no sound that can be read"),
        (WHOLE[:20_000], "the sound is cut short: 24,144 of 44,100 bytes are not there"),
        (wav(np.zeros(0, np.int16)), "the sound is empty"),
        (coded(melody(), "aiff", "pcm_s16be", 22_050)[:10_000], "the sound is cut short"),
        (coded(melody(), "flac", "flac", 22_050)[:10_000], "cannot be decoded"),
        (coded(melody(), "mp4", "aac", 22_050)[:4_000], "cannot be decoded"),
        (b"fLaC" + bytes(1000), "cannot be decoded"),
        (wav(melody(), rate=5), "the sound has 5 samples a second"),
    ],
)
def test_what_is_not_let_in_is_refused_with_the_reason(data: bytes, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        decode_sound(data, "rows.csv, row 3", SoundLimits(seconds=1e9))
    assert caught.value.faults[0].where == "rows.csv, row 3"


def test_a_wav_whose_size_was_not_known_is_read_to_its_end() -> None:
    piped = bytearray(WHOLE)
    piped[40:44] = (0x7FFFF000).to_bytes(4, "little")
    np.testing.assert_array_equal(decode_sound(bytes(piped), "here"), decode_sound(WHOLE, "here"))


def test_a_film_gives_its_sound_and_one_without_sound_is_refused() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=5, width=16, height=16, pix_fmt="yuv420p")
        out.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        out.mux(stream.encode(None))
    with pytest.raises(DataError, match="the file holds no sound"):
        decode_sound(buffer.getvalue(), "here")


def test_a_small_file_of_a_long_silence_is_refused_before_it_is_large() -> None:
    hours = coded(np.zeros(60 * 22_050, np.int16), "flac", "flac", 22_050)
    frames = hours[hours.index(b"\xff\xf8") :]
    bomb = hours + frames * 120
    assert len(bomb) < 8 << 20
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(DataError, match="longer than 600 seconds"):
        decode_sound(bomb, "here", LIMITS)
    assert time.monotonic() - began < 5
    assert psutil.Process().memory_info().rss - before < 128 << 20


def test_a_file_that_is_too_large_is_refused_by_its_size() -> None:
    with pytest.raises(DataError, match="the sound file has 44,144 bytes; at most 100 are let in"):
        decode_sound(WHOLE, "here", SoundLimits(file_bytes=100))


@pytest.mark.proof
@pytest.mark.parametrize(("container", "codec", "rate"), [KINDS[0], KINDS[2], KINDS[3], KINDS[4]])
def test_mutants_are_decoded_or_refused_and_none_hangs(
    container: str, codec: str, rate: int, proof_factor: int
) -> None:
    whole = coded(melody(0.3), container, codec, rate)
    draw = random.Random(f"{container} {codec}")
    decoded = refused = 0
    for _ in range(MUTANTS * proof_factor):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 3, 20])):
            place = draw.randrange(min(len(data), draw.choice([48, len(data)])))
            match draw.randrange(4):
                case 0:
                    data[place] = draw.randrange(256)
                case 1:
                    data[place] ^= 1 << draw.randrange(8)
                case 2:
                    del data[place : place + draw.randrange(1, 40)]
                case _:
                    data[place : place + 4] = draw.choice([b"\xff" * 4, bytes(4), b"\x80\0\0\0"])
            data = data or bytearray(1)
        began = time.monotonic()
        try:
            found = decode_sound(bytes(data), "here", SoundLimits(seconds=60))
            assert found.ndim == 1 and len(found) <= 61 * 16_000 and np.isfinite(found).all()
            decoded += 1
        except DataError as error:
            refused += error.faults[0].where == "here"
        assert time.monotonic() - began < 5
    assert decoded and refused
    assert decoded + refused == MUTANTS * proof_factor


def test_pyav_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from finesight.core.errors import ModelError

    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ModelError, match="PyAV") as caught:
        decode_sound(WHOLE, "here")
    assert caught.value.faults[0].mend == "pip install 'finesight[audio]'"
