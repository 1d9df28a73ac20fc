"""One batch through everything, without leaving a trace: data, forward, backward, update, saving, answering."""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from finesight.config.recipe import Recipe
from finesight.core.events import Observer
from finesight.core.ports import Ports
from finesight.core.sample import Sample
from finesight.data.loading.workers import Workers
from finesight.generation.predict import answer_all
from finesight.models.decoding import decoding
from finesight.models.forward import SupervisedForward
from finesight.models.parts import parts_by_name
from finesight.runtime.device import peak_bytes
from finesight.runtime.notices import Notices
from finesight.training.audit import Audit
from finesight.training.optim import build_optimizer
from finesight.training.step import Step, evaluating
from finesight.workflows.course import steps_of
from finesight.workflows.finished import save_finished
from finesight.workflows.packed import try_packing
from finesight.workflows.places import find_model
from finesight.workflows.prepare import Prepared, course_of, prepare


def try_one_batch(recipe: Recipe, observer: Observer | None = None) -> dict[str, Any]:
    """Prepare the whole recipe, learn from one batch, save to a temporary folder, load it and answer one sample."""
    notices = Notices()
    prepared = prepare(recipe, notices, observer)
    train, course = recipe.train, course_of(recipe, prepared)
    with closing(course.windows(0, 1, Workers(recipe.data.workers, recipe.data.timeout))) as windows:
        window = next(windows)
    forward = SupervisedForward(prepared.model, prepared.ports.image)
    if train.packing:
        try_packing(prepared, forward, course)
    optimizer = build_optimizer(prepared.model, train, parts_by_name(prepared.model))
    step = Step(
        *(
            prepared.model,
            forward,
            optimizer,
            prepared.precision,
            train.clip,
            recipe.run.seed,
            prepared.device,
        ),
        smoothing=train.label_smoothing,
    )
    groups, parts = train.groups, parts_by_name(prepared.model)
    step.audit = Audit(prepared.model, groups, parts, notices, record=lambda _: None)
    prepared.model.train()
    result = step(window, 1, train.lr)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        save_finished(place, recipe, prepared)
        loaded = find_model(str(place)).loaded
        told = _answer(loaded.model.to(prepared.device), _sample(prepared), recipe, prepared.ports)
    return {
        "status": "dry run passed",
        "steps": steps_of(recipe, course),
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "seconds_per_step": result.total,
        "peak_bytes": peak_bytes(prepared.device),
        "answer": told,
        "notices": notices.rows(),
        **prepared.facts(),
    }


def _sample(prepared: Prepared) -> Sample:
    """A training sample, as its example has it."""
    if prepared.stream is None or prepared.head is None:
        return prepared.splits["train"].sample(0)
    sample = prepared.stream.rows.sample(prepared.head.rows[0])
    assert sample is not None  # it was one when it was looked at
    return sample


def _answer(model: Any, sample: Sample, recipe: Recipe, ports: Ports) -> str:
    with evaluating(model):
        return answer_all(model, ports, [sample], decoding(recipe.generation, ports))[0]
