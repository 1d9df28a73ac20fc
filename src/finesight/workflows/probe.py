"""Does the picture matter? Losses of a few samples with their own pictures, with blank ones and with each other's."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from xxhash import xxh3_128_hexdigest

from finesight.config.recipe import Recipe
from finesight.core.batch import IGNORE, Batch, Example, Extra
from finesight.core.errors import DataError, FinesightError
from finesight.core.ports import ImagePort, Ports
from finesight.data.dataset import ExampleSet
from finesight.data.loading.collate import collate
from finesight.evaluation.pictures import PictureEffect, SampleLosses, picture_effect
from finesight.runtime.distributed import ALONE, World
from finesight.runtime.notices import Notices
from finesight.runtime.signals import StopAsked
from finesight.training.memory import measured_in_memory
from finesight.training.precision import Precision
from finesight.training.step import Forward, evaluating

_log = logging.getLogger("finesight")

_LOOKED = 50
"""Samples that are looked at for each that is wanted, where few have pictures."""

_NOTHING = 1e-4
"""In place of zero: some families (SmolVLM) take a picture of zeros for padding, and leave it out."""

_SOUNDS = ("input_features", "feature_", "audio_")
"""How names of inputs that come from sounds begin."""


@dataclass(frozen=True)
class _Plan:
    """Samples that are measured, in order of their lengths; for each, the one whose pictures it is shown in place of
    its own (None for all where that cannot be done: `why`)."""

    chosen: tuple[int, ...]
    partners: tuple[int, ...] | None
    why: str = ""


class PictureProbe:
    """The probe of one split. It makes no random draws of torch's, and leaves each part of a model in its mode.

    Which samples are measured, and whose pictures they are shown, depends on the recipe's seed and the data alone.
    """

    def __init__(
        self, examples: ExampleSet, split: str, recipe: Recipe, notices: Notices, world: World = ALONE
    ) -> None:
        self._examples, self._split, self._notices, self._world = examples, split, notices, world
        self._count, self._batch_size = recipe.evaluation.probe, recipe.evaluation.batch_size
        self._seed, self._resamples = recipe.run.seed, recipe.evaluation.resamples

    def __call__(
        self,
        model: nn.Module,
        forward: Forward,
        precision: Precision,
        device: torch.device,
        tick: Callable[[], object] = bool,
    ) -> PictureEffect | None:
        """The losses, equal to the bit for any number of processes, all of which call it; None where there is nothing
        to measure. `tick` is called between batches and may raise to stop."""
        if not self._count or self._examples.ports.image is None or self._plan is None:
            return None
        plan, size = self._plan, self._batch_size
        starts = range(0, len(plan.chosen), size)[self._world.rank :: self._world.size]
        found: list[list[Any]] = []
        failed: Exception | None = None
        broken = ""
        try:
            with evaluating(model):
                for start in starts:
                    tick()
                    with measured_in_memory(device, f"the losses of {size} samples with other pictures"):
                        found += self._measured(plan, slice(start, start + size), forward, precision, device)
        except (FinesightError, StopAsked) as error:
            failed = error
        except (
            Exception
        ) as error:  # a family may take no other pictures, in a way of its own: the run goes on
            broken = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        shares = self._world.together([found, broken], failed)
        if why := next((why for _, why in shares if why), ""):
            self._notices.add("probe", f"whether pictures matter cannot be measured with this model ({why})")
            self._count = 0
            return None
        rows = [row for share, _ in shares for row in share]
        if not rows:
            return None
        losses = [SampleLosses(*row) for row in rows]
        effect = picture_effect(losses, self._split, self._seed, self._resamples, plan.why)
        _log.info("does the picture matter? %s", effect.sentence())
        return effect

    def _measured(
        self, plan: _Plan, place: slice, forward: Forward, precision: Precision, device: torch.device
    ) -> list[list[Any]]:
        """Group, tokens and losses of some samples, without those that turn out to be bad."""
        ports = self._examples.ports
        shown: list[tuple[Example, Example | None]] = []
        groups = []
        partners = plan.partners or (None,) * len(plan.chosen)
        for index, partner in zip(plan.chosen[place], partners[place], strict=True):
            with suppress(DataError):  # told where the sample is used
                other = None if partner is None else self._examples.plain(partner)
                shown.append((self._examples.plain(index), other))
                words = self._examples.samples.words(index)
                groups.append(words.group or words.id)
        if not shown:
            return []
        variants = [
            [one for one, _ in shown],
            [blank(one, ports) for one, _ in shown],
            [swapped(one, other) for one, other in shown if other is not None],
        ]
        measured = [
            _losses(collate(some, ports.pad_id).to(device), forward, precision)
            if some
            else [None] * len(shown)
            for some in variants
        ]
        tokens = [one.supervised for one, _ in shown]
        return [list(row) for row in zip(groups, tokens, *measured, strict=True)]

    @cached_property
    def _plan(self) -> _Plan | None:
        """Made by the first process for all of them; None where no sample has pictures."""
        made = self._world.once(self._planned)
        if not made["chosen"]:
            self._notices.add(
                "probe",
                f"whether pictures matter is not measured: no {self._split} sample with answers has any",
            )
            return None
        if made["why"]:
            self._notices.add(
                "probe", f"{self._split}: pictures are not exchanged among samples: {made['why']}"
            )
        partners = None if made["partners"] is None else tuple(made["partners"])
        return _Plan(tuple(made["chosen"]), partners, made["why"])

    def _planned(self) -> dict[str, Any]:
        examples = self._examples
        order = np.random.default_rng(self._seed).permutation(len(examples))
        kinds: dict[int, tuple[str, str]] = {}
        for index in order[: _LOOKED * self._count].tolist():
            if len(kinds) == self._count:
                break
            with suppress(DataError):
                if examples.supervised_lengths[index] and examples.samples.words(index).images:
                    kinds[index] = _kind(picture_extras(examples.plain(index)))
        partners = exchanged(kinds)
        why = ""
        if len(partners) < max(2, len(kinds) / 2):
            why = f"of {len(kinds)} only {len(partners)} find another picture of their form" if kinds else ""
            chosen = list(kinds)
        else:
            chosen = list(partners)
        chosen.sort(key=lambda index: (int(examples.lengths[index]), index))
        return {
            "chosen": chosen,
            "partners": None if why or not kinds else [partners[index] for index in chosen],
            "why": why,
        }


def say_effect(effect: PictureEffect, notices: Notices) -> None:
    """Warn where the pictures make no difference."""
    if not effect.matters:
        gain = effect.over_blank
        notices.add(
            "probe",
            f"the pictures make no difference: {effect.sentence()} (they are worth {gain.value:.4g} over blank ones, "
            f"95 % interval {gain.low:.4g} to {gain.high:.4g})",
        )


def picture_extras(example: Example) -> dict[str, Extra]:
    """The inputs of an example that come from its pictures alone, as they are for any text around them."""
    return {
        name: extra
        for name, extra in example.extras.items()
        if extra.counts != "tokens" and not name.startswith(_SOUNDS)
    }


def _kind(extras: Mapping[str, Extra]) -> tuple[str, str]:
    """The form of some pictures, which what stands for them in the text depends on; and a hash of what they show."""
    form: list[str] = []
    shown: list[str] = []
    for name, extra in sorted(extras.items()):
        pixels = name.startswith("pixel_values")
        form.append(f"{name} {extra.array.shape} {extra.array.dtype}")
        (shown if pixels else form).append(xxh3_128_hexdigest(np.ascontiguousarray(extra.array).tobytes()))
    return "\n".join(form), "\n".join(shown)


def exchanged(kinds: Mapping[int, tuple[str, str]]) -> dict[int, int]:
    """For each sample another one of the same form that shows something else, each once; without those that find none.

    Samples of a form lie in a ring, those with the same pictures side by side; each gets what lies so far ahead that
    none gets its own. Where more than half of them have the same pictures, some would: they are left out.
    """
    forms: dict[str, list[int]] = {}
    for index, (form, _) in kinds.items():
        forms.setdefault(form, []).append(index)
    found: dict[int, int] = {}
    for members in forms.values():
        rank = {shown: number for number, shown in enumerate(dict.fromkeys(kinds[i][1] for i in members))}
        ring = sorted(members, key=lambda index: rank[kinds[index][1]])
        ahead = max(Counter(kinds[index][1] for index in ring).values())
        pairs = zip(ring, [*ring[ahead:], *ring[:ahead]], strict=True)
        found |= {index: other for index, other in pairs if kinds[index][1] != kinds[other][1]}
    return found


def blank(example: Example, ports: Ports) -> Example:
    """The example with the mean picture of the model's processor: as good as zero everywhere once it is normalised.

    What is zero already, such as the padding of a row of tiles, stays so.
    """
    extras = dict(example.extras)
    for name, extra in example.extras.items():
        if not name.startswith("pixel_values"):
            continue
        array = extra.array
        if isinstance(ports.image, ImagePort) and name == "pixel_values":  # levels that are normalised later
            mean = np.round(255 * np.array(ports.image.mean)).astype(array.dtype)
            empty = np.broadcast_to(mean.reshape(1, -1, 1, 1), array.shape).copy()
        else:
            shown = array.any(axis=(-3, -2, -1) if array.ndim > 3 else -1, keepdims=True)
            empty = np.where(shown, _NOTHING, 0).astype(array.dtype) + np.zeros_like(array)
        extras[name] = replace(extra, array=empty)
    return replace(example, extras=extras)


def swapped(example: Example, other: Example) -> Example:
    """The example with another one's pictures, of the same form."""
    return replace(example, extras={**example.extras, **picture_extras(other)})


def _losses(batch: Batch, forward: Forward, precision: Precision) -> Sequence[float]:
    """Summed cross-entropy of each sample of a batch."""
    with precision.autocast():
        logits = forward(batch)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    keep = batch.targets != IGNORE
    wanted = batch.targets[keep].to(logits.device)
    each = cross_entropy(logits, wanted, reduction="none").double().cpu()
    return [float(part.sum()) for part in torch.split(each, keep.sum(1).tolist())]
