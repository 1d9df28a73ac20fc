"""Models of any family, from folders that `transformers` wrote, or from a hub id of the same layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, BitsAndBytesConfig

from finesight.config.loading import Load
from finesight.core.errors import ModelError
from finesight.core.ports import Ports
from finesight.models.compose.sources import check_composed, know_composed
from finesight.models.kinds import auto_class
from finesight.models.parts import keep_fixed
from finesight.models.ports import ports_of
from finesight.models.processors import read_processor
from finesight.models.quantize import keep_differentiable, quantization
from finesight.models.spread import keep_folder, spreading
from finesight.runtime.quiet import no_progress_bars


@dataclass(frozen=True)
class LoadedModel:
    """A `transformers` model with its processor and ports."""

    model: Any
    processor: Any
    ports: Ports


@dataclass(frozen=True)
class Reading:
    """How a model is read: at which `revision` of the hub, whether the folder's own code is run, and patterns of names
    of tensors that may be missing (they begin at random) or unknown (they are left out).

    `load` says in which numbers and on which devices it is held then; with the `device` `cpu`, spread weights are on no
    other.
    """

    revision: str | None = None
    trust_remote_code: bool = False
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    load: Load = field(default_factory=Load)
    device: str | None = None

    @property
    def where(self) -> dict[str, Any]:
        """As arguments of `transformers`."""
        pinned = {} if self.revision is None else {"revision": self.revision}
        return {**pinned, "trust_remote_code": True} if self.trust_remote_code else pinned


AS_IT_IS = Reading()


def load_processor(place: str, reading: Reading = AS_IT_IS) -> tuple[Any, Any]:
    """Configuration and processor of a model folder or hub id; no weights are read."""
    try:
        know_composed()
        config = AutoConfig.from_pretrained(place, **reading.where)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model can be read there: {_first_line(error)}", place, _cure(place)) from error
    check_composed(config, place)
    if auto_class(config) is None:
        raise ModelError(
            f"models of the family `{config.model_type}` do not answer in words",
            place,
            "use an image-text-to-text model, a captioner, or a text model",
        )
    try:
        return config, read_processor(place, config, **reading.where)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"its processor cannot be read: {_first_line(error)}", place, _cure(place)
        ) from error


def load_model(
    place: str, numbers: BitsAndBytesConfig | None = None, reading: Reading = AS_IT_IS
) -> LoadedModel:
    """The model with its weights: in fp32, unless the reading says otherwise; its `load` may also spread them.

    `numbers`, of the base of an adapter, come before those of the reading. Missing, unknown or wrong-shaped weights are
    errors, but for those that the reading allows. Of a `.bin` file nothing but tensors is read.
    """
    config, processor = load_processor(place, reading)
    if numbers is None:
        numbers = _numbers(place, config, reading)
    try:
        with no_progress_bars(), spreading(reading.load, reading.device) as spread:
            model, facts = auto_class(config).from_pretrained(
                place,
                config=config,
                dtype="float32",
                output_loading_info=True,
                weights_only=True,
                quantization_config=numbers,
                **spread,
                **reading.where,
            )
            said = _checked(facts, place, reading)
            keep_folder(model, spread)
    except UnpicklingError as error:  # whose words advise to run whatever is in the file
        what = "its weights hold more than tensors, and nothing else is read"
        raise ModelError(what, place, "take a folder with `.safetensors` files") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if numbers is not None and reading.load.spread and "dispatched on the CPU" in str(error):
            raise ModelError(
                "in few bits its weights do not fit where they may lie: what is quantised is never on the disk, nor in "
                "the CPU's memory beside a GPU",
                place,
                "give the devices more by `max_memory`, take `nf4`, or spread it without `quantize`",
            ) from error
        raise ModelError(f"its weights cannot be read: {_first_line(error)}", place, _cure(place)) from error
    keep_fixed(model)
    if numbers is not None:
        keep_differentiable(model)
    ports = ports_of(processor, config, place)
    return LoadedModel(model, processor, replace(ports, said=(*ports.said, *said)))


def _numbers(place: str, config: Any, reading: Reading) -> BitsAndBytesConfig | None:
    """How the matrices of a whole model are quantised; None where they are not.

    Raises ModelError where they are quantised already in the model's own files.
    """
    asked = reading.load.quantize
    if asked is None or asked == "none":
        return None
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"its weights are saved in few bits already, and cannot be loaded in {asked}",
            place,
            "leave `quantize` out, or name the model in full precision",
        )
    return quantization(outline_of(config, reading), asked)


def outline_of(config: Any, reading: Reading) -> Any:
    """The model of a configuration without weights."""
    with torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=reading.trust_remote_code)


def _checked(facts: Mapping[str, Any], place: str, reading: Reading) -> list[tuple[str, str]]:
    """What is to be told of weights that do not fit, and are allowed not to; raises ModelError for others."""
    allowed = {"missing_keys": reading.missing, "unexpected_keys": reading.unexpected, "mismatched_keys": ()}
    wrong, said = [], []
    for kind, patterns in allowed.items():
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in facts.get(kind) or ())
        left = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]
        if left:
            wrong.append(f"{kind.partition('_')[0]}: {', '.join(left[:5])}{', …' if len(left) > 5 else ''}")
        elif names:
            what = "begin at random values" if kind == "missing_keys" else "are not used"
            said.append(
                ("weights", f"{len(names)} tensors {what}, as `model.allow` says: {', '.join(names[:8])}")
            )
    if wrong:
        mend = "save the model again; or name what may be missing or unknown in `model.allow`"
        raise ModelError(f"its weights do not fit its configuration ({'; '.join(wrong)})", place, mend)
    return said


def build_from_config(place: str) -> LoadedModel:
    """The model of a folder without weights (a checkpoint's skeleton), with random values."""
    config, processor = load_processor(place)
    return LoadedModel(auto_class(config).from_config(config), processor, ports_of(processor, config, place))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _cure(place: str) -> str:
    if Path(place).exists():
        return "give a folder that `transformers` saved with its processor"
    return "correct the path, or check the hub id and the connection"
