"""A `.gguf` file is converted once, and computes what `transformers` computes with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_parts import built, composed
from transformers import AutoModelForCausalLM

from finesight.core.errors import ModelError
from finesight.models.compose import gguf as converting
from finesight.models.compose.language import open_language

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")


def tiny_gguf(file: Path) -> Path:
    """A Llama of one layer with a byte-level tokenizer and a chat template."""
    width, rows = 32, 260
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(rows)
    tokens = ["<unk>", "<s>", "</s>", *(chr(256 + byte) for byte in range(rows - 4)), "Āā"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (rows - 3))
    writer.add_token_merges(["Ā ā"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}")
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (rows, width), "output.weight": (rows, width), "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,), "blk.0.ffn_norm.weight": (width,),
        "blk.0.attn_q.weight": (width, width), "blk.0.attn_k.weight": (width, width),
        "blk.0.attn_v.weight": (width, width), "blk.0.attn_output.weight": (width, width),
        "blk.0.ffn_gate.weight": (48, width), "blk.0.ffn_up.weight": (48, width), "blk.0.ffn_down.weight": (width, 48),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, draw.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_it_is_converted_once_and_computes_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype="float32"
    ).eval()
    loaded = built(composed("clip", "mlp", {"pretrained": str(file)}))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        theirs, ours = reference(input_ids=ids).logits, loaded.model(input_ids=ids).logits
    assert float((ours[..., : theirs.shape[-1]] - theirs).abs().max()) <= 1e-5
    monkeypatch.setattr(converting, "_plain", lambda read: pytest.fail("it was converted again"))
    language = open_language(composed("clip", "mlp", {"pretrained": str(file)}).language)
    assert language.weights is not None and (Path(language.weights) / "model.safetensors").is_file()
    assert language.close == "</s>"


def test_a_missing_file_and_a_missing_package_are_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no such file"):
        open_language(composed("clip", "mlp", {"pretrained": "nowhere.gguf"}).language)
    monkeypatch.setattr(converting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package gguf accelerate"):
        open_language(composed("clip", "mlp", {"pretrained": str(file)}).language)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF nothing of the kind")
    with pytest.raises(ModelError, match="cannot be converted"):
        open_language(composed("clip", "mlp", {"pretrained": str(tmp_path / "x.gguf")}).language)
