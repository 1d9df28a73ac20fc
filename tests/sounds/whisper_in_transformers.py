"""Whisper tiny.en as a folder of transformers: the weights of the CTranslate2 file under their other names."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

_BLOCKS = {"self_attention": "self_attn", "attention": "encoder_attn"}
_NORMS = {
    "self_attention": "self_attn_layer_norm",
    "attention": "encoder_attn_layer_norm",
    "ffn": "final_layer_norm",
}
_GREEK = {"gamma": "weight", "beta": "bias"}


def write_whisper(source: Path, folder: Path) -> None:
    """Write the model of a CTranslate2 `source` (float16, English alone) so that transformers loads it."""
    config = WhisperConfig(
        vocab_size=51864, d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536, num_mel_bins=80,
        decoder_start_token_id=50257, bos_token_id=50256, eos_token_id=50256, pad_token_id=50256,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    weights = dict(_renamed(source / "model.bin"))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name == "proj_out.weight" for name in missing), missing
    model.tie_weights()
    told = json.loads((source / "config.json").read_text())
    model.generation_config = GenerationConfig(
        decoder_start_token_id=50257, bos_token_id=50256, eos_token_id=50256, pad_token_id=50256,
        no_timestamps_token_id=50362, prev_sot_token_id=50360, is_multilingual=False, max_length=448,
        max_initial_timestamp_index=50, suppress_tokens=told["suppress_ids"],
        begin_suppress_tokens=told["suppress_ids_begin"],
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer = WhisperTokenizer(
        tokenizer_file=str(source / "tokenizer.json"),
        unk_token="<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
    )  # fmt: skip
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)


def _renamed(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in _variables(file):
        side, *path = name.split("/")
        if not value.ndim or name.startswith("decoder/alignment"):
            continue
        begin = f"model.{side}"
        match path:
            case ["embeddings", _]:
                yield f"{begin}.embed_tokens.weight", value
            case ["position_encodings", _]:
                yield f"{begin}.embed_positions.weight", value
            case ["layer_norm", greek]:
                yield f"{begin}.layer_norm.{_GREEK[greek]}", value
            case [conv, kind]:
                yield f"{begin}.{conv}.{kind}", value
            case [layer, block, "layer_norm", greek]:
                yield f"{begin}.layers.{layer.removeprefix('layer_')}.{_NORMS[block]}.{_GREEK[greek]}", value
            case [layer, "ffn", linear, kind]:
                number = int(linear[-1]) + 1
                yield f"{begin}.layers.{layer.removeprefix('layer_')}.fc{number}.{kind}", value
            case [layer, block, linear, kind]:
                own = f"{begin}.layers.{layer.removeprefix('layer_')}.{_BLOCKS[block]}"
                for part, piece in zip(_projections(block, linear), _parted(value), strict=True):
                    if (part, kind) != ("k_proj", "bias"):  # Whisper's keys have none
                        yield f"{own}.{part}.{kind}", piece


def _projections(block: str, linear: str) -> tuple[str, ...]:
    if block == "self_attention":
        return ("q_proj", "k_proj", "v_proj") if linear == "linear_0" else ("out_proj",)
    return {"linear_0": ("q_proj",), "linear_1": ("k_proj", "v_proj"), "linear_2": ("out_proj",)}[linear]


def _parted(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return value.split(384)


def _variables(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of the numbers in a CTranslate2 file; see its `model_spec.py`."""
    with open(file, "rb") as stream:
        assert _number(stream, "I") == 6
        assert _text(stream) == "WhisperSpec"
        _number(stream, "I")
        for _ in range(_number(stream, "I")):
            name = _text(stream)
            shape = [_number(stream, "I") for _ in range(_number(stream, "B"))]
            kind, size = _number(stream, "B"), _number(stream, "I")
            data = stream.read(size)
            if kind == 4:
                yield name, torch.from_numpy(np.frombuffer(data, "<f2").reshape(shape).astype(np.float32))


def _number(stream: BinaryIO, form: str) -> int:
    return int(struct.unpack(f"<{form}", stream.read(struct.calcsize(form)))[0])


def _text(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "H"))[:-1].decode()
