"""Every group that is to learn has a gradient after the first step that could give it one; nothing frozen has."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Watcher, rows, tiny_mapping, tiny_recipe
from torch import Tensor, nn

from finesight.config.load import parse_recipe
from finesight.config.train import Group, Train
from finesight.core.batch import IGNORE, Batch
from finesight.core.errors import Interrupted, TrainingError
from finesight.core.rundir import RunDirectory
from finesight.runtime.notices import Notices
from finesight.training.agreement import agreed, facts_of
from finesight.training.audit import Audit, Unreached
from finesight.training.optim import build_optimizer
from finesight.training.precision import Precision
from finesight.training.step import Step
from finesight.workflows import train as workflow
from finesight.workflows.train import train

V, H = 9, 6


class Seeing(nn.Module):
    """Embeddings, a tower that pictures go through, an adapter of its own, and what no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(V, H)
        self.vision_tower = nn.Linear(H, H)
        self.projector = nn.Linear(H, H, bias=False)
        self.lora_A = nn.Parameter(torch.randn(2, H))
        self.lora_B = nn.Parameter(torch.zeros(H, 2))
        self.idle = nn.Parameter(torch.ones(3))
        self.fixed = nn.Parameter(torch.ones(H), requires_grad=False)
        self.head = nn.Linear(H, V)

    def forward(self, tokens: Tensor, pictures: Tensor | None) -> Tensor:
        x = self.words(tokens) * self.fixed
        x = x + x @ self.lora_A.T @ self.lora_B.T
        if pictures is not None:
            x = x + self.projector(torch.tanh(self.vision_tower(pictures))).sum(0)
        return self.head(x)


def _part(name: str) -> str:
    return next((part for part in ("vision_tower", "projector") if name.startswith(part)), "language_model")


def _batch(number: int, shown: bool) -> Batch:
    draw = torch.Generator().manual_seed(number)
    tokens, targets = (torch.randint(0, V, (1, 4), generator=draw) for _ in range(2))
    inputs = {"input_ids": tokens} | ({"pixel_values": torch.randn(2, H, generator=draw)} if shown else {})
    return Batch((f"s{number}",), inputs, targets, 4, 4)


class _Run:
    """A step with an audit over a toy, and all that they said."""

    def __init__(self, model: nn.Module, *groups: Group, known: Any = None, precision: Any = "fp32") -> None:
        self.notices, self.found = Notices(), {}
        settings = Train(max_steps=1, weight_decay=0.0, groups=groups)
        self.audit = Audit(model, groups, _part, self.notices, self.found.update, known)
        self.step = Step(
            model,
            lambda batch: model(batch.inputs["input_ids"], batch.inputs.get("pixel_values"))[
                batch.targets != IGNORE
            ],
            build_optimizer(model, settings, _part),
            Precision(precision, "cpu"),
            0.1,
            0,
            torch.device("cpu"),
        )
        self.step.audit = None if self.audit.done else self.audit

    def __call__(self, number: int, shown: bool) -> float:
        window = [_batch(2 * number, shown), _batch(2 * number + 1, False)]
        return self.step(window, number, 0.1, agreed([facts_of(window)])).grad_norm

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["group"]: row for row in self.found["groups"]}

    @property
    def told(self) -> list[str]:
        return [str(row["text"]) for row in self.notices.rows()]


def test_groups_norms_and_what_is_missing() -> None:
    run = _Run(Seeing(), Group(match="head*", lr=0.1))
    norm = run(1, shown=True)
    found = run.rows
    assert set(found) == {
        "language model", "vision tower", "projector", "group `head*`", "frozen",
    }  # fmt: skip
    parts = [found[name]["norm"] for name in ("language model", "vision tower", "projector")]
    assert math.hypot(*parts) == pytest.approx(norm, rel=1e-6), "before clipping, of the whole"
    assert 0 < found["group `head*`"]["norm"] < found["language model"]["norm"]
    assert found["language model"]["without"] == ["idle"]
    assert found["language model"]["reached"] == found["language model"]["tensors"] - 1
    assert (found["frozen"]["tensors"], found["frozen"]["reached"]) == (1, 0)
    assert run.told == [
        "no gradient reached 1 of the 6 tensors of the language model, which are to learn: idle"
    ]


def test_zero_is_not_none_and_is_looked_at_again() -> None:
    model = Seeing()
    run = _Run(model)
    run(1, shown=True)
    assert run.rows["language model"]["at_zero"] == ["lora_A"], "B is zero: so is A's gradient"
    assert run.step.audit is not None
    run(2, shown=False)
    assert run.rows["language model"]["at_zero"] == []
    assert run.step.audit is None, "no cost afterwards"
    assert not any("zero" in text for text in run.told)

    dead = Seeing()
    dead.head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0,))
    run = _Run(dead)
    for number in range(1, 7):
        run(number, shown=True)
    assert run.step.audit is None
    assert any("vision_tower.weight" in text and "stays exactly zero" in text for text in run.told)


def test_a_group_waits_for_its_inputs() -> None:
    run = _Run(Seeing())
    run(1, shown=False)
    assert run.found["waiting"] == ["language model", "vision tower", "projector"]
    assert not run.told, "what pictures alone may reach is not told yet"
    run(2, shown=False)
    run(3, shown=True)
    assert run.found["waiting"] == []
    assert {name: row["step"] for name, row in run.rows.items()} == {
        "language model": 3, "vision tower": 3, "projector": 3, "frozen": 1,
    }  # fmt: skip

    never = _Run(Seeing())
    never(1, shown=False)
    never.audit.close()
    assert any("no step had pictures, so the vision tower learned nothing" in text for text in never.told)


@pytest.mark.parametrize("late", [False, True])
def test_a_group_that_nothing_reaches_is_an_error_and_changes_nothing(late: bool) -> None:
    model = Seeing()
    model.vision_tower.register_forward_hook(lambda _, __, out: out.detach())
    run = _Run(model)
    if late:
        run(1, shown=False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(Unreached) as caught:
        run(2, shown=True)
    (fault,) = caught.value.faults
    assert "the vision tower is to learn" in fault.what and "2 tensors" in fault.what
    assert fault.where.startswith("step 2, samples s4") and "model.freeze" in fault.mend
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_group_of_the_recipe_that_nothing_reaches_is_an_error() -> None:
    with pytest.raises(Unreached, match="group `idle`"):
        _Run(Seeing(), Group(match="idle", lr=0.1))(1, shown=True)


def test_a_frozen_tensor_with_a_gradient_is_an_error() -> None:
    model = Seeing()
    run = _Run(model)
    model.fixed.requires_grad_(True)
    with pytest.raises(Unreached, match="a gradient reached what is frozen, 1 tensor: fixed"):
        run(1, shown=True)


def test_gradients_of_fp16_are_those_before_scaling() -> None:
    runs = {name: _Run(Seeing(), precision=name) for name in ("fp32", "fp16")}
    for number in (1, 2, 3, 4):  # the scaler may have to find its scale first
        for run in runs.values():
            run(number, shown=True)
    ours, theirs = runs["fp16"].rows, runs["fp32"].rows
    assert ours["projector"]["step"] == theirs["projector"]["step"] == 1
    for name, row in theirs.items():
        assert ours[name]["norm"] == pytest.approx(row["norm"], rel=2e-2), name


def test_a_step_that_is_no_number_tells_nothing() -> None:
    model = Seeing()
    run = _Run(model)
    run.step._skips = True
    hook = model.head.register_forward_hook(lambda _, __, out: out * math.nan)
    run(1, shown=True)
    assert run.found == {}
    hook.remove()
    run(2, shown=True)
    assert run.rows["vision tower"]["step"] == 2


def test_what_is_known_is_not_looked_at_again() -> None:
    first = _Run(Seeing())
    first(1, shown=False)
    second = _Run(Seeing(), known=json.loads(json.dumps(first.found)))
    assert second.step.audit is not None
    second(2, shown=True)
    assert second.found["waiting"] == []
    assert second.rows["frozen"]["step"] == 1
    third = _Run(Seeing(), known=json.loads(json.dumps({**second.found, "zero": {}})))
    assert third.step.audit is None


def test_in_a_run(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    folder = tmp_path / "run"
    recipe = tiny_recipe(
        tiny_data, folder, train={"max_steps": 3}, evaluation={"every": 100}, model={"freeze": ["projector"]}
    )

    def stop(asked: Any) -> Watcher:
        return Watcher("step", 1, asked)

    import os
    import signal

    with pytest.raises(Interrupted):
        train(recipe, observer=stop(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    run = RunDirectory(folder)
    found = run.audit.read_bytes()
    groups = {row["group"]: row for row in json.loads(found)["groups"]}
    assert groups.keys() == {"vision tower", "language model", "frozen"}
    learned = math.hypot(groups["vision tower"]["norm"], groups["language model"]["norm"])
    assert learned == pytest.approx(rows(run.metrics)[0]["grad_norm"], rel=1e-6)
    train(recipe, resume=True)
    assert run.audit.read_bytes() == found, "not repeated"


def test_the_error_reaches_the_person_with_everything_saved(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finesight.workflows import session

    original = session.engine_of

    def cut(recipe: Any, prepared: Any, *rest: Any) -> Any:
        prepared.model.model.multi_modal_projector.register_forward_hook(lambda _, __, out: out.detach())
        return original(recipe, prepared, *rest)

    monkeypatch.setattr(session, "engine_of", cut)
    mapping = tiny_mapping(tiny_data, tmp_path / "run")
    with pytest.raises(TrainingError) as caught:
        train(parse_recipe(mapping))
    assert caught.value.exit_status == 2
    assert "no gradient reached any of its" in str(caught.value)
    assert "what was learned in 0 steps is saved" in str(caught.value)
