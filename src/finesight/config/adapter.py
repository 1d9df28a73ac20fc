"""The `adapter` section: small matrices that learn beside a frozen model, and what else learns."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, Tag, model_validator

from finesight.config.base import Inconsistent, Section, Switch, by_shape
from finesight.config.loading import Quantize
from finesight.config.model import PartName

TargetWord = Literal["attention", "all_linear"]
"""`attention`: the matrices inside attention blocks; `all_linear`: every matrix but the output embeddings."""

PartTargets = Annotated[
    Annotated[TargetWord, Tag("text")] | Annotated[tuple[str, ...], Tag("a list")], by_shape
]
"""What is adapted in one part of a model."""

Targets = Annotated[
    Annotated[TargetWord, Tag("text")]
    | Annotated[tuple[str, ...], Tag("a list")]
    | Annotated[Mapping[PartName, PartTargets], Tag("a mapping")],
    by_shape,
]


class Adapter(Section):
    """Low-rank matrices on a frozen base model, by the `peft` library; the run then has `adapter/`, not `model/`."""

    method: Literal["lora"] = "lora"
    """LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""
    rank: PositiveInt = 8
    """Columns of A and rows of B: how much an adapted matrix can change."""
    alpha: PositiveInt = 16
    """The product B·A is multiplied by alpha / rank, or by alpha / √rank with `rslora`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapted layer's inputs that A does not see while training."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that learn: none, those of the whole model, or those of the adapted layers."""
    targets: Targets = "all_linear"
    """What is adapted: `attention`, `all_linear`, or a list of names of layers (`q_proj`, `layers.0.mlp.up_proj`,
    `layers.1.*`); that of the language model, unless a mapping names other parts: `{vision_tower: attention}`."""
    rslora: Switch = False
    """Scale by alpha / √rank (https://arxiv.org/abs/2312.03732)."""
    dora: Switch = False
    """Learn the length of each row beside its direction (https://arxiv.org/abs/2402.09353)."""
    save: tuple[str, ...] = ()
    """What learns whole and is saved whole: parts (`projector`), names of modules, or `embeddings` (both of them)."""
    quantize: Quantize | None = None
    """Numbers of the frozen matrices: 4 bits (QLoRA, https://arxiv.org/abs/2305.14314) or 8; fp32 where absent."""

    @model_validator(mode="after")
    def _something_is_adapted(self) -> "Adapter":
        chosen = self.targets.values() if isinstance(self.targets, Mapping) else [self.targets]
        if not chosen or not all(chosen):
            raise Inconsistent(
                "`targets` is empty, so nothing would be adapted",
                "leave it out for all matrices of the language model, or name layers, such as [q_proj, v_proj]",
            )
        return self

    @model_validator(mode="after")
    def _dora_keeps_its_scales(self) -> "Adapter":
        # `peft` 0.21 moves an 8-bit matrix on a CPU after each look at it, and bitsandbytes then drops its scales
        if self.dora and self.quantize == "int8":
            raise Inconsistent(
                "`dora` and `quantize: int8` do not go together: the scales of the 8-bit matrices would be lost",
                "set `quantize: nf4`, or take `dora` out",
            )
        return self
