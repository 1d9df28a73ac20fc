"""Tiny models with every kind of output embeddings, and a batch for each."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
import transformers as t
from torch import nn

from finesight.core.batch import IGNORE, Batch

V = 37
SIZES: Any = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def llama(tied: bool) -> nn.Module:
    return t.LlamaForCausalLM(t.LlamaConfig(**SIZES, tie_word_embeddings=tied))


def adapted(tied: bool) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=3, target_modules=["lm_head", "q_proj"], lora_dropout=0.0)
    net = inject_adapter_in_model(config, llama(tied))
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "lora_B" in name:
                value.normal_()
    return net


def saved_whole() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(llama(False), LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))


def captioner() -> nn.Module:
    text = {**SIZES, "encoder_hidden_size": 16, "max_position_embeddings": 40, "sep_token_id": 2}
    text.pop("num_key_value_heads")
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    config = t.BlipConfig(text_config=text, vision_config=vision)
    net = t.BlipForConditionalGeneration(config)
    with torch.no_grad():
        net.text_decoder.cls.predictions.decoder.bias.normal_()
    return net


def t5(tied: bool) -> nn.Module:
    config = t.T5Config(
        vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, tie_word_embeddings=tied,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    return t.T5ForConditionalGeneration(config)


def bart() -> nn.Module:
    config = t.BartConfig(
        vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32, dropout=0.0,
    )  # fmt: skip
    net = t.BartForConditionalGeneration(config)
    net.final_logits_bias.normal_()
    return net


def with_bias() -> nn.Module:
    config = t.PhiConfig(**SIZES, resid_pdrop=0.0, embd_pdrop=0.0)
    net = t.PhiForCausalLM(config)
    with torch.no_grad():
        net.lm_head.bias.normal_()
    return net


def frozen() -> nn.Module:
    net = llama(False)
    net.lm_head.requires_grad_(False)
    return net


HEADS: MappingProxyType[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "tied": lambda: llama(True),
        "frozen": frozen,
        "bias": with_bias,
        "cohere scales": lambda: t.CohereForCausalLM(t.CohereConfig(**SIZES, logit_scale=0.3)),
        "granite divides": lambda: t.GraniteForCausalLM(t.GraniteConfig(**SIZES, logits_scaling=7.0)),
        "gemma 2 caps": lambda: t.Gemma2ForCausalLM(
            t.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5)
        ),
        "lora": lambda: adapted(False),
        "lora on tied": lambda: adapted(True),
        "saved whole": saved_whole,
        "blip": captioner,
        "t5 scales": lambda: t5(True),
        "t5": lambda: t5(False),
        "bart adds": bart,
    }
)


def batch_for(net: nn.Module, dtype: torch.dtype, rows: int = 3, length: int = 9) -> Batch:
    """Ragged rows, about half of each supervised."""
    draw = torch.Generator().manual_seed(4)
    tokens = torch.randint(3, V, (rows, length), generator=draw)
    targets = torch.full_like(tokens, IGNORE)
    targets[:, 3:-1] = tokens[:, 4:]
    targets[0, 6:] = IGNORE
    mask = torch.ones_like(tokens)
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if isinstance(net, t.T5ForConditionalGeneration | t.BartForConditionalGeneration):
        read = torch.randint(3, V, (rows, 5), generator=draw)
        inputs = {"input_ids": read, "attention_mask": torch.ones_like(read), "decoder_input_ids": tokens}
    if isinstance(net, t.BlipForConditionalGeneration):
        inputs["pixel_values"] = torch.randn(rows, 3, 8, 8, generator=draw, dtype=dtype)
    return Batch(tuple("abc"[:rows]), inputs, targets, int((targets != IGNORE).sum()), tokens.numel())
