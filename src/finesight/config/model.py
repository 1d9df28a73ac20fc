"""The `model` section: where the weights come from, or every size of a model from scratch."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from finesight.config.base import Inconsistent, Section, Switch
from finesight.config.compose import Compose
from finesight.config.loading import Load

PartName = Literal["vision_tower", "audio_tower", "projector", "audio_projector", "language_model"]


def _part_or_pattern(word: str) -> str:
    """Refuse what can be neither: every parameter's name has a point."""
    parts = get_args(PartName)
    if word in parts or "." in word or "*" in word:
        return word
    near = get_close_matches(word, parts, n=1)
    raise Inconsistent(
        f"`{word}` is no part of a model, and no pattern of parameter names: those have a `.` or a `*`",
        (f"did you mean `{near[0]}`? " if near else "") + f"the parts are {', '.join(parts)}",
    )


PartOrPattern = Annotated[str, AfterValidator(_part_or_pattern)]
"""A part of a model, or a pattern of parameter names."""


class Vision(Section):
    """Sizes of the vision transformer (SigLIP's layers, without its pooling head)."""

    image_size: PositiveInt = 32
    """Height and width that a picture is squashed to, in pixels."""
    patch: PositiveInt = 8
    """Height and width of one patch in pixels; must divide `image_size`. (image_size / patch)² visual tokens."""
    layers: PositiveInt = 4
    """Number of transformer layers."""
    heads: PositiveInt = 4
    """Number of attention heads; must divide `width`."""
    width: PositiveInt = 128
    """Hidden size."""
    mlp: PositiveInt = 512
    """Hidden size inside each feed-forward block."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of attention weights that are dropped while training."""

    @model_validator(mode="after")
    def _divisible(self) -> "Vision":
        if self.image_size % self.patch:
            raise Inconsistent(
                f"`patch: {self.patch}` does not divide `image_size: {self.image_size}`",
                "choose sizes of which one is a multiple of the other, such as patch 8 and image_size 32",
            )
        if self.width % self.heads:
            raise Inconsistent(
                f"`heads: {self.heads}` does not divide `width: {self.width}`",
                f"make the width a multiple of the heads, such as {self.heads * 32}",
            )
        return self


class Decoder(Section):
    """Sizes of the language model (Llama's layers)."""

    layers: PositiveInt = 4
    """Number of transformer layers."""
    heads: PositiveInt = 4
    """Number of attention heads; must divide `width`."""
    kv_heads: PositiveInt | None = None
    """Number of key and value heads (grouped-query attention); `heads` where absent; must divide `heads`."""
    width: PositiveInt = 128
    """Hidden size."""
    mlp: PositiveInt = 512
    """Hidden size inside each feed-forward block."""
    context: PositiveInt = 128
    """Longest sequence in tokens, visual tokens included."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of attention weights that are dropped while training."""
    tie_embeddings: Switch = True
    """Use one matrix for the input and the output embeddings."""

    @model_validator(mode="after")
    def _divisible(self) -> "Decoder":
        if self.width % self.heads:
            raise Inconsistent(
                f"`heads: {self.heads}` does not divide `width: {self.width}`",
                f"make the width a multiple of the heads, such as {self.heads * 32}",
            )
        if self.kv_heads and self.heads % self.kv_heads:
            raise Inconsistent(
                f"`kv_heads: {self.kv_heads}` does not divide `heads: {self.heads}`",
                "make the heads a multiple of the kv_heads",
            )
        return self


class Tokenizer(Section):
    """A byte-level BPE tokenizer, trained on the texts of the recipe's own training data."""

    vocabulary: int = Field(default=512, ge=264)
    """Largest number of tokens: 256 bytes, the special tokens, then merges."""


class Scratch(Section):
    """A model from scratch in the LLaVA architecture of `transformers`: vision transformer, projector, decoder."""

    vision: Vision = Vision()
    """Sizes of the vision transformer."""
    projector: Literal["linear", "mlp"] = "mlp"
    """How a visual token becomes a token of the decoder: one matrix, or two with a GELU between."""
    decoder: Decoder = Decoder()
    """Sizes of the decoder."""
    tokenizer: Tokenizer = Tokenizer()
    """How the tokenizer is trained."""


class Fresh(Section):
    """A new model of a type that `transformers` knows, with random weights: `blip`, or a text model."""

    config: dict[str, Any]
    """`model_type` and values of its configuration; what follows from the tokenizer is filled in."""
    vocabulary: int = Field(default=512, ge=264)
    """Largest number of tokens; the tokenizer learns from the texts of the recipe's own training data."""
    context: PositiveInt = 512
    """Longest text in tokens, where the type itself sets no limit."""

    @model_validator(mode="after")
    def _typed(self) -> "Fresh":
        if not isinstance(self.config.get("model_type"), str):
            raise Inconsistent(
                "the `config` of the new model does not say what it is",
                "give `model_type:` as `transformers` calls it, such as t5, llama or blip",
            )
        return self


class Allow(Section):
    """Names of tensors, with `*` for any part of a name, that may be missing or unknown."""

    missing: tuple[str, ...] = ()
    """Tensors that the files lack; they begin at random values, which is told."""
    unexpected: tuple[str, ...] = ()
    """Tensors that the model has no place for; they are left out, which is told."""


_COMMIT = re.compile(r"[0-9a-f]{40}")


class Model(Section):
    """Where the model comes from: exactly one of `scratch`, `fresh`, `pretrained` and `compose`."""

    scratch: Scratch | None = None
    """Every size of a model with random weights."""
    pretrained: str | None = None
    """A run, its `model/` or `adapter/`, a checkpoint, or a folder or hub id of a model that `transformers` loads or of
    an adapter of `peft`."""
    fresh: Fresh | None = None
    """A captioner or text model of a known type with random weights."""
    compose: Compose | None = None
    """A vision encoder, a projector and a language model put together, each pretrained or with random weights."""
    revision: str | None = None
    """With a hub id: the commit, branch or tag that is read; an adapter names that of its base itself."""
    trust_remote_code: Switch = False
    """Run the code that lies beside the weights, with all rights that you have: only where you have read it. From the
    hub it needs a `revision` that is a commit (40 hexadecimal digits), so that nobody can change it afterwards."""
    allow: Allow = Allow()
    """Weights of `pretrained` that need not fit."""
    load: Load = Load()
    """How the model is held where it answers, by `evaluate`; training refuses it."""
    weights: str | None = None
    """A file with weights from elsewhere (`.pth`, `.pt`, `.bin`, `.safetensors`: tensors by name) to begin with, in
    place of those that the model has; its names and shapes must be the model's."""
    freeze: tuple[PartOrPattern, ...] = ()
    """What does not learn: parts (`vision_tower`, `audio_tower`, `projector`, `audio_projector`, `language_model`), and
    patterns of parameter names, in which `*` stands for anything. A word that means nothing, or nothing that the words
    before it do not mean, is an error."""
    cache: Literal["none", "features"] = "none"
    """With `features`: what a frozen vision encoder sees in each picture is kept on disk and read from there, where
    that is faster than encoding it again, and where no `data.transforms` change the pictures."""

    @property
    def vocabulary(self) -> int | None:
        """Largest size of the tokenizer that learns from the training data; None where the model brings its own."""
        if self.scratch is not None:
            return self.scratch.tokenizer.vocabulary
        if self.fresh is not None:
            return self.fresh.vocabulary
        if self.compose is not None and self.compose.language.config is not None:
            return self.compose.language.learned
        return None

    @model_validator(mode="after")
    def _pinned_code(self) -> "Model":
        local = self.pretrained is None or Path(self.pretrained).expanduser().is_dir()
        if self.trust_remote_code and not local and not _COMMIT.fullmatch(self.revision or ""):
            raise Inconsistent(
                "`trust_remote_code` runs code from the hub, and `revision` does not pin it",
                "read the code, and give the commit that you have read: `revision:` with its 40 hexadecimal digits",
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> "Model":
        origins = ("scratch", "fresh", "pretrained", "compose")
        given = [name for name in origins if getattr(self, name) is not None]
        if len(given) != 1:
            there = " and ".join(f"`{name}`" for name in given) + " are there" if given else "none is there"
            raise Inconsistent(
                f"exactly one of {', '.join(origins)} says where the model comes from; {there}",
                "give `scratch: {}` or `fresh:` for a model with random weights, `pretrained:` with a run, folder or "
                "hub id, or `compose:` with its parts",
            )
        return self
