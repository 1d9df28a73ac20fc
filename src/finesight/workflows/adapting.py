"""A base model with an adapter: for a new run, from an adapter's folder, or from what a run began with.

This file and all of `adapters/` are imported where there is an adapter: loading `peft` takes seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finesight.adapters.attach import Attached, attach
from finesight.adapters.base import Base, Compute, Quantize, base_at, check_same, read_base
from finesight.adapters.load import attach_as, load_values, read_config, same_form
from finesight.adapters.merge import merge
from finesight.adapters.quantize import keep_differentiable, quantization
from finesight.adapters.targets import find_saved
from finesight.config.adapter import Adapter
from finesight.core.errors import ModelError
from finesight.models.load import (
    AS_IT_IS,
    LoadedModel,
    Reading,
    build_from_config,
    load_model,
    load_processor,
)
from finesight.models.parts import freeze, parts_by_name
from finesight.models.ports import ports_of
from finesight.models.processors import read_processor
from finesight.runtime.notices import Notices
from finesight.training.checkpoint import load_checkpoint
from finesight.training.state import restore_model
from finesight.training.step import hash_seed

_ATTACHING = -1
"""In place of a step's number: random values of a new adapter."""


Place = tuple[Path, Path | None]
"""An adapter's folder, and the checkpoint that has its values where they are not there."""


@dataclass(frozen=True)
class Adapted:
    """A base model with its adapter attached."""

    loaded: LoadedModel
    attached: Attached
    base: Base


def begin_adapter(
    place: str,
    continued: Place | None,
    settings: Adapter,
    compute: Compute,
    seed: int,
    notices: Notices,
    reading: Reading = AS_IT_IS,
) -> Adapted:
    """A new adapter on the model at `place`; where one is `continued`, with its values and on its base."""
    known = None if continued is None else read_base(continued[0], read_config(continued[0]))
    if known is not None:
        place = known.place
    loaded, unused = _load(place, settings.quantize, compute, settings.save, reading)
    base = base_at(place, loaded.model.config, settings.quantize, compute)
    attached = attach(
        loaded.model, settings, unused, parts_by_name(loaded.model), hash_seed(seed, _ATTACHING)
    )
    if continued is not None and known is not None:
        folder, checkpoint = continued
        check_same(known, base, str(folder))
        same_form(attached, folder)
        _fill(attached, folder, checkpoint)
        loaded = _with_own_processor(loaded, folder)
        before, now = (base_numbers or "fp32" for base_numbers in (known.quantize, settings.quantize))
        numbers = "" if before == now else f", which is loaded in {now} and was in {before}"
        notices.add(
            "continued", f"the adapter of {checkpoint or folder} goes on, on its base {place}{numbers}"
        )
    if unused:
        told = ", ".join(sorted(unused))
        notices.add("frozen", f"{len(unused)} tensors that no output depends on: {told}")
    whole = f", {', '.join(attached.saved)} learns whole" if attached.saved else ""
    notices.add(
        "frozen", f"{len(attached.targets)} layers are adapted{whole}; nothing else of the model learns"
    )
    return Adapted(loaded, attached, base)


def open_adapter(folder: Path, checkpoint: Path | None = None, *, quantized: bool = True) -> Adapted:
    """The adapter of a folder on its base, which is loaded in the numbers that it was trained with.

    Its values are those of a `checkpoint` where one is given; without `quantized` the base is loaded in full
    precision. Raises ModelError where the base is gone or changed, or where anything does not fit.
    """
    config = read_config(folder)
    known = read_base(folder, config)
    quantize = known.quantize if quantized else None
    loaded, unused = _load(known.place, quantize, known.compute, tuple(config.modules_to_save or ()))
    base = base_at(known.place, loaded.model.config, quantize, known.compute)
    check_same(known, base, str(folder))
    attached = attach_as(loaded.model, config, unused, str(folder))
    _fill(attached, folder, checkpoint)
    return Adapted(_with_own_processor(loaded, folder), attached, base)


def open_merged(folder: Path, checkpoint: Path | None, notices: Notices) -> LoadedModel:
    """An adapter merged into its base in full precision, as another model's start; which is told."""
    adapted = open_adapter(folder, checkpoint, quantized=False)
    trained = read_base(folder, read_config(folder)).quantize
    drift = f"; it was trained on the base in {trained}, which is not quite the same" if trained else ""
    notices.add("merged", f"the adapter of {folder} is merged into its base as start weights{drift}")
    return LoadedModel(merge(adapted.attached), adapted.loaded.processor, adapted.loaded.ports)


def _fill(attached: Attached, folder: Path, checkpoint: Path | None) -> None:
    if checkpoint is None:
        load_values(attached, folder)
    else:
        tensors = load_checkpoint(checkpoint).tensors["model"]
        restore_model(attached.model, tensors, str(checkpoint), learned=True)


def _with_own_processor(loaded: LoadedModel, folder: Path) -> LoadedModel:
    _, processor = load_processor_of(folder)
    return LoadedModel(loaded.model, processor, ports_of(processor, loaded.model.config, str(folder)))


def load_processor_of(folder: Path) -> tuple[Any, Any]:
    """Configuration of an adapter's base; and the adapter's own processor, or the base's where it has none."""
    config, processor = load_processor(read_base(folder, read_config(folder)).place)
    if _has_processor(folder):
        try:
            processor = read_processor(str(folder), config)
        except (OSError, ValueError, ImportError) as error:
            what = f"its processor cannot be read: {str(error).splitlines()[0]}"
            raise ModelError(what, str(folder), "save the adapter again") from error
    return config, processor


def _has_processor(folder: Path) -> bool:
    return (folder / "processor_config.json").is_file() or (folder / "tokenizer_config.json").is_file()


def _load(
    place: str,
    quantize: Quantize | None,
    compute: Compute,
    save: tuple[str, ...],
    reading: Reading = AS_IT_IS,
) -> tuple[LoadedModel, frozenset[str]]:
    """A base model, and the names of its parameters that no output depends on."""
    if quantize is None:
        loaded = load_model(place, reading=reading)
        return loaded, frozenset(freeze(loaded.model, ()))
    with torch.device("meta"):
        outline = build_from_config(place).model
    saved = find_saved(outline, save, parts_by_name(outline))
    numbers = quantization(outline, quantize, compute, saved, parts_by_name(outline))
    loaded = load_model(place, numbers, reading)
    keep_differentiable(loaded.model)
    return loaded, frozenset(freeze(outline, ()))
