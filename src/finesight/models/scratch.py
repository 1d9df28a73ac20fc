"""A vision-language model from scratch: a tokenizer from the person's own words, every size from the recipe.

What is built is plain `transformers`: SigLIP's vision layers and Llama's decoder layers in the LLaVA architecture, so
that the saved folder loads wherever LLaVA does.
"""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from finesight.config.model import Scratch

PAD, IMAGE, USER, ASSISTANT, SYSTEM, END = (
    "<pad>",
    "<image>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def learn_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A byte-level BPE tokenizer (any text can be written) with merges learned from `texts`, as JSON."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, IMAGE, USER, ASSISTANT, SYSTEM, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return str(core.to_str())


def tokenizer_of(learned: str) -> PreTrainedTokenizerFast:
    """The tokenizer that `learn_tokenizer` has learned."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(learned),
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[IMAGE, USER, ASSISTANT, SYSTEM],
        clean_up_tokenization_spaces=False,
    )


def build_processor(scratch: Scratch, texts: Iterable[str]) -> LlavaProcessor:
    """The processor that is saved beside the model: tokenizer, chat template and picture settings."""
    return processor_with(scratch, learn_tokenizer(texts, scratch.tokenizer.vocabulary))


def processor_with(scratch: Scratch, learned: str) -> LlavaProcessor:
    """The same with a tokenizer that was learned before."""
    side = scratch.vision.image_size
    tokenizer = tokenizer_of(learned)
    tokenizer.model_max_length = scratch.decoder.context
    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=scratch.vision.patch,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def build_config(scratch: Scratch, processor: LlavaProcessor) -> LlavaConfig:
    """The model's configuration; no weights are made."""
    vision, decoder, tokenizer = scratch.vision, scratch.decoder, processor.tokenizer
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return LlavaConfig(
        vision_config=SiglipVisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            hidden_size=vision.width,
            intermediate_size=vision.mlp,
            attention_dropout=vision.dropout,
            vision_use_head=False,
            hidden_act="gelu",  # the exact one; SigLIP's own, by tanh, takes longer on a CPU
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=decoder.layers,
            num_attention_heads=decoder.heads,
            num_key_value_heads=decoder.kv_heads or decoder.heads,
            hidden_size=decoder.width,
            intermediate_size=decoder.mlp,
            max_position_embeddings=decoder.context,
            attention_dropout=decoder.dropout,
            tie_word_embeddings=decoder.tie_embeddings,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=pad,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision.image_size // vision.patch) ** 2,
        # "linear" is the identity between LLaVA's two matrices: together one linear map
        projector_hidden_act="gelu" if scratch.projector == "mlp" else "linear",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=decoder.tie_embeddings,
    )


def build_model(scratch: Scratch, processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """The model with random weights that depend on `seed` alone."""
    config = build_config(scratch, processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        do_sample=False,
    )
    return model
