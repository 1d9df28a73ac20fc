"""Which layers an adapter changes, and which modules learn whole: words of a recipe → exact names of modules."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from finesight.config.adapter import Targets
from finesight.core.errors import ModelError

PartOf = Callable[[str], str]
"""The part of a model that a parameter belongs to, by its name."""

DEFAULT_PART = "language_model"
"""What is adapted where the recipe names no part; all parts where a model has none of this name."""

EMBEDDINGS = "embeddings"
"""The word of `adapter.save` for a model's input and output embeddings."""

_MATRICES = (nn.Linear, Conv1D)
_ADAPTABLE = (*_MATRICES, nn.Embedding, nn.Conv2d)
_SHOWN = 24
"""Names that an error lists at most."""


@dataclass(frozen=True)
class _Layer:
    """A layer that could be adapted: `matrix` where it is one that `all_linear` means."""

    part: str
    matrix: bool
    attention: bool


def find_saved(model: Any, words: Sequence[str], part_of: PartOf) -> list[str]:
    """Exact names of the modules that `adapter.save` means; none lies in another one.

    A word is a part, `embeddings`, or the name of modules or its end. Raises ModelError where one means nothing.
    """
    modules = {name: module for name, module in model.named_modules() if name and list(module.parameters())}
    tops = _tops(model, part_of)
    found: list[str] = []
    for word in words:
        if word == EMBEDDINGS:
            names = _names_of(model, [model.get_input_embeddings(), model.get_output_embeddings()])
        else:
            names = tops.get(word) or [name for name in modules if _matches(name, word)]
        if not names:
            ends = {name.rpartition(".")[2] for name in modules}
            known = sorted({EMBEDDINGS, *tops, *(end for end in ends if not end.isdigit())})
            raise ModelError(
                f"`{word}` is no part and no module of this model", "adapter.save", _near(word, known)
            )
        found += names
    return [name for name in dict.fromkeys(found) if not any(_inside(name, {other}) for other in found)]


def find_targets(
    model: Any, wanted: Targets, saved: Collection[str], unused: Collection[str], part_of: PartOf
) -> list[str]:
    """Exact names of the layers that `adapter.targets` means, in the model's order.

    Left out are layers that learn whole (`saved`) and those whose weights no output depends on (`unused`). Raises
    ModelError where a word means nothing, or nothing in the parts that were named.
    """
    layers = _layers(model, part_of)
    parts = list(dict.fromkeys(layer.part for layer in layers.values()))
    idle = {name for name in layers if f"{name}.weight" in unused}
    able = {
        name: part for name, part in layers.items() if name not in idle and not _inside(name, saved, own=True)
    }
    chosen: set[str] = set()
    for where, among, words in _asked(wanted, parts):
        if isinstance(words, str):
            names = [name for name, layer in able.items() if layer.part in among and _meant(layer, words)]
            if not names:
                told = f"`{words}` means no layer of the {_words(among)}"
                raise ModelError(told, where, _listed(layers, among))
            chosen.update(names)
        else:
            for word in words:
                chosen.update(_named(word, layers, able, among, where))
    _not_tied(model, chosen)
    return [name for name in layers if name in chosen]


def tied_with(model: nn.Module, names: Collection[str]) -> list[str]:
    """Names of other modules that own a parameter of the named ones (tied embeddings)."""
    owned = {id(p) for name in names for p in model.get_submodule(name).parameters()}
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if not _inside(name, names, own=True)
        and any(id(p) in owned for p in module.parameters(recurse=False))
    ]


def _asked(wanted: Targets, parts: Sequence[str]) -> list[tuple[str, list[str], str | tuple[str, ...]]]:
    """Recipe key, parts and words of each thing that is asked for."""
    if not isinstance(wanted, Mapping):
        return [("adapter.targets", [DEFAULT_PART] if DEFAULT_PART in parts else list(parts), wanted)]
    for part in wanted:
        if part not in parts:
            raise ModelError(
                f"this model has no part `{part}` with layers to adapt",
                f"adapter.targets.{part}",
                f"its parts are {', '.join(parts)}",
            )
    return [(f"adapter.targets.{part}", [str(part)], words) for part, words in wanted.items()]


def _layers(model: Any, part_of: PartOf) -> dict[str, _Layer]:
    """Every layer that could be adapted, by name."""
    # a model's head may share the words' matrix, which also tells it where `transformers` does not name it
    words = model.get_input_embeddings()
    shared = {id(parameter) for parameter in words.parameters()} if words is not None else set()
    head = model.get_output_embeddings()
    # torch's own attention reads the weights of its `out_proj` itself: what is put around that layer is never called
    fused = {name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    attention = {
        name for name, module in model.named_modules() if "attention" in type(module).__name__.lower()
    }
    return {
        name: _Layer(
            part=part_of(f"{name}.weight"),
            matrix=isinstance(module, _MATRICES) and module is not head and id(module.weight) not in shared,
            attention=_inside(name, attention),
        )
        for name, module in model.named_modules()
        if isinstance(module, _ADAPTABLE) and not _inside(name, fused)
    }


def _meant(layer: _Layer, word: str) -> bool:
    return layer.matrix and (word == "all_linear" or layer.attention)


def _named(
    word: str, layers: Mapping[str, _Layer], able: Mapping[str, _Layer], parts: Sequence[str], where: str
) -> list[str]:
    """The layers of `parts` that a word names."""
    matching = [name for name in layers if _matches(name, word)]
    here = [name for name in matching if layers[name].part in parts]
    if found := [name for name in here if name in able]:
        return found
    if here:
        told = f"`{word}` names layers that learn whole by `adapter.save`, or that no output depends on"
        raise ModelError(told, where, "take it out of `targets`")
    if matching:
        others = sorted({layers[name].part for name in matching})
        told = f"`{word}` names layers of the {_words(others)} alone, and the {_words(parts)} is adapted"
        mend = f"name the part: `targets: {{{others[0]}: [{word}]}}`; {_listed(layers, parts)}"
        raise ModelError(told, where, mend)
    told = f"`{word}` names no layer of the {_words(parts)} that can be adapted"
    raise ModelError(told, where, _near(word, _ends(layers, parts)))


def _not_tied(model: Any, chosen: Collection[str]) -> None:
    """Refuse to adapt one of two layers that share their weights: merged, the change would be in both."""
    for name in sorted(chosen):
        tied = tied_with(model, [name])
        if not tied:
            continue
        raise ModelError(
            f"`{name}` shares its weights with `{tied[0]}`: an adapter on one, merged, would change both",
            "adapter.targets",
            f"let them learn whole, by `adapter.save: [{EMBEDDINGS}]`, or take the name out",
        )


def _tops(model: nn.Module, part_of: PartOf) -> dict[str, list[str]]:
    """The outermost modules of each part: those all of whose parameters belong to it."""
    parts = {name: part_of(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    tops: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        own = {parts[f"{name}.{inner}" if name else inner] for inner, _ in module.named_parameters()}
        if name and len(own) == 1:
            known = tops.setdefault(own.pop(), [])
            if not _inside(name, known):
                known.append(name)
    return tops


def _names_of(model: nn.Module, wanted: Iterable[nn.Module | None]) -> list[str]:
    ids = {id(module) for module in wanted if module is not None}
    return [name for name, module in model.named_modules() if id(module) in ids]


def _matches(name: str, word: str) -> bool:
    """Whether a word is a module's name, its end, or a pattern of either."""
    return (
        name == word or name.endswith(f".{word}") or fnmatchcase(name, word) or fnmatchcase(name, f"*.{word}")
    )


def _inside(name: str, outer: Collection[str], own: bool = False) -> bool:
    """Whether a module lies in one of the others; with `own`, or is one."""
    return any(name.startswith(f"{other}.") or (own and name == other) for other in outer)


def _ends(layers: Mapping[str, _Layer], parts: Collection[str]) -> list[str]:
    """Last words of the names of the layers of some parts."""
    ends = {name.rpartition(".")[2] for name, layer in layers.items() if layer.part in parts}
    numbered = {".".join(name.split(".")[-2:]) for name in layers if name.rpartition(".")[2].isdigit()}
    return sorted({end for end in ends if not end.isdigit()} | numbered)


def _words(parts: Iterable[str]) -> str:
    return ", ".join(parts).replace("_", " ")


def _listed(layers: Mapping[str, _Layer], parts: Sequence[str]) -> str:
    return f"the layers of the {_words(parts)} are {', '.join(_ends(layers, parts)[:_SHOWN])}"


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.rpartition(".")[2], known, n=1, cutoff=0.5)
    listed = f"there are {', '.join(known[:_SHOWN])}" + (" …" if len(known) > _SHOWN else "")
    return f"did you mean `{near[0]}`? {listed}" if near else listed
