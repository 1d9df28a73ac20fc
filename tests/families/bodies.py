"""Tiny models of many families with random weights and processors of their own classes, for the support matrix.

Each maker gives a configuration and a processor as a published model of that type has them: the same chat template in
shape, the same order of special tokens, pictures prepared by the type's own image processor.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import transformers as t
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "what is it? a red bird on a white wall, and a blue boat.",
    "translate English to German: the bird is red. Der Vogel bleibt rot.",
    "describe the picture. two dogs and three cats sit in the sun.",
]

HIDDEN = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
TEXT = dict(**HIDDEN, num_key_value_heads=2, max_position_embeddings=512)


def tokenizer(
    *special: str, bos: str | None = None, eos: str = "</s>", pad: str = "<pad>", **named: Any
) -> Any:
    """A byte-level BPE tokenizer with these special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokens = list(dict.fromkeys([pad, *([bos] if bos else []), eos, *special]))
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=list(special),
        model_max_length=512,
        **named,
    )


def bert_tokenizer() -> Any:
    """An uncased WordPiece tokenizer."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({*"".join(TEXTS).lower(), *"abcdefghijklmnopqrstuvwxyz0123456789!"})
    core.train_from_iterator(
        [*TEXTS, " ".join(letters), *(first + second for first in letters for second in letters)],
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False),
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", core.token_to_id("[CLS]")), ("[SEP]", core.token_to_id("[SEP]"))],
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )


def seq2seq_tokenizer(begin: str | None = None) -> Any:
    """A tokenizer that closes every text with its end token, and may begin it with `begin`."""
    made = tokenizer(*([begin] if begin else []), eos="</s>")
    core = made.backend_tokenizer
    wanted = [name for name in (begin, "</s>") if name]
    core.post_processor = processors.TemplateProcessing(
        single=" ".join([*([begin] if begin else []), "$A", "</s>"]),
        special_tokens=[(name, core.token_to_id(name)) for name in wanted],
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=begin, eos_token="</s>", pad_token="<pad>", model_max_length=512
    )


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}PICTURE{% elif c['type'] == 'text' %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml(picture: str = "") -> str:
    return CHATML.replace("PICTURE", picture)


def chat_tokenizer(*special: str, **named: Any) -> Any:
    return tokenizer("<|im_start|>", "<|im_end|>", *special, eos="<|im_end|>", **named)


def ids(made: Any, *names: str) -> list[int]:
    return [made.convert_tokens_to_ids(name) for name in names]


def text_ids(made: Any) -> dict[str, Any]:
    return dict(
        vocab_size=len(made),
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )


VISION = dict(**HIDDEN, image_size=16, patch_size=8)


def squash(cls: Any, side: int = 16, **more: Any) -> Any:
    return cls(size={"height": side, "width": side}, do_convert_rgb=True, **more)


def clip_pictures(**more: Any) -> Any:
    return t.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=True, **more
    )


def clip_vision() -> Any:
    return t.CLIPVisionConfig(**VISION, projection_dim=32)


def llama_text(made: Any, **more: Any) -> Any:
    return t.LlamaConfig(**{**TEXT, **text_ids(made), **more})


# --------------------------------------------------------------- pictures and words


def llava(cls: str = "Llava", **more: Any) -> tuple[Any, Any]:
    made = chat_tokenizer("<image>")
    made.image_token = "<image>"
    config = getattr(t, f"{cls}Config")(
        vision_config=clip_vision(),
        text_config=llama_text(made),
        image_token_index=ids(made, "<image>")[0],
        vision_feature_select_strategy="default",
        vision_feature_layer=-2 if cls != "VipLlava" else [-2, -1],
        **more,
    )
    processor = t.LlavaProcessor(
        clip_pictures(),
        made,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=chatml("<image>"),
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return config, processor


def llava_next() -> tuple[Any, Any]:
    made = chat_tokenizer("<image>")
    grid = [[16, 32], [32, 16], [32, 32]]
    config = t.LlavaNextConfig(
        vision_config=clip_vision(),
        text_config=llama_text(made),
        image_token_index=ids(made, "<image>")[0],
        image_grid_pinpoints=grid,
        vision_feature_select_strategy="default",
    )
    pictures = t.LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=grid
    )
    processor = t.LlavaNextProcessor(
        pictures,
        made,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=chatml("<image>"),
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return config, processor


def idefics3(cls: str = "Idefics3") -> tuple[Any, Any]:
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    special += [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    made = tokenizer("<|im_start|>", *special, bos="<|im_start|>", eos="<end_of_utterance>")
    template = (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}:"
        "{% else %}{{ ': ' }}{% endif %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
        "{% elif c['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    vision = getattr(t, f"{cls}VisionConfig")(**{**VISION, "image_size": 32})
    config = getattr(t, f"{cls}Config")(
        vision_config=vision.to_dict(),
        text_config=llama_text(made).to_dict(),
        image_token_id=ids(made, "<image>")[0],
        scale_factor=2,
        pad_token_id=made.pad_token_id,
    )
    pictures = getattr(t, f"{cls}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    made_of = dict(image_processor=pictures, tokenizer=made, image_seq_len=4, chat_template=template)
    if cls == "SmolVLM":
        return config, without_video(t.SmolVLMProcessor, made_of, num_frames=4, fps=1, video_sampling={})
    return config, t.Idefics3Processor(**made_of)


def without_video(cls: Any, made_of: dict[str, Any], **settings: Any) -> Any:
    from finesight.models.processors import NoVideo, without_check

    return without_check(cls, lambda: cls(**made_of, video_processor=NoVideo(settings)))


def qwen(version: str) -> tuple[Any, Any]:
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    made = chat_tokenizer(*names)
    start, end, image, video = ids(made, *names)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = dict(**TEXT, **text_ids(made), rope_parameters=rope, head_dim=8)
    common = dict(
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end
    )
    if version == "Qwen2VL":
        vision = dict(depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2, patch_size=4)
    elif version == "Qwen2_5_VL":
        vision = dict(
            depth=2,
            hidden_size=32,
            intermediate_size=64,
            num_heads=4,
            out_hidden_size=32,
            patch_size=4,
            window_size=16,
            fullatt_block_indexes=[1],
        )
    else:
        vision = dict(
            depth=2,
            hidden_size=32,
            intermediate_size=64,
            num_heads=4,
            out_hidden_size=32,
            patch_size=4,
            deepstack_visual_indexes=[0],
            num_position_embeddings=64,
        )
        rope["mrope_interleaved"] = True
    config = getattr(t, f"{version}Config")(text_config=text, vision_config=vision, **common)
    pictures = t.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    )
    template = chatml("<|vision_start|><|image_pad|><|vision_end|>")
    cls = getattr(t, f"{version}Processor")
    return config, without_video(cls, dict(image_processor=pictures, tokenizer=made, chat_template=template))


def mllama() -> tuple[Any, Any]:
    made = tokenizer(
        "<|image|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>",
        bos="<|begin_of_text|>", eos="<|eot_id|>",
    )  # fmt: skip
    template = (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<|image|>{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
        "{% endif %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
    text = t.models.mllama.MllamaTextConfig(
        **{**TEXT, **text_ids(made)}, cross_attention_layers=[1],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    vision = t.models.mllama.MllamaVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, attention_heads=4, num_global_layers=1,
        image_size=16, patch_size=8, max_num_tiles=4, intermediate_layers_indices=[0, 1],
        supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]], vision_output_dim=96,
    )  # fmt: skip
    config = t.MllamaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=ids(made, "<|image|>")[0],
    )
    pictures = t.MllamaImageProcessorPil(size={"height": 16, "width": 16}, max_image_tiles=4)
    return config, t.MllamaProcessor(pictures, made, chat_template=template)


def paligemma() -> tuple[Any, Any]:
    made = tokenizer("<image>", bos="<bos>", eos="<eos>")
    pictures = squash(t.SiglipImageProcessorPil)
    pictures.image_seq_length = 4
    processor = t.PaliGemmaProcessor(pictures, made)
    made = processor.tokenizer
    config = t.PaliGemmaConfig(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=t.GemmaConfig(**{**TEXT, **text_ids(made)}, head_dim=8),
        image_token_index=processor.image_token_id,
        projection_dim=32,
        hidden_size=32,
    )
    return config, processor


def gemma3() -> tuple[Any, Any]:
    named = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    made = tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        *named.values(),
        bos="<bos>",
        eos="<eos>",
        extra_special_tokens=named,
    )
    template = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    pictures = squash(t.Gemma3ImageProcessorPil)
    text = t.Gemma3TextConfig(**{**TEXT, **text_ids(made)}, head_dim=8, sliding_window=64)
    config = t.Gemma3Config(
        text_config=text,
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=ids(made, "<start_of_image>")[0],
        eoi_token_index=ids(made, "<end_of_image>")[0],
        image_token_index=ids(made, "<image_soft_token>")[0],
    )
    return config, t.Gemma3Processor(pictures, made, chat_template=template, image_seq_length=4)


def internvl() -> tuple[Any, Any]:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    named["video_token"] = "<video>"
    made = chat_tokenizer(*named.values(), extra_special_tokens=named)
    config = t.InternVLConfig(
        vision_config=t.InternVLVisionConfig(**{**VISION, "image_size": [16, 16], "patch_size": [4, 4]}),
        text_config=t.Qwen2Config(**{**TEXT, **text_ids(made)}),
        image_token_id=ids(made, "<IMG_CONTEXT>")[0],
        image_seq_length=4,
    )
    pictures = squash(t.GotOcr2ImageProcessorPil, crop_to_patches=True, max_patches=4)
    template = chatml("<IMG_CONTEXT>")
    return config, without_video(
        t.InternVLProcessor,
        dict(image_processor=pictures, tokenizer=made, image_seq_length=4, chat_template=template),
    )


def blip() -> tuple[Any, Any]:
    made = bert_tokenizer()
    size = len(made)
    text = dict(
        **HIDDEN, vocab_size=size + 2, bos_token_id=size, eos_token_id=2, pad_token_id=0, sep_token_id=3,
        max_position_embeddings=64, encoder_hidden_size=32, projection_dim=32,
    )  # fmt: skip
    config = t.BlipConfig(
        text_config=text, vision_config=dict(**VISION, projection_dim=32), projection_dim=32
    )
    return config, t.BlipProcessor(squash(t.BlipImageProcessorPil), made)


def blip2() -> tuple[Any, Any]:
    made = tokenizer("<image>", bos="</s>", eos="</s>", pad="<pad>")
    text = t.OPTConfig(
        vocab_size=len(made), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32, pad_token_id=made.pad_token_id,
        bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id,
    )  # fmt: skip
    config = t.Blip2Config(
        vision_config=dict(**VISION),
        qformer_config=dict(**HIDDEN, vocab_size=8, encoder_hidden_size=32, cross_attention_frequency=1),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=ids(made, "<image>")[0],
    )
    return config, t.Blip2Processor(squash(t.BlipImageProcessorPil), made, num_query_tokens=4)


def git() -> tuple[Any, Any]:
    made = bert_tokenizer()
    config = t.GitConfig(
        vision_config=dict(**VISION), **HIDDEN, vocab_size=len(made), max_position_embeddings=64,
        bos_token_id=made.cls_token_id, eos_token_id=made.sep_token_id, pad_token_id=0, num_image_with_embedding=None,
    )  # fmt: skip
    return config, t.GitProcessor(clip_pictures(), made)


def vision_encoder_decoder() -> tuple[Any, Any]:
    from finesight.models.processors import Pair

    made = tokenizer(bos=None, eos="<|endoftext|>", pad="<pad>")
    decoder = t.GPT2Config(
        vocab_size=len(made), n_embd=32, n_layer=2, n_head=4, n_positions=64, is_decoder=True,
        add_cross_attention=True, bos_token_id=made.eos_token_id, eos_token_id=made.eos_token_id,
    )  # fmt: skip
    config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        t.ViTConfig(**VISION),
        decoder,
        decoder_start_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
    config.tie_word_embeddings = True
    return config, Pair(made, squash(t.ViTImageProcessorPil))


def whisper() -> tuple[Any, Any]:
    begins = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    made = tokenizer(*begins, eos="<|endoftext|>")
    core = made.backend_tokenizer
    wanted = [(name, core.token_to_id(name)) for name in [*begins, "<|endoftext|>"]]
    core.post_processor = processors.TemplateProcessing(
        single=" ".join([*begins, "$A", "<|endoftext|>"]), special_tokens=wanted
    )
    config = t.WhisperConfig(
        vocab_size=len(made), num_mel_bins=8, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, d_model=32, max_source_positions=50,
        max_target_positions=64, decoder_start_token_id=wanted[0][1], eos_token_id=wanted[-1][1],
        bos_token_id=wanted[-1][1], pad_token_id=made.pad_token_id, begin_suppress_tokens=None,
    )  # fmt: skip
    return config, t.WhisperProcessor(t.WhisperFeatureExtractor(feature_size=8, chunk_length=1), made)


# --------------------------------------------------------------- words alone


def t5(cls: str = "T5") -> tuple[Any, Any]:
    made = seq2seq_tokenizer()
    config = getattr(t, f"{cls}Config")(
        vocab_size=len(made), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=made.pad_token_id, pad_token_id=made.pad_token_id, eos_token_id=made.eos_token_id,
    )  # fmt: skip
    return config, made


def bart(cls: str = "Bart", begin: str | None = "<s>", **more: Any) -> tuple[Any, Any]:
    made = seq2seq_tokenizer(begin)
    config = getattr(t, f"{cls}Config")(
        vocab_size=len(made), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128,
        bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id,
        decoder_start_token_id=made.eos_token_id if begin else made.pad_token_id, forced_eos_token_id=None, **more,
    )  # fmt: skip
    return config, made


def decoder(cls: str, template: bool = True, **more: Any) -> tuple[Any, Any]:
    made = chat_tokenizer() if template else tokenizer(bos="<s>", eos="</s>")
    if template:
        made.chat_template = chatml()
    return getattr(t, f"{cls}Config")(**{**TEXT, **text_ids(made), **more}), made


def gpt2(cls: str = "GPT2") -> tuple[Any, Any]:
    made = tokenizer(eos="<|endoftext|>")
    return t.GPT2Config(
        vocab_size=len(made), n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=made.eos_token_id,
        eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id,
    ), made  # fmt: skip


def opt() -> tuple[Any, Any]:
    made = tokenizer(bos="</s>", eos="</s>")
    return t.OPTConfig(
        vocab_size=len(made), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32, pad_token_id=made.pad_token_id,
        bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id,
    ), made  # fmt: skip


Maker = Callable[[], tuple[Any, Any]]
_of = functools.partial

PICTURES: dict[str, Maker] = {
    "llava": llava,
    "vipllava": _of(llava, "VipLlava"),
    "llava_next": llava_next,
    "idefics3": idefics3,
    "smolvlm": _of(idefics3, "SmolVLM"),
    "qwen2_vl": _of(qwen, "Qwen2VL"),
    "qwen2_5_vl": _of(qwen, "Qwen2_5_VL"),
    "qwen3_vl": _of(qwen, "Qwen3VL"),
    "mllama": mllama,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "internvl": internvl,
    "blip": blip,
    "blip-2": blip2,
    "git": git,
    "vision-encoder-decoder": vision_encoder_decoder,
}

SOUNDS: dict[str, Maker] = {"whisper": whisper}

WORDS: dict[str, Maker] = {
    "t5": t5,
    "mt5": _of(t5, "MT5"),
    "umt5": _of(t5, "UMT5"),
    "bart": bart,
    "pegasus": _of(bart, "Pegasus", None),
    "marian": _of(bart, "Marian", None),
    "llama": _of(decoder, "Llama"),
    "phi": _of(decoder, "Phi", False),
    "phi3": _of(decoder, "Phi3", original_max_position_embeddings=512),
    "mistral": _of(decoder, "Mistral", head_dim=8),
    "qwen2": _of(decoder, "Qwen2"),
    "qwen3": _of(decoder, "Qwen3", head_dim=8),
    "gemma": _of(decoder, "Gemma", head_dim=8),
    "gemma2": _of(decoder, "Gemma2", head_dim=8, sliding_window=64),
    "smollm3": _of(decoder, "SmolLM3"),
    "olmo2": _of(decoder, "Olmo2"),
    "stablelm": _of(decoder, "StableLm"),
    "granite": _of(decoder, "Granite"),
    "cohere": _of(decoder, "Cohere", logit_scale=1.0),
    "gpt_neox": _of(decoder, "GPTNeoX", False),
    "gpt2": gpt2,
    "opt": opt,
}

MAKERS: dict[str, Maker] = {**PICTURES, **SOUNDS, **WORDS}


def names(makers: Sequence[str] | dict[str, Maker]) -> list[str]:
    return sorted(makers)
