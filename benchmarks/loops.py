"""The same training under three loops: finesight's, one written by hand, and Hugging Face's `Trainer`.

All three learn from the same examples in the same order, with the same weights at the start, the same groups of
parameters in fused AdamW, the same learning rates and the same clipping; none logs, evaluates or saves.
Each tells `ticks` the loss of every finished step, which is where it is paused between chunks.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.ticks import Ticks
from benchmarks.workloads import SEED, Workload
from finesight.core.batch import IGNORE, Batch, Example
from finesight.core.events import EvaluationReport, StepReport
from finesight.data.loading.collate import collate
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.training.loop import Loop, LoopState, Timetable
from finesight.training.optim import build_optimizer
from finesight.training.precision import Precision
from finesight.training.step import Step

_ENDLESS = 10**9


def _batches(work: Workload) -> Iterator[Batch]:
    while True:
        for examples in work.steps:
            yield work.layout.collate(examples, work.pad_id)


class _Watch:
    """An observer that tells of each step."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks

    def on_step(self, report: StepReport) -> None:
        self._ticks.step(report.loss)

    def on_evaluation(self, report: EvaluationReport) -> None: ...

    def on_phase(self, name: str, total: int) -> None: ...

    def on_progress(self, done: int) -> None: ...


def finesight(work: Workload, ticks: Ticks) -> None:
    """The loop and the step that `finesight train` runs."""
    step = Step(
        work.model,
        SupervisedForward(work.model, work.image),
        build_optimizer(work.model, work.train),
        Precision("fp32", "cpu"),
        work.train.clip,
        SEED,
        torch.device("cpu"),
    )
    times = Timetable(_ENDLESS, len(work.steps), _ENDLESS, _ENDLESS, "val_loss")
    work.model.train()
    Loop(step, work.schedule, times, None, lambda *_: None, [_Watch(ticks)], lambda: False).run(
        ((batch,) for batch in _batches(work)), LoopState()
    )


def bare(work: Workload, ticks: Ticks) -> None:
    """What one would write by hand around the same forward pass."""
    forward = SupervisedForward(work.model, work.image)
    optimizer = build_optimizer(work.model, work.train)
    parameters = [p for p in work.model.parameters() if p.requires_grad]
    work.model.train()
    for number, batch in enumerate(_batches(work), start=1):
        logits = forward(batch)
        loss = nn.functional.cross_entropy(logits, batch.targets[batch.targets != IGNORE])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, work.train.clip)
        for group in optimizer.param_groups:
            group["lr"] = work.schedule.rate(number)
        optimizer.step()
        optimizer.zero_grad()
        ticks.step(loss.detach())


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Examples as a dataset for `Trainer` has them: `labels` beside `input_ids`, pictures as ready floats."""

    def __init__(self, work: Workload) -> None:
        self._rows = [_row(example, work) for step in work.steps for example in step]

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._rows[index % len(self._rows)]


def _row(example: Example, work: Workload) -> dict[str, Tensor]:
    batch = collate([example], work.pad_id)
    if (
        example.source is not None
    ):  # labels are read by the decoder one place later, which the model does by itself
        return {name: batch.inputs[name][0] for name in ("input_ids", "attention_mask")} | {
            "labels": batch.targets[0]
        }
    inputs = {name: value[0] for name, value in float_pictures(batch.inputs, work.image).items()}
    # a target stands where it is predicted, a label where it is read: one place later
    labels = torch.full_like(batch.targets[0], IGNORE)
    labels[1:] = batch.targets[0, :-1]
    return {**inputs, "labels": labels}


class _Collator:
    def __init__(self, work: Workload) -> None:
        read, written = work.pad_to or (0, 0)
        self._padding = {
            "input_ids": (work.pad_id, read),
            "attention_mask": (0, read),
            "labels": (IGNORE, written),
        }

    def __call__(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        found = {}
        for name, (value, least) in self._padding.items():
            parts = [row[name] for row in rows]
            parts[0] = nn.functional.pad(parts[0], (0, max(0, least - len(parts[0]))), value=value)
            found[name] = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)
        if "pixel_values" in rows[0]:
            found["pixel_values"] = torch.stack([row["pixel_values"] for row in rows])
        return found


class _Plain(Trainer):
    """`Trainer` over the examples in their order."""

    latest: Tensor

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.latest = super().training_step(*args, **kwargs)
        return self.latest


class _Tell(TrainerCallback):
    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks
        self.run: _Plain | None = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.run is not None
        self._ticks.step(self.run.latest)


def trainer(work: Workload, ticks: Ticks) -> None:
    """Hugging Face's `Trainer` with the model's own loss."""
    optimizer = build_optimizer(work.model, work.train)
    rates = LambdaLR(optimizer, lambda done: work.schedule.rate(done + 1) / work.schedule.peak)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            per_device_train_batch_size=work.batch_size,
            max_steps=work.schedule.steps,
            max_grad_norm=work.train.clip,
            learning_rate=work.schedule.peak,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            seed=SEED,
        )
        tell = _Tell(ticks)
        run = _Plain(
            model=work.model,
            args=arguments,
            train_dataset=_Rows(work),
            data_collator=_Collator(work),
            optimizers=(optimizer, rates),
            callbacks=[tell],
        )
        tell.run = run
        run.train()


LOOPS = {"finesight": finesight, "bare": bare, "trainer": trainer}
