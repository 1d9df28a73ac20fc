"""What a recipe says of the numbers of a step: its loss in chunks, and inputs that the model predicts itself."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from finesight.config.recipe import Recipe
from finesight.core.batch import Batch
from finesight.core.ports import Ports
from finesight.data.loading.collate import collate
from finesight.models.forward import SupervisedForward
from finesight.models.headless import headless
from finesight.training.chunks import Chunked, rows_of_chunk
from finesight.training.compiled import Compiled, compile_layers
from finesight.training.sampling import Best, Sampling, ratio_of
from finesight.training.sharded import layers_of
from finesight.training.step import evaluating, loss_sum
from finesight.workflows.course import Course
from finesight.workflows.prepare import Prepared

SAME = {"fp32": 1e-6, "bf16": 1e-3, "fp16": 1e-3}
"""Largest relative difference of a loss in chunks and as a whole. In fp32 only the order of sums differs; in half
precision a product of another size may be rounded in another way, and a loss is a mean over many positions."""

_TRIED = 2
"""Samples that the two are compared on."""


def chunked_loss(
    recipe: Recipe, prepared: Prepared, forward: SupervisedForward, course: Course, strategy: str
) -> Chunked | None:
    """The loss in chunks, as `train.loss_chunk` says; None where all logits of a micro-batch are computed at once.

    It is compared with that of all logits on samples of the run; where they differ, or where it is not known what the
    model does after its output embeddings, logits stay whole, which is told. Call it before the model is in slices.
    """
    asked, notices = recipe.train.loss_chunk, prepared.notices
    if asked == "none":
        return None
    if strategy == "fsdp":
        if asked != "auto":
            why = "with fsdp the output embeddings are gathered for one call"
            notices.add("loss", f"logits of a micro-batch are computed at once: {why}")
        return None
    vocabulary = next(forward.head.parameters()).shape[0]
    most = rows_of_chunk(vocabulary, prepared.device.type) if asked == "auto" else asked
    if asked == "auto" and 2 * _largest(recipe, course) <= most:
        return None
    examples = [one for one in course.some(_TRIED) if one.supervised]
    if not examples:
        return None
    batch = collate(examples, prepared.ports.pad_id).to(prepared.device)
    with evaluating(prepared.model):
        found = headless(prepared.model, forward, batch)
    why = "this family does something after its output embeddings that finesight does not know"
    if found is not None:
        made = Chunked(forward, found, most, again=prepared.precision.name == "fp16")
        far = _apart(prepared, made, batch)
        if far <= SAME[prepared.precision.name]:
            notices.add(
                "loss",
                f"logits are computed for at most {most:,} supervised positions at once ({far:.1g} apart)",
            )
            return made
        why = f"in chunks the loss of {len(examples)} samples differs by {far:.3g} of itself"
    notices.add("loss", f"logits of a micro-batch are computed at once: {why}")
    return None


def _largest(recipe: Recipe, course: Course) -> float:
    """Supervised positions of the largest micro-batch, in learning and in validation, about."""
    step = course.counts(1)
    together = step["samples"] if recipe.train.micro_batch == "auto" else recipe.train.micro_batch
    measured = 0 if recipe.data.val is None else recipe.evaluation.batch_size
    return max(together, measured) * step["supervised_tokens"] / max(1, step["samples"])


def _apart(prepared: Prepared, made: Chunked, batch: Batch) -> float:
    """The relative difference of a batch's loss in three chunks or more, and as a whole."""
    small = replace(made, most=max(1, min(made.most, batch.supervised // 3)))
    with evaluating(prepared.model), prepared.precision.autocast():
        whole = float(loss_sum(made.forward(batch), batch.targets))
        return abs(float(small.loss(batch)) - whole) / max(abs(whole), 1e-12)


def sampling_of(
    recipe: Recipe, prepared: Prepared, forward: SupervisedForward, chunked: Chunked | None, steps: int
) -> Sampling | None:
    """What replaces inputs by the model's own predictions; None where the recipe does not ask for it. Its cost is a
    notice."""
    settings = recipe.train.scheduled_sampling
    if settings is None:
        return None
    ratio = ratio_of(settings, steps)
    ratios = [ratio(number) for number in range(1, steps + 1)]
    prepared.notices.add(
        "sampling",
        f"{sum(one < 1 for one in ratios)} of {steps} steps feed answers from the model's own predictions "
        f"(teacher-forcing ratio {min(ratios):.3g} to {max(ratios):.3g}); each of them costs a second forward pass",
    )

    def whole(batch: Batch, allowed: Callable[[Tensor], Tensor]) -> Tensor:
        return allowed(forward(batch)).argmax(-1)

    best: Best = whole if chunked is None else chunked.best
    return Sampling(
        prepared.model, best, prepared.precision, ratio, recipe.run.seed, fixed_tokens(prepared.ports)
    )


def compiled_layers(recipe: Recipe, prepared: Prepared, forward: SupervisedForward) -> Compiled:
    """The layers that are compiled, none of them unless the recipe says so; what that costs is a notice."""
    if not recipe.train.compile:
        return Compiled(())
    # hooks that come and go would have that layer compiled at each step; it computes supervised rows alone anyway
    layers = [layer for layer in layers_of(prepared.model) if layer is not forward.hooked]
    if not layers:
        prepared.notices.add("compile", "this model has no layers that could be compiled")
        return Compiled(())
    if recipe.train.packing:
        forward.packed_rows.keep_out_of_graphs()
    prepared.notices.add(
        "compile",
        f"{len(layers)} layers are compiled when they are first called: the first steps take seconds to minutes longer",
    )
    return compile_layers(layers)


def fixed_tokens(ports: Ports) -> set[int]:
    """Tokens that are neither replaced nor put in: special ones, ends, places of pictures and sounds."""
    found = {*ports.tokenizer.all_special_ids, *ports.end_ids}
    found |= {port.placeholder_id for port in (ports.image, ports.sound) if port is not None}
    return {token for token in found if token >= 0}
