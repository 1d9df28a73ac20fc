"""A base model with an adapter: for a new run, from an adapter's folder, or from what a run began with.

This file and all of `adapters/` are imported where there is an adapter: loading `peft` takes seconds.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finesight.adapters.attach import Attached, attach
from finesight.adapters.base import RECORD, Base, base_at, check_same, read_base
from finesight.adapters.load import attach_as, load_values, read_config, same_form
from finesight.adapters.merge import merge
from finesight.adapters.spread import bring_in
from finesight.adapters.targets import find_saved
from finesight.config.adapter import Adapter
from finesight.config.loading import Compute, Quantize
from finesight.core.errors import ModelError
from finesight.models.hub import commit_of
from finesight.models.load import AS_IT_IS, LoadedModel, Reading, load_model, load_processor, outline_of
from finesight.models.parts import freeze, parts_by_name
from finesight.models.ports import ports_of
from finesight.models.processors import read_processor
from finesight.models.quantize import quantization
from finesight.models.spread import is_spread
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
    """A base model with its adapter attached; `trained` are the numbers of the base that the adapter learned on."""

    loaded: LoadedModel
    attached: Attached
    base: Base
    trained: Quantize | None = None


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
        place, reading = known.place, _at_its_revision(known, reading)
    reading = _pinned(place, reading)
    loaded, unused = _load(place, settings.quantize, compute, settings.save, reading)
    base = base_at(place, reading.revision, settings.quantize, compute)
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
    return Adapted(loaded, attached, base, settings.quantize)


def begun_with(folder: Path, place: str) -> str | None:
    """The revision of the base at `place` that a run has begun with; None where it has not, or on another one.

    `folder` is what the run's checkpoints need beside their tensors.
    """
    if Path(place).is_dir() or not (folder / RECORD).is_file():
        return None
    known = read_base(folder, read_config(folder))
    return known.revision if known.place == place else None


def open_adapter(
    folder: Path, checkpoint: Path | None = None, *, quantized: bool = True, reading: Reading = AS_IT_IS
) -> Adapted:
    """The adapter of a folder on its base, which is loaded in the numbers that it was trained with.

    Its values are those of a `checkpoint` where one is given. Without `quantized` the base is loaded in full precision;
    `reading.load` may name other numbers, and spread it. Raises ModelError where the base is gone or changed, or where
    anything does not fit.
    """
    config = read_config(folder)
    known = read_base(folder, config)
    asked = reading.load.quantize if quantized else "none"
    quantize = known.quantize if asked is None else None if asked == "none" else asked
    whole = tuple(config.modules_to_save or ())
    reading = _pinned(known.place, _at_its_revision(known, reading))
    loaded, unused = _load(known.place, quantize, known.compute, whole, reading)
    base = base_at(known.place, reading.revision, quantize, known.compute)
    check_same(known, base, str(folder))
    _check_form(config, quantize, loaded.model, folder)
    attached = attach_as(loaded.model, config, unused, str(folder))
    if is_spread(loaded.model):
        bring_in(attached, str(folder))
    _fill(attached, folder, checkpoint)
    return Adapted(_with_own_processor(loaded, folder), attached, base, known.quantize)


def _check_form(config: Any, quantize: Quantize | None, model: Any, folder: Path) -> None:
    """Refuse a base in such numbers, or in such places, that the adapter's form cannot be computed on it."""
    away = any(parameter.device.type == "meta" for parameter in model.parameters())
    if config.use_dora and (quantize == "int8" or away):
        what = "in int8" if quantize == "int8" else "not all on a device"
        raise ModelError(
            f"a `dora` adapter looks at the base's matrices themselves, which it cannot do where they are {what}",
            str(folder),
            "load it in nf4 or fp32 on devices that hold it, or merge it by `finesight export … --merge` and load that",
        )


def _at_its_revision(known: Base, reading: Reading) -> Reading:
    """Read the base of an adapter as it was when the adapter was trained; `reading` is the adapter's own.

    Of a base on the hub, code is run only at a commit: an adapter may name anything.
    """
    if Path(known.place).is_dir():
        return replace(reading, revision=None)
    pinned = re.fullmatch(r"[0-9a-f]{40}", known.revision or "") is not None
    trusted = reading.trust_remote_code and pinned
    return replace(reading, revision=known.revision, trust_remote_code=trusted)


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


def _pinned(place: str, reading: Reading) -> Reading:
    """Read a hub id at one commit, whatever becomes the newest one meanwhile."""
    if Path(place).is_dir():
        return reading
    return replace(reading, revision=commit_of(place, reading.revision) or reading.revision)


def load_processor_of(folder: Path) -> tuple[Any, Any]:
    """Configuration of an adapter's base; and the adapter's own processor, or the base's where it has none."""
    known = read_base(folder, read_config(folder))
    config, processor = _processor_of_base(known.place, _at_its_revision(known, AS_IT_IS))
    if _has_processor(folder):
        try:
            processor = read_processor(str(folder), config)
        except (OSError, ValueError, ImportError) as error:
            what = f"its processor cannot be read: {str(error).splitlines()[0]}"
            raise ModelError(what, str(folder), "save the adapter again") from error
    return config, processor


def _processor_of_base(place: str, reading: Reading) -> tuple[Any, Any]:
    """The same of the base itself; an error that names the revision where it cannot be had."""
    try:
        return load_processor(place, reading)
    except ModelError as error:
        if reading.revision is None:
            raise
        raise ModelError(
            f"the base model {place} cannot be had at the revision {reading.revision}, which this adapter was made "
            f"for: {error.faults[0].what}",
            place,
            "check the connection; or put that revision of the base into a folder, and name it in the adapter's "
            "`adapter_config.json` and `finesight.json`",
        ) from error


def _has_processor(folder: Path) -> bool:
    return (folder / "processor_config.json").is_file() or (folder / "tokenizer_config.json").is_file()


def _load(
    place: str, quantize: Quantize | None, compute: Compute, save: tuple[str, ...], reading: Reading
) -> tuple[LoadedModel, frozenset[str]]:
    """A base model, and the names of its parameters that no output depends on."""
    config, _ = _processor_of_base(place, reading)
    reading = replace(reading, load=reading.load.model_copy(update={"quantize": None}))
    if quantize is None:
        loaded = load_model(place, reading=reading)
        return loaded, frozenset(freeze(loaded.model, ()))
    outline = outline_of(config, reading)
    saved = find_saved(outline, save, parts_by_name(outline))
    loaded = load_model(place, quantization(outline, quantize, compute, saved), reading)
    return loaded, frozenset(freeze(outline, ()))
