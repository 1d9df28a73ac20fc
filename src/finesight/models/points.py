"""Where a model's parts begin: the modules around which their time and memory are measured."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from torch import nn

from finesight.config.model import PartName
from finesight.models.forward import output_embeddings
from finesight.models.parts import parts_by_name

COLUMNS: Mapping[PartName, str] = MappingProxyType(
    {
        "vision_tower": "vision",
        "audio_tower": "audio",
        "projector": "projector",
        "audio_projector": "projector",
        "language_model": "language_model",
    }
)
"""What tables of times call the parts."""

_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)


def part_points(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The outermost modules of each part, with their columns, and the output embeddings as `head`.

    The model itself comes first, as the language model: what is in no other part is its. A part within another one
    (a merger in a vision tower) has points of its own.
    """
    head = output_embeddings(model)
    found = [("head" if model is head else COLUMNS["language_model"], model)]
    of = parts_by_name(model)

    def part(name: str) -> PartName:
        return of(f"{name}.weight")

    def walk(module: nn.Module, name: str, around: PartName) -> Iterator[tuple[str, nn.Module]]:
        for last, child in module.named_children():
            own = f"{name}.{last}" if name else last
            if child is head:
                yield "head", child
                continue
            here = part(own)
            begins = here != around and not isinstance(child, _NEVER_CALLED)
            if begins:
                yield COLUMNS[here], child
            yield from walk(child, own, here if begins else around)

    seen = {id(model)}
    for column, module in walk(model, "", "language_model"):
        if id(module) not in seen:  # one that stands in two places is called once
            seen.add(id(module))
            found.append((column, module))
    return found
