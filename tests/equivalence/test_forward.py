"""The same numbers whichever way they are computed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import tiny_recipe
from torch.nn.functional import cross_entropy

from finesight.core.batch import IGNORE, Batch, pixel_values
from finesight.data.loading.collate import collate
from finesight.data.loading.loader import in_order
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.runtime.notices import Notices
from finesight.training.step import loss_sum
from finesight.workflows.prepare import Prepared, prepare


@pytest.fixture(scope="module")
def prepared(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    ready = prepare(tiny_recipe(tiny_data, tmp_path_factory.mktemp("forward")), Notices())
    ready.model.eval()
    # a fresh model hardly looks at its pictures: make it
    with torch.no_grad():
        ready.model.model.multi_modal_projector.linear_2.weight.mul_(20)
    return ready


def _full_logits(prepared: Prepared, batch: Batch) -> torch.Tensor:
    return prepared.model(**float_pictures(batch.inputs, prepared.ports.image)).logits


def _gradients(prepared: Prepared, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    prepared.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in prepared.model.named_parameters() if p.grad is not None}


def test_supervised_positions_alone_give_the_loss_and_gradients_of_all_logits(prepared: Prepared) -> None:
    for batch in in_order(prepared.splits["train"], 7):
        ours = loss_sum(SupervisedForward(prepared.model, prepared.ports.image)(batch), batch.targets)
        logits = _full_logits(prepared, batch)
        whole = cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        assert float(ours.detach()) == pytest.approx(float(whole.detach()), rel=1e-6)
        one, other = (
            _gradients(prepared, ours / batch.supervised),
            _gradients(prepared, whole / batch.supervised),
        )
        assert one.keys() == other.keys()
        for name, gradient in one.items():
            assert float((gradient - other[name]).norm()) <= 1e-6 * max(1.0, float(other[name].norm())), name


def test_it_is_the_models_own_loss(prepared: Prepared) -> None:
    batch = next(in_order(prepared.splits["train"], 5))
    # `transformers` shifts labels itself: position t of the labels is predicted at t − 1
    labels = torch.full_like(batch.targets, IGNORE)
    labels[:, 1:] = batch.targets[:, :-1]
    own = prepared.model(**float_pictures(batch.inputs, prepared.ports.image), labels=labels).loss
    ours = (
        loss_sum(SupervisedForward(prepared.model, prepared.ports.image)(batch), batch.targets)
        / batch.supervised
    )
    assert float(ours.detach()) == pytest.approx(float(own.detach()), rel=1e-6)


def test_the_model_is_left_as_it_was(prepared: Prepared) -> None:
    batch = next(in_order(prepared.splits["train"], 3))
    head = prepared.model.get_output_embeddings()
    SupervisedForward(prepared.model, prepared.ports.image)(batch)
    assert not head._forward_pre_hooks
    with pytest.raises(IndexError):
        SupervisedForward(prepared.model, None)(
            Batch((), {"input_ids": batch.targets * 10**6}, batch.targets, 1, 1)
        )
    assert not head._forward_pre_hooks
    assert _full_logits(prepared, batch).shape[:2] == batch.targets.shape


@torch.no_grad()
def test_padding_changes_nothing(prepared: Prepared) -> None:
    examples = prepared.splits["train"]
    chosen = [examples.plain(index) for index in range(8)]
    assert len({len(example.tokens) for example in chosen}) > 2, "ragged"
    together = _full_logits(prepared, collate(chosen, examples.ports.pad_id))
    for row, example in enumerate(chosen):
        alone = _full_logits(prepared, collate([example], examples.ports.pad_id))[0]
        assert float((together[row, : len(example.tokens)] - alone).abs().max()) <= 1e-5


@torch.no_grad()
def test_padding_on_the_left_changes_nothing(prepared: Prepared) -> None:
    from finesight.data.dataset import prepare_pictures
    from finesight.data.loading.collate import collate_prompts

    examples = prepared.splits["train"]

    def last_logits(indices: list[int]) -> torch.Tensor:
        prompts = [examples.prompt(index) for index in indices]
        pictures = [
            pixel_values(prepare_pictures(examples.samples[index], examples.ports)) for index in indices
        ]
        inputs = float_pictures(
            collate_prompts(prompts, pictures, examples.ports.pad_id), examples.ports.image
        )
        # as `generate` does: positions count from the first token that is no padding
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return prepared.model(**inputs, position_ids=positions).logits[:, -1]

    together = last_logits(list(range(8)))
    for index in range(8):
        assert float((together[index] - last_logits([index])[0]).abs().max()) <= 1e-5


@torch.no_grad()
def test_swapped_pictures_take_their_logits_with_them(prepared: Prepared) -> None:
    examples = prepared.splits["train"]
    length = np.bincount(examples.lengths).argmax()
    same = np.flatnonzero(examples.lengths == length).tolist()
    one, other = next(
        (a, b)
        for a in map(examples.plain, same)
        for b in map(examples.plain, same)
        if (a.pictures[0] != b.pictures[0]).any()
    )

    def logits(*pairs: Any) -> torch.Tensor:
        from dataclasses import replace

        rows = [replace(words, extras=pictures.extras) for words, pictures in pairs]
        return _full_logits(prepared, collate(rows, examples.ports.pad_id))

    straight, swapped = logits((one, one), (one, other)), logits((one, other), (one, one))
    assert torch.equal(straight, swapped.flip(0))
    assert float((straight[0] - straight[1]).abs().max()) > 1e-3, "the picture matters"
    permuted = logits((other, other), (one, one))
    ordered = logits((one, one), (other, other))
    assert float((permuted.flip(0) - ordered).abs().max()) <= 1e-5
