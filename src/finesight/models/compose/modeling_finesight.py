"""A vision encoder, a projector and a language model, where the LLaVA architecture of `transformers` is not enough.

This file needs `torch` and `transformers` alone. finesight copies it beside the weights, so that the folder loads with
`AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)`; the processor is a plain LlavaProcessor,
or, of a model that hears, that of `processing_finesight.py`.
It adds to LLaVA: projectors with layer norm or fewer visual tokens, encoders of any width and any number of tokens
before their patches, EfficientNet-Lite, output embeddings with a bias, and an encoder of sounds with its own projector.

P pictures, C channels, H height, W width, S positions of the encoder, K tokens of a picture or sound, D the encoder's
width, E the language model's, A sounds, F features of a frame, L frames.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

LITE0_BLOCKS = [
    [1, 3, 1, 1, 16],
    [2, 3, 2, 6, 24],
    [2, 5, 2, 6, 40],
    [3, 3, 2, 6, 80],
    [3, 5, 1, 6, 112],
    [4, 5, 2, 6, 192],
    [1, 3, 1, 6, 320],
]
"""Repeats, kernel, stride, expansion and channels of each stage: EfficientNet-B0's table (Tan and Le, arXiv 1905.11946,
table 1), which Lite0 shares."""


class FinesightEfficientNetLiteConfig(PretrainedConfig):
    """Sizes of an EfficientNet-Lite: no squeeze-and-excitation, ReLU6, a fixed stem and head."""

    model_type = "finesight_efficientnet_lite"

    image_size: int = 128
    num_channels: int = 3
    stem: int = 32
    blocks: list[list[int]] | None = None
    hidden_size: int = 1280
    patch_size: int = 32  # what the strides make together
    num_hidden_layers: int = 1  # what `vision_feature_layer` may choose from: the head's output alone
    norm_eps: float = 1e-3
    norm_momentum: float = 0.01

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the blocks of Lite0."""
        self.blocks = [list(stage) for stage in self.blocks or LITE0_BLOCKS]
        super().__post_init__(**kwargs)


class FinesightLlavaConfig(LlavaConfig):
    """LLaVA's configuration with a projector of any kind.

    `finesight_format` is raised where this file no longer builds what an older configuration says. `vision_width` is D.
    `vision_prefix` counts the encoder's positions before those of the patches. `vision_tokens` is `all` positions, the
    `patches`, or the first position alone (`cls`). `projector_kind` is `linear`, `mlp`, `resblock` or `pixel_shuffle`;
    `projector_width` is the width inside of mlp and resblock, `projector_blocks` the number of residual blocks,
    `projector_factor` the side of the squares of patches that become one token.

    With an `audio_config` the model hears: the state `audio_layer` of that encoder is read, which has a position of the
    width `audio_width` for `audio_stride` frames. `audio_projector_factor` neighbours become one token by
    `audio_projector_kind` (`linear`, or `mlp` of the width `audio_projector_width` inside), where the text has the
    token `audio_token_index`.
    """

    model_type = "finesight_llava"
    _auto_class: ClassVar[str | None] = "AutoConfig"
    attribute_map: ClassVar[dict[str, str]] = {
        **LlavaConfig.attribute_map,
        "audio_token_id": "audio_token_index",
    }
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        **LlavaConfig.sub_configs_defaults,
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper", optional=True),
    }

    finesight_format: int = 1
    vision_width: int = 1024
    vision_prefix: int = 0
    vision_tokens: str = "all"
    projector_kind: str = "mlp"
    projector_width: int | None = None
    projector_blocks: int = 1
    projector_factor: int = 2
    head_bias: bool = False
    audio_config: dict[str, Any] | PretrainedConfig | None = None
    audio_token_index: int | None = None
    audio_width: int = 384
    audio_stride: int = 2
    audio_layer: int = -1
    audio_projector_kind: str = "mlp"
    audio_projector_width: int | None = None
    audio_projector_factor: int = 8

    def __post_init__(self, **kwargs: Any) -> None:
        """Know the encoder of this file, which no table of `transformers` has."""
        vision = vars(self)["vision_config"]
        if (
            isinstance(vision, dict)
            and vision.get("model_type") == FinesightEfficientNetLiteConfig.model_type
        ):
            self.vision_config = FinesightEfficientNetLiteConfig(**vision)
        super().__post_init__(**kwargs)


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME: an odd pixel is added at the right and the bottom."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(P, C, H, W) to (P, C', ⌈H / stride⌉, ⌈W / stride⌉)."""
        lacking = []
        for side in (x.shape[-1], x.shape[-2]):
            kernel, stride = self.kernel_size[0], self.stride[0]
            more = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            lacking += [more // 2, more - more // 2]
        return super().forward(F.pad(x, lacking) if any(lacking) else x)


class ConvNorm(nn.Module):
    """Convolution, batch norm and, but for the last of a block, ReLU6."""

    def __init__(
        self, config: Any, channels_in: int, channels_out: int, kernel: int, *rest: int, act: bool = True
    ):
        super().__init__()
        self.conv = SameConv(channels_in, channels_out, kernel, *rest)
        self.norm = nn.BatchNorm2d(channels_out, eps=config.norm_eps, momentum=config.norm_momentum)
        self.act = nn.ReLU6() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features of pictures."""
        return self.act(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """MBConv (Sandler et al., arXiv 1801.04381): widen, filter each channel, narrow, and add where the shape stays."""

    def __init__(
        self, config: Any, channels_in: int, kernel: int, stride: int, expansion: int, channels_out: int
    ):
        super().__init__()
        inside = channels_in * expansion
        self.expand = ConvNorm(config, channels_in, inside, 1) if expansion != 1 else nn.Identity()
        self.filter = ConvNorm(config, inside, inside, kernel, stride, inside)
        self.narrow = ConvNorm(config, inside, channels_out, 1, act=False)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Features of pictures."""
        made = self.narrow(self.filter(self.expand(x)))
        return x + made if self.adds else made


class FinesightEfficientNetLite(PreTrainedModel):
    """EfficientNet-Lite up to its last convolution: pictures (P, 3, H, W) to one state (P, ⌈H/32⌉ · ⌈W/32⌉, D).

    Pictures are levels from 0 to 255, taken as (level − 127) / 128.
    """

    config_class = FinesightEfficientNetLiteConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FinesightEfficientNetLiteConfig):
        super().__init__(config)
        self.stem = ConvNorm(config, config.num_channels, config.stem, 3, 2)
        channels, blocks = config.stem, []
        for repeats, kernel, stride, expansion, made in config.blocks or ():
            for number in range(repeats):
                blocks.append(
                    InvertedResidual(config, channels, kernel, stride if number == 0 else 1, expansion, made)
                )
                channels = made
        self.blocks = nn.ModuleList(blocks)
        self.last = ConvNorm(config, channels, config.hidden_size, 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As EfficientNet begins: variance 2 over a filter's outputs, so that signals keep their size."""
        super()._init_weights(module)
        if isinstance(module, SameConv):
            outputs = module.weight[0, 0].numel() * module.out_channels // module.groups
            init.normal_(module.weight, mean=0.0, std=math.sqrt(2 / outputs))

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """The features of each place, row by row."""
        x = self.stem(pixel_values)
        for block in self.blocks:
            x = block(x)
        found = self.last(x).flatten(2).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=found, hidden_states=(found,))


class ResidualBlock(nn.Module):
    """x + Linear(GELU(Linear(LayerNorm(x)))): the width stays, and what it adds begins small."""

    def __init__(self, width: int, inside: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, inside)
        self.linear_2 = nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        """(P, K, width), as it came in."""
        return x + self.linear_2(F.gelu(self.linear_1(self.norm(x))))


def simple_steps(kind: str, width: int, inside: int | None, made: int) -> list[nn.Module]:
    """The layers of a projector `linear` or `mlp`."""
    if kind == "linear":
        return [nn.Linear(width, made)]
    if kind != "mlp":
        raise ValueError(f"no projector is called {kind!r}")
    return [nn.Linear(width, inside or made), nn.GELU(), nn.Linear(inside or made, made)]


class FinesightProjector(nn.Module):
    """Features of the encoder (P, S, D) to tokens of the language model (P, K, E).

    linear:         one matrix with a bias.
    mlp:            Linear, GELU, Linear.
    resblock:       a layer norm over the encoder's features, residual blocks at the encoder's width
                    (x + Linear(GELU(Linear(LayerNorm(x))))), then a matrix to the language model's width: the
                    projector used to join CLIP and Phi-2, whose features differ much in scale from token to token.
    pixel_shuffle:  squares of factor × factor patches side by side in the channels (space to depth), then one matrix
                    without a bias, as in Idefics3 and SmolVLM: factor² times fewer tokens.
    """

    def __init__(self, config: FinesightLlavaConfig):
        super().__init__()
        width, made = config.vision_width, config.text_config.hidden_size
        inside = config.projector_width
        self.factor = config.projector_factor if config.projector_kind == "pixel_shuffle" else 1
        if config.projector_kind in ("linear", "mlp"):
            steps = simple_steps(config.projector_kind, width, inside, made)
        elif config.projector_kind == "resblock":
            blocks = [ResidualBlock(width, inside or width) for _ in range(config.projector_blocks)]
            steps = [nn.LayerNorm(width), *blocks, nn.Linear(width, made)]
        elif config.projector_kind == "pixel_shuffle":
            steps = [nn.Linear(width * self.factor**2, made, bias=False)]
        else:
            raise ValueError(f"no projector is called {config.projector_kind!r}")
        self.steps = nn.Sequential(*steps)

    def forward(self, features: Tensor) -> Tensor:
        """(P, S, D) to (P, K, E)."""
        return self.steps(self.shuffled(features) if self.factor > 1 else features)

    def shuffled(self, features: Tensor) -> Tensor:
        """(P, S, D) of a square picture to (P, S / factor², D · factor²)."""
        pictures, places, width = features.shape
        side, factor = math.isqrt(places), self.factor
        few = side // factor
        squares = features.view(pictures, few, factor, few, factor, width).transpose(2, 3)
        return squares.reshape(pictures, few * few, factor * factor * width)


class FinesightAudioProjector(nn.Module):
    """States of sounds (A, S, D) to tokens of the language model (A, ⌈S / factor⌉, E).

    `factor` neighbours side by side, zeros after the last ones, then one matrix, or two with a GELU between.
    """

    def __init__(self, config: FinesightLlavaConfig):
        super().__init__()
        self.factor = config.audio_projector_factor
        kind, inside = config.audio_projector_kind, config.audio_projector_width
        width, made = config.audio_width * self.factor, config.text_config.hidden_size
        self.steps = nn.Sequential(*simple_steps(kind, width, inside, made))

    def forward(self, states: Tensor) -> Tensor:
        """(A, S, D) to (A, ⌈S / factor⌉, E)."""
        sounds, places, width = states.shape
        few = math.ceil(places / self.factor)
        whole = F.pad(states, (0, 0, 0, few * self.factor - places))
        return self.steps(whole.reshape(sounds, few, self.factor * width))


def sound_encoder(config: Any) -> PreTrainedModel:
    """Whisper's encoder alone, with random weights."""
    return WhisperEncoder._from_config(config)


class FinesightLlavaModel(LlavaModel):
    """LLaVA's model with other towers and projectors; parts and parameters have LLaVA's names."""

    config_class = FinesightLlavaConfig

    def __init__(self, config: FinesightLlavaConfig):
        super(LlavaModel, self).__init__(config)  # LLaVA's own parts are not made
        own = isinstance(config.vision_config, FinesightEfficientNetLiteConfig)
        self.vision_tower = (
            FinesightEfficientNetLite(config.vision_config)
            if own
            else AutoModel.from_config(config.vision_config)
        )
        self.multi_modal_projector = FinesightProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        if config.audio_config is not None:
            self.audio_tower = sound_encoder(config.audio_config)
            self.audio_projector = FinesightAudioProjector(config)
        self.post_init()

    def train(self, mode: bool = True) -> "FinesightLlavaModel":
        """Training mode, but for a frozen encoder: its batch norms keep their statistics, and it drops nothing."""
        super().train(mode)
        ears = [] if self.config.audio_config is None else [self.audio_tower]
        for tower in [self.vision_tower, *ears]:
            if not any(value.requires_grad for value in tower.parameters()):
                tower.eval()
        return self

    def encoded(self, pixel_values: Tensor) -> Tensor:
        """The encoder's features (P, S, D) that the projector takes, of pictures (P, C, H, W)."""
        found = self.vision_tower(pixel_values, output_hidden_states=True, return_dict=True)
        features = found.hidden_states[self.config.vision_feature_layer]
        if features.dim() == 4:  # (P, D, H, W) of a convolutional network
            features = features.flatten(2).transpose(1, 2)
        if self.config.vision_tokens == "cls":
            return features[:, :1]
        return (
            features[:, self.config.vision_prefix :] if self.config.vision_tokens == "patches" else features
        )

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Visual tokens of each picture, (K, E), in `pooler_output`."""
        features = self.encoded(pixel_values)
        tokens = self.multi_modal_projector(features)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=list(tokens))

    def get_audio_features(
        self, input_features: Tensor, input_features_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Tokens of each sound, (K, E), in `pooler_output`, of features (A, F, L) of which the mask (A, L) marks those
        that are no padding."""
        features = input_features.to(self.audio_tower.dtype)
        found = self.audio_tower(features, output_hidden_states=True, return_dict=True)
        states = found.hidden_states[self.config.audio_layer]
        counts = self.audio_tokens(
            torch.ones_like(features[:, 0]) if input_features_mask is None else input_features_mask
        )
        tokens = self.audio_projector(states)
        heard = [row[:count] for row, count in zip(tokens, counts, strict=True)]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=heard)

    def audio_tokens(self, mask: Tensor) -> list[int]:
        """How many tokens sounds become whose frames the mask (A, L) marks: K = ⌈⌈frames / stride⌉ / factor⌉."""
        stride, factor = self.config.audio_stride, self.config.audio_projector_factor
        return [math.ceil(math.ceil(frames / stride) / factor) for frames in mask.sum(-1).tolist()]

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        **more: Any,
    ) -> Any:
        """LLaVA's, with the tokens of sounds in their places."""
        if input_features is None:
            seen = {"pixel_values": pixel_values, "mm_encoder_outputs": mm_encoder_outputs}
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **seen, **more)
        if input_ids is None:
            raise ValueError("sounds stand where `input_ids` has their tokens, and it is not there")
        embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        images = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            images = self.get_image_features(pixel_values=pixel_values)
        sounds = self.get_audio_features(input_features, input_features_mask)
        for found, token in ((images, self.config.image_token_id), (sounds, self.config.audio_token_id)):
            if found is not None:
                embeds = _placed(embeds, torch.cat(list(found.pooler_output)), input_ids == token)
        return super().forward(inputs_embeds=embeds, **more)


def _placed(embeds: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Embeddings (B, T, E) with tokens (N, E), one after another, where the mask (B, T) says so."""
    if int(mask.sum()) != len(tokens):
        raise ValueError(f"{int(mask.sum())} placeholders stand for {len(tokens)} tokens")
    return embeds.masked_scatter(mask[..., None], tokens.to(embeds.device, embeds.dtype))


class FinesightLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """The whole model; everything that is said of LLaVA's in `transformers` is true of it."""

    config_class = FinesightLlavaConfig
    _auto_class = "AutoModelForImageTextToText"

    def __init__(self, config: FinesightLlavaConfig):
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = FinesightLlavaModel(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=config.head_bias)
        inner = self.model.language_model
        names = [name for name, module in inner.named_modules() if module is inner.get_input_embeddings()]
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{names[0]}.weight"}
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Visual tokens of each picture, (K, E), in `pooler_output`."""
        return self.model.get_image_features(pixel_values)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """LLaVA's, and sounds: `input_features` (A, F, L) with the mask (A, L) of the frames that are no padding."""
        heard = {"input_features": input_features, "input_features_mask": input_features_mask}
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            **(heard if input_features is not None else {}),
            **kwargs,
        )

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **kwargs: Any
    ) -> Any:
        """Repeats the rows for beams; the sounds of a row stay together, (a, b) as (a, b, a, b)."""
        heard = {
            name: kwargs.pop(name) for name in ("input_features", "input_features_mask") if name in kwargs
        }
        if "input_features" in heard and expand_size > 1:
            mask = heard.get("input_features_mask", torch.ones_like(heard["input_features"][:, 0]))
            ends = torch.tensor(self.model.audio_tokens(mask)).cumsum(0).tolist()
            rows = (input_ids == self.config.audio_token_id).sum(-1).cumsum(0).tolist()
            cuts = [0, *(sum(end <= row for end in ends) for row in rows)]
            groups = [list(range(*cuts[row : row + 2])) for row in range(len(rows))]
            order = [sound for group in groups for sound in group * expand_size]
            heard = {name: value[order] for name, value in heard.items()}
        ids, made = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        return ids, {**made, **heard}
