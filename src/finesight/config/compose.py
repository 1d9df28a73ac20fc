"""`model.compose`: a vision encoder, a projector and a language model put together; ears where they are wanted."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from finesight.config.base import Inconsistent, Section

DERIVED = ("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id")
"""Values of a language model's configuration that follow from its tokenizer."""


def _one_origin(
    part: str,
    pretrained: str | None,
    config: dict[str, Any] | None,
    such: str = "siglip_vision_model, clip_vision_model or llama",
) -> None:
    if (pretrained is None) == (config is None):
        given = "neither" if pretrained is None else "both"
        raise Inconsistent(
            f"exactly one of `pretrained` and `config` says where the {part} comes from; {given} is there",
            "give `pretrained:` with a folder, hub id or run, or `config:` with a `model_type` and its sizes",
        )
    if config is not None and not isinstance(config.get("model_type"), str):
        raise Inconsistent(
            f"the `config` of the {part} does not say what it is",
            f"give `model_type:` as `transformers` calls it, such as {such}",
        )


class VisionPart(Section):
    """The vision encoder, and what is read from it."""

    pretrained: str | None = None
    """A folder, hub id or run with an encoder (of a larger model its vision part is taken), `efficientnet-lite0`, or
    the `.pth` file of one."""
    config: dict[str, Any] | None = None
    """An encoder with random weights: `model_type` and values of its `transformers` configuration."""
    image_size: PositiveInt | None = None
    """Height and width that a picture is squashed to, in pixels; the encoder's own where absent."""
    layer: Annotated[int, Field(lt=0)] = -1
    """Which of its hidden states are read, from the end: -1 is the last layer's output, -2 the one before."""
    tokens: Literal["all", "patches", "cls"] = "patches"
    """Which of its tokens: those of the patches, those before them too (class and register tokens), or the first
    alone."""

    @model_validator(mode="after")
    def _origin(self) -> "VisionPart":
        _one_origin("vision encoder", self.pretrained, self.config)
        return self


_SIZES = {
    "linear": (),
    "mlp": ("width",),
    "resblock": ("width", "blocks"),
    "pixel_shuffle": ("factor",),
}
"""The keys that each kind of projector has."""


class ProjectorPart(Section):
    """How a token of the encoder becomes one of the language model."""

    kind: Literal["linear", "mlp", "resblock", "pixel_shuffle"] = "mlp"
    """linear: one matrix. mlp: two with a GELU between. resblock: residual blocks with layer norm, then a matrix.
    pixel_shuffle: `factor` × `factor` patches become one token, then a matrix."""
    width: PositiveInt | None = None
    """Width inside of an mlp (the language model's where absent) or a resblock (the encoder's)."""
    blocks: PositiveInt | None = None
    """Residual blocks of a resblock; one where absent."""
    factor: Annotated[int, Field(ge=2)] | None = None
    """Side of the squares of patches that pixel_shuffle makes one token of; 2 where absent."""

    pretrained: str | None = None
    """A `.safetensors`, `.bin`, `.pt` or `.pth` file with the weights of such a projector; random where absent."""

    @model_validator(mode="after")
    def _own_sizes(self) -> "ProjectorPart":
        given = [name for name in ("width", "blocks", "factor") if getattr(self, name) is not None]
        strange = [name for name in given if name not in _SIZES[self.kind]]
        if strange:
            own = _SIZES[self.kind]
            raise Inconsistent(
                f"a projector of the kind {self.kind} has no `{'`, `'.join(strange)}`",
                f"take it out, or choose another kind; {self.kind} has {', '.join(own) or 'no sizes of its own'}",
            )
        return self


class AudioProjectorPart(Section):
    """How neighbouring frames of the encoder of sounds become one token of the language model."""

    kind: Literal["linear", "mlp"] = "mlp"
    """linear: one matrix. mlp: two with a GELU between."""
    factor: PositiveInt = 8
    """Neighbouring frames that become one token. Whisper has fifty frames a second: 8 makes six tokens a second."""
    width: PositiveInt | None = None
    """Width inside of an mlp; the language model's where absent."""
    pretrained: str | None = None
    """A `.safetensors`, `.bin`, `.pt` or `.pth` file with the weights of such a projector; random where absent."""

    @model_validator(mode="after")
    def _own_sizes(self) -> "AudioProjectorPart":
        if self.width is not None and self.kind == "linear":
            raise Inconsistent(
                "a projector of the kind linear has no `width`", "take it out, or choose `kind: mlp`"
            )
        return self


class AudioPart(Section):
    """The encoder of sounds, what is read from it, and its own projector."""

    pretrained: str | None = None
    """A folder, hub id or run with a Whisper, of which the encoder is taken, or with a composed model that hears."""
    config: dict[str, Any] | None = None
    """An encoder with random weights: `model_type: whisper` and values of its `transformers` configuration."""
    layer: Annotated[int, Field(lt=0)] = -1
    """Which of its hidden states are read, from the end: -1 is the output after its last norm, -2 what goes into its
    last layer."""
    projector: AudioProjectorPart = AudioProjectorPart()
    """What joins it and the language model."""

    @model_validator(mode="after")
    def _origin(self) -> "AudioPart":
        _one_origin("encoder of sounds", self.pretrained, self.config, "whisper")
        return self


_VOCABULARY = 512


class LanguagePart(Section):
    """The language model, its tokenizer and its chat template."""

    pretrained: str | None = None
    """A folder, hub id or run with a language model (of a larger model its text part is taken), or a `.gguf` file."""
    config: dict[str, Any] | None = None
    """A language model with random weights: `model_type` and values of its `transformers` configuration. What the
    tokenizer decides (`vocab_size` and the special tokens' ids) is derived."""
    vocabulary: Annotated[int, Field(ge=264)] | None = None
    """With `config`: largest number of tokens of the byte-level BPE tokenizer that learns from the training data; 512
    where absent."""
    template: str | None = None
    """How turns are written: `plain` (User: … Assistant: …), or a Jinja file's path. The model's own where absent."""

    @model_validator(mode="after")
    def _origin(self) -> "LanguagePart":
        _one_origin("language model", self.pretrained, self.config)
        derived = [name for name in DERIVED if name in (self.config or {})]
        if derived:
            raise Inconsistent(
                f"`{'`, `'.join(derived)}` in the `config` of the language model is derived from its tokenizer",
                "take it out; `vocabulary` sets the size of the tokenizer",
            )
        if self.vocabulary is not None and self.pretrained is not None:
            raise Inconsistent(
                "`vocabulary` has a meaning only with `config`: a pretrained model has its own tokenizer",
                "take `vocabulary` out",
            )
        return self

    @property
    def learned(self) -> int:
        """Largest number of tokens of a tokenizer that is learned."""
        return self.vocabulary or _VOCABULARY


class Compose(Section):
    """A vision encoder, a projector and a language model, and an encoder of sounds; every dimension between them is
    derived.

    With a linear or mlp projector, an encoder that LLaVA knows and no ears it is a plain LLaVA model; else the saved
    folder carries its own modelling file.
    """

    vision: VisionPart
    """The vision encoder."""
    projector: ProjectorPart = ProjectorPart()
    """What joins the two."""
    language: LanguagePart
    """The language model."""
    audio: AudioPart | None = None
    """The encoder of sounds with its projector: the model then hears the sounds of samples itself."""
    image_start: Annotated[str, Field(min_length=1)] | None = None
    """A token that is written before every picture; added to the tokenizer where it is new."""
    image_end: Annotated[str, Field(min_length=1)] | None = None
    """A token that is written after every picture; added to the tokenizer where it is new."""
