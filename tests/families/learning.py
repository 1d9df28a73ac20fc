"""What is asked of every model type when it learns: wholly, in parts, and by an adapter."""

import copy
import os
import tempfile
from pathlib import Path

import torch
from matrix import (
    Body,
    answers,
    answers_do_not_leak,
    batch_of,
    batches_are_their_samples,
    full_logits,
    inputs_are_the_processors,
    loss_is_the_models_own,
    packs,
    pictures_matter,
    samples,
    saves,
    sounds_matter,
    words_are_exact,
)
from safetensors.torch import load_file

from finesight.adapters.attach import adapted_layers, attach
from finesight.adapters.base import base_at
from finesight.adapters.merge import merge
from finesight.adapters.save import write_adapter
from finesight.config.adapter import Adapter
from finesight.config.train import Generation, Train
from finesight.core.batch import Batch
from finesight.core.errors import ModelError
from finesight.export.folder import save_adapter_folder
from finesight.models.forward import SupervisedForward
from finesight.models.parts import freeze, part_of, parts_by_name
from finesight.models.recompute import checkpoint_activations
from finesight.training.optim import build_optimizer
from finesight.training.state import optimizer_tensors
from finesight.training.step import loss_sum
from finesight.workflows.adapting import open_adapter

STEPS = 5 * int(os.environ.get("FINESIGHT_PROOF_FACTOR", "1"))
"""Steps after which nothing that is frozen may have moved: 50 in `make proof`."""


def _taught(made: Body, model: torch.nn.Module, batch: Batch, steps: int, lr: float) -> list[float]:
    """Losses of steps with weights that decay, on one batch."""
    forward = SupervisedForward(model, made.loaded.ports.image)
    optimizer = build_optimizer(model, Train(lr=lr, weight_decay=0.1, max_steps=steps))
    model.train()
    losses = []
    for _ in range(steps):
        loss = loss_sum(forward(batch), batch.targets) / batch.supervised
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    moments = optimizer_tensors(optimizer)
    assert all(value.dtype == torch.float32 for value in moments.values())
    return losses


def learns(made: Body) -> None:
    """The loss of a batch falls by half in a few steps."""
    losses = _taught(made, copy.deepcopy(made.loaded.model), batch_of(made, samples(made)), 20, 5e-3)
    assert losses[-1] < 0.5 * losses[0], losses


def freezes(made: Body) -> None:
    """What is frozen stays to the bit though weights decay, and all else learns."""
    model = copy.deepcopy(made.loaded.model)
    kind = model.config.model_type
    towers = {part_of(name, kind) for name, _ in model.named_parameters()} & {"vision_tower", "audio_tower"}
    freeze(model, sorted(towers))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _taught(made, model, batch_of(made, samples(made)), STEPS, 1e-3)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert moved == learning, sorted(set(moved) ^ set(learning))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def adapts(made: Body) -> None:
    """An adapter learns in every layer though activations are computed again; saved and loaded it gives the same logits
    to the bit, merged to 1e-5."""
    base, ports = made.loaded.model, made.loaded.ports
    model = copy.deepcopy(base)
    settings = Adapter(rank=4, alpha=8, targets="all_linear")
    attached = attach(model, settings, freeze(model, ()), parts_by_name(model), 3)
    before = {
        name: value.detach().clone() for name, value in model.named_parameters() if not value.requires_grad
    }
    try:
        checkpoint_activations(model)
    except ModelError:
        assert made.name in WITHOUT_RECOMPUTING
    batch = batch_of(made, samples(made))
    _taught(made, model, batch, 5, 1e-2)
    layers = adapted_layers(model)
    assert set(layers) == set(attached.targets)
    still = [name for name, layer in layers.items() if not layer.lora_B["default"].weight.abs().max() > 0]
    assert not still, still
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters() if name in before)
    model.eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as place:
        ours = full_logits(Body(made.name, made.folder, _with(made, model)), batch)
        folder, known = Path(place) / "adapter", base_at(str(made.folder), base.config)
        generation = Generation(max_new_tokens=4)
        save_adapter_folder(
            folder,
            lambda to: write_adapter(to, attached, known),
            made.loaded.processor,
            ports,
            generation,
            "",
        )
        kept = load_file(folder / "adapter_model.safetensors")
        assert {value.dtype for value in kept.values()} == {torch.float32}
        again = open_adapter(folder)
        again.loaded.model.eval()
        assert torch.equal(full_logits(Body(made.name, made.folder, again.loaded), batch), ours)
        merged = merge(again.attached).eval()
        far = (full_logits(Body(made.name, made.folder, _with(made, merged)), batch) - ours).abs().max()
        assert far <= 1e-5 * max(1.0, float(ours.abs().max())), float(far)


def _with(made: Body, model: torch.nn.Module) -> object:
    from finesight.models.load import LoadedModel

    return LoadedModel(model, made.loaded.processor, made.loaded.ports)


WITHOUT_RECOMPUTING: tuple[str, ...] = ()
"""Types that cannot compute their activations again."""

CHECKS = {
    "words": words_are_exact,
    "inputs": inputs_are_the_processors,
    "loss": loss_is_the_models_own,
    "leaks": answers_do_not_leak,
    "batches": batches_are_their_samples,
    "packs": packs,
    "pictures": pictures_matter,
    "sounds": sounds_matter,
    "learns": learns,
    "freezes": freezes,
    "answers": answers,
    "saves": saves,
    "adapts": adapts,
}
