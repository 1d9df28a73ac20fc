"""Tones of three heights, ears that are small enough to learn to tell them apart, and rows that ask for them."""

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
from tiny_runs import picture_bytes

RATE = 16_000
EAR: dict[str, Any] = {
    "model_type": "whisper",
    **{"num_mel_bins": 16, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2},
    **{"encoder_ffn_dim": 48, "max_source_positions": 50, "init_std": 0.2},
}
"""Hears one second. With 0.02, as Whisper begins, positions would be a hundred times louder than sounds."""
HEIGHTS = {"low": 300.0, "middle": 1200.0, "high": 4000.0}
QUESTION = "How high is it?"


def tone(hertz: float, seconds: float, seed: int = 0) -> np.ndarray:
    """A tone with some noise, float32 (samples,)."""
    chance = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    wavy = 0.4 * np.sin(2 * np.pi * hertz * times + chance.uniform(0, 6)) + 0.02 * chance.normal(
        size=len(times)
    )
    return wavy.astype(np.float32)


def as_wav(samples: np.ndarray) -> bytes:
    """A WAV file of float samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def tone_rows(folder: Path, count: int = 60) -> Path:
    """Rows about tones near to the three heights and of unlike lengths; every fifth has a picture, too."""
    chance, lines = np.random.default_rng(0), []
    for number in range(count):
        name, hertz = list(HEIGHTS.items())[number % 3]
        sound = tone(hertz * chance.uniform(0.9, 1.1), chance.uniform(0.3, 0.9), number)
        (folder / f"{number}.wav").write_bytes(as_wav(sound))
        line = {"audio": f"{number}.wav", "question": QUESTION, "answer": name}
        if number % 5 == 0:
            line["image"] = base64.b64encode(picture_bytes("red", "blue")).decode()
        lines.append(line)
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


def tone_mapping(rows: Path, folder: Path) -> dict[str, Any]:
    """A recipe whose model learns to say how high a tone is."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    eye = {"config": {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, **sizes}}
    words = {
        "config": {"model_type": "llama", "max_position_embeddings": 128, **sizes},
        "vocabulary": 280,
    }
    ears = {"config": EAR, "projector": {"kind": "linear", "factor": 10}}
    return {
        "run": {"name": "tones", "dir": str(folder), "seed": 3, "device": "cpu", "threads": 1},
        "model": {"compose": {"vision": eye, "language": words, "audio": ears}, "freeze": ["vision_tower"]},
        "data": {"train": {"source": "json", "path": str(rows)}, "val": {"split": 0.25}},
        "train": {"max_steps": 80, "batch_size": 12, "lr": 6e-3, "precision": "fp32"},
        "evaluation": {"every": 80, "metrics": ["exact_match"], "resamples": 20},
        "generation": {"max_new_tokens": 8},
        "log": {"every": 1, "samples": True},
        "report": {"pictures": 2},
    }
