"""One batch through everything, without leaving a trace: data, forward, backward, update, saving, answering."""

import tempfile
from pathlib import Path
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.events import Observer
from finesight.data.loader import windows
from finesight.export.card import model_card
from finesight.export.folder import save_folder
from finesight.generation.predict import predict
from finesight.models.forward import SupervisedForward
from finesight.models.load import load_model
from finesight.runtime.device import peak_bytes
from finesight.runtime.notices import Notices
from finesight.training.optim import build_optimizer
from finesight.training.step import Step
from finesight.workflows.prepare import order_of, prepare


def try_one_batch(recipe: Recipe, observer: Observer | None = None) -> dict[str, Any]:
    """Prepare the whole recipe, learn from one batch, save to a temporary folder, load it and answer one sample."""
    notices = Notices()
    prepared = prepare(recipe, notices, observer)
    train, examples = recipe.train, prepared.splits["train"]
    order = order_of(recipe, examples)
    micro = train.batch_size if train.micro_batch == "auto" else train.micro_batch
    window = next(windows(examples, order, 0, 1, micro, recipe.data.workers))
    forward = SupervisedForward(prepared.model, prepared.ports.image)
    optimizer = build_optimizer(prepared.model, train)
    step = Step(
        prepared.model, forward, optimizer, prepared.precision, train.clip, recipe.run.seed, prepared.device
    )
    prepared.model.train()
    result = step(window, 1, train.lr)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        card = model_card(recipe, prepared.facts())
        save_folder(place, prepared.model, prepared.processor, prepared.ports, recipe.generation, card)
        loaded = load_model(str(place))
        answers = predict(loaded.model.to(prepared.device), examples, recipe.generation, 1, limit=1)
    steps = train.max_steps or (train.epochs or 1) * order.steps_per_epoch
    return {
        "status": "dry run passed",
        "steps": steps,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "seconds_per_step": result.forward + result.backward + result.optimizer,
        "peak_bytes": peak_bytes(prepared.device),
        "answer": answers[0].prediction,
        "notices": notices.rows(),
        "next": f"finesight train {recipe.run.name}",
        **prepared.facts(),
    }
