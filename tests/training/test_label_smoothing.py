"""Targets that are spread: while learning, and only then."""

import torch
from toys import TwoLayers, make_batch, supervised_logits

from finesight.core.batch import IGNORE
from finesight.training.precision import Precision
from finesight.training.step import Step, loss_sum, mean_loss


def test_a_spread_target_is_written_out_by_hand() -> None:
    draw = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(5, 7, generator=draw), torch.tensor([[0, IGNORE, 3], [6, 2, 1]])
    wanted = targets[targets != IGNORE]
    chances = logits.log_softmax(-1)
    by_hand = -(0.8 * chances[torch.arange(5), wanted] + 0.2 * chances.mean(-1)).sum()
    assert torch.allclose(loss_sum(logits, targets, 0.2), by_hand, rtol=1e-6)
    assert torch.equal(loss_sum(logits, targets, 0.0), loss_sum(logits, targets))


def test_a_step_learns_from_spread_targets_and_validation_does_not() -> None:
    batch, plain = make_batch(3), Precision("fp32", "cpu")
    losses = {}
    for smoothing in (0.0, 0.3):
        model = TwoLayers()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        step = Step(
            *(model, supervised_logits(model), optimizer, plain, 0.0, 0, torch.device("cpu")),
            smoothing=smoothing,
        )
        losses[smoothing] = step([batch], 1, 0.0).loss
        measured = mean_loss(model, supervised_logits(model), [batch], plain, torch.device("cpu"))
        logits = supervised_logits(model)(batch).detach()
        assert (
            abs(losses[smoothing] - float(loss_sum(logits, batch.targets, smoothing)) / batch.supervised)
            < 1e-6
        )
        assert abs(measured - float(loss_sum(logits, batch.targets)) / batch.supervised) < 1e-6
    assert losses[0.3] != losses[0.0]
