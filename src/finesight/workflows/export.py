"""Write a model as a plain folder: a model or adapter as it is, or an adapter merged into its base, with proof."""

import json
import os
import shutil
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures

from finesight.config.load import load_recipe
from finesight.config.recipe import Recipe
from finesight.config.train import Generation
from finesight.core.errors import ModelError, RunError
from finesight.core.ports import Ports
from finesight.core.rundir import RunDirectory
from finesight.core.sample import Image, Message, Origin, Part, Sample, Text
from finesight.data.samples import DEFAULT_PROMPT
from finesight.export.card import model_card
from finesight.export.folder import save_adapter_folder, save_folder
from finesight.models.load import LoadedModel, load_model
from finesight.models.parts import count
from finesight.workflows.places import Found, adapter_of, find_model, run_of
from finesight.workflows.sameness import Drift, Heard, drift, hear

_ASKED = 20
"""Samples that the proof of a merge asks."""

_LONGEST = 16
"""Tokens of the longest answer that the proof asks for."""

_UNPROVED = ".unproved"
"""Ending of a merged folder's name until it is proved."""


def export(model_or_run: str, out: Path, *, merge: bool = False) -> dict[str, Any]:
    """Write what the person named to `out`; with `merge`, an adapter within its base, as a model that needs neither.

    The merged folder is loaded again and compared with the base and adapter that it was made from: 20 greedy answers,
    and the logits of each of their tokens. Raises ModelError, and leaves nothing behind, where they differ by more than
    rounding. Where the adapter was trained on a quantised base, the drift to that is measured, too. Raises RunError
    where `out` is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError("there is something already", str(out), "name a folder that is not there yet")
    adapter = adapter_of(model_or_run)
    if merge and adapter is None:
        raise ModelError(
            "this is a whole model: there is no adapter to merge", model_or_run, "leave `--merge` out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    run = run_of(Path(model_or_run)) if Path(model_or_run).exists() else None
    if merge and adapter is not None:
        return _merged(model_or_run, adapter, out, run)
    found = find_model(model_or_run)
    if adapter is not None:
        _copy_adapter(found, out)
    else:
        settings = found.recipe.generation if found.recipe else Generation()
        loaded, card = found.loaded, _card(found.recipe, run, found.loaded, "")
        save_folder(out, loaded.model, loaded.processor, loaded.ports, settings, card)
    return {"out": str(out), "kind": "model" if adapter is None else "adapter", "merged": False}


def _copy_adapter(found: Found, out: Path) -> None:
    from finesight.adapters.save import write_adapter

    adapted, loaded = found.adapted, found.loaded
    write = partial(write_adapter, attached=adapted.attached, base=adapted.base)
    settings = found.recipe.generation if found.recipe else Generation()
    own = None if found.run is None else found.run.adapter / "README.md"
    card = own.read_text(encoding="utf-8") if own is not None and own.is_file() else "# A LoRA adapter\n"
    save_adapter_folder(out, write, loaded.processor, loaded.ports, settings, card)


@dataclass(frozen=True)
class _Merging:
    """What is asked before and after a merge."""

    samples: list[Sample]
    settings: Generation

    def hear(self, loaded: LoadedModel) -> Heard:
        return hear(loaded.model, loaded.ports, self.samples, self.settings)


def _merged(
    named: str, adapter: tuple[Path, Path | None], out: Path, run: RunDirectory | None
) -> dict[str, Any]:
    from finesight.adapters.base import read_base
    from finesight.adapters.load import read_config
    from finesight.adapters.merge import merge
    from finesight.workflows.adapting import open_adapter

    recipe = None if run is None else load_recipe(str(run.recipe))
    settings = Generation() if recipe is None else recipe.generation
    numbers = read_base(adapter[0], read_config(adapter[0])).quantize
    adapted = open_adapter(*adapter, quantized=False)
    loaded = adapted.loaded
    real = _kept_samples(run, loaded.ports)
    samples = [*real, *_made_up(loaded.ports, _ASKED - len(real))]
    short = settings.model_copy(update={"max_new_tokens": min(settings.max_new_tokens, _LONGEST)})
    asking = _Merging(samples, short)
    before = asking.hear(loaded)
    model = merge(adapted.attached)
    whole = LoadedModel(model, loaded.processor, loaded.ports)
    unproved = out.with_name(out.name + _UNPROVED)
    note = f"The adapter of `{named}`, merged into its base `{adapted.base.place}`."
    save_folder(unproved, model, loaded.processor, loaded.ports, settings, _card(recipe, run, whole, note))
    del model, whole, loaded, adapted
    try:
        proof = drift(before, asking.hear(load_model(str(unproved))))
        _check(proof, named)
        trained = None
        if numbers is not None:
            was = asking.hear(open_adapter(*adapter).loaded)  # in the numbers that it was trained with
            trained = {"quantize": numbers, **drift(was, before).document()}
        if out.exists():
            out.rmdir()  # it is empty
        os.replace(unproved, out)
    except BaseException:
        shutil.rmtree(unproved, ignore_errors=True)
        raise
    asked = {"real": len(real), "made_up": len(samples) - len(real)}
    result = {"out": str(out), "kind": "model", "merged": True, "samples": asked}
    return {**result, "proof": proof.document(), "drift": trained}


def _check(proof: Drift, named: str) -> None:
    if not proof.same:
        raise ModelError(
            f"the merged model is not the same: its logits differ by {proof.difference:.1e} (the largest is "
            f"{proof.largest:.1f}), and {proof.equal} of {proof.count} answers are equal",
            named,
            "use the adapter as it is, on its base; nothing was written",
        )


def _kept_samples(run: RunDirectory | None, ports: Ports) -> list[Sample]:
    """Samples of a run with the pictures that it keeps for its report: at most 20."""
    if run is None or not (run.pictures / "index.json").is_file() or ports.image is None:
        return []
    index = json.loads((run.pictures / "index.json").read_text(encoding="utf-8"))
    samples: list[Sample] = []
    for split, names in index.items():
        if not run.predictions(split).is_file():
            continue
        with open(run.predictions(split), encoding="utf-8") as rows:
            for row in map(json.loads, rows):
                picture = run.pictures / names.get(row["id"], "-")
                if row["id"] in names and picture.is_file():
                    samples.append(_sample(len(samples), ports, picture.read_bytes(), row["prompt"]))
    return samples[:_ASKED]


def _made_up(ports: Ports, number: int) -> list[Sample]:
    """Pictures of noise that is the same each time, with a fixed question."""
    draw = np.random.default_rng(0)
    samples = []
    for index in range(max(0, number)):
        buffer = BytesIO()
        Pictures.fromarray(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(buffer, "PNG")
        samples.append(_sample(index, ports, buffer.getvalue(), f"{DEFAULT_PROMPT} {index}"))
    return samples


def _sample(index: int, ports: Ports, picture: bytes, prompt: str) -> Sample:
    shown: tuple[Part, ...] = (Image(picture),) if ports.image is not None else ()
    turn = Message("user", (*shown, Text(prompt)))
    return Sample(str(index), (turn,), (), Origin("the proof of a merge", index))


def _card(recipe: Recipe | None, run: RunDirectory | None, loaded: LoadedModel, note: str) -> str:
    if recipe is None or run is None:
        return f"# A model exported by finesight\n\n{note}\n"
    facts = json.loads(run.environment.read_text(encoding="utf-8"))
    parts = {
        name: {"total": part.total, "trainable": part.trainable} for name, part in count(loaded.model).items()
    }
    family = loaded.model.config.model_type
    return model_card(recipe, facts | {"parameters": parts, "family": family}, note=note)
