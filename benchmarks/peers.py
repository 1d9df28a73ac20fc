"""The same training under what others have: Hugging Face's `Trainer`, and TRL's `SFTTrainer`.

Both get ready batches: token ids, masks, labels, and pictures as floats. `SFTTrainer` takes them so by a collator of
our own and `skip_prepare_dataset`; what it adds to a step is its own head, which on a CPU scores every position, and
its measures of entropy and of accuracy.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.ticks import Ticks
from benchmarks.workloads import SEED, Workload
from finesight.core.batch import IGNORE, Example
from finesight.data.loading.collate import collate
from finesight.models.forward import float_pictures
from finesight.training.optim import build_optimizer

_ENDLESS = 10**9
_PASSES = 256
"""Passes after which `SFTTrainer` begins its data again."""


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Examples as a dataset for `Trainer` has them: `labels` beside `input_ids`, pictures as ready floats."""

    def __init__(self, work: Workload) -> None:
        self.rows = [_row(example, work) for step in work.steps for example in step]

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.rows[index % len(self.rows)]


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


class Collator:
    """Rows padded to the longest, or to what the workload says."""

    def __init__(self, work: Workload) -> None:
        read, written = work.pad_to or (0, 0)
        self._padding = {
            "input_ids": (work.pad_id, read),
            "attention_mask": (0, read),
            "labels": (IGNORE, written),
        }

    def __call__(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        found = {}
        for name, (value, least) in self._padding.items():
            parts = [row[name] for row in rows]
            parts[0] = nn.functional.pad(parts[0], (0, max(0, least - len(parts[0]))), value=value)
            found[name] = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)
        if "pixel_values" in rows[0]:
            found["pixel_values"] = torch.stack([row["pixel_values"] for row in rows])
        return found


class InOrder(Trainer):
    """`Trainer` over the examples in their order; also the base of `SFTTrainer`'s likeness."""

    latest: Tensor

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.latest = super().training_step(*args, **kwargs)
        return self.latest


class _Tell(TrainerCallback):
    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks
        self.run: InOrder | None = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.run is not None
        self._ticks.step(self.run.latest)


def _arguments(work: Workload, folder: str) -> dict[str, Any]:
    """What both are told: nothing but steps and numbers; then what the workload adds."""
    return {
        "output_dir": folder,
        "use_cpu": work.device == "cpu",
        "bf16": work.precision == "bf16",
        "per_device_train_batch_size": work.batch_size,
        "max_steps": work.schedule.steps,
        "max_grad_norm": work.train.clip,
        "learning_rate": work.schedule.peak,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": work.device != "cpu",
        "seed": SEED,
        **work.settings,
    }


def _optimizers(work: Workload) -> tuple[torch.optim.Optimizer, LambdaLR]:
    optimizer = build_optimizer(work.model.to(work.device), work.train)
    return optimizer, LambdaLR(optimizer, lambda done: work.schedule.rate(done + 1) / work.schedule.peak)


def trainer(work: Workload, ticks: Ticks) -> None:
    """Hugging Face's `Trainer` with the model's own loss."""
    tell = _Tell(ticks)
    with tempfile.TemporaryDirectory() as folder:
        run = InOrder(
            model=work.model,
            args=TrainingArguments(**_arguments(work, folder)),
            train_dataset=Rows(work),
            data_collator=Collator(work),
            optimizers=_optimizers(work),
            callbacks=[tell],
        )
        tell.run = run
        run.train()


def tokenizer(pad_id: int) -> Any:
    """A tokenizer of a few tokens: `SFTTrainer` wants one, and asks it for its padding alone."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"<{number}>": number for number in range(8)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<3>")),
        pad_token=f"<{pad_id}>",
        eos_token="<2>",
    )


def sft(work: Workload, ticks: Ticks, checkpointing: bool = False) -> None:
    """TRL's `SFTTrainer`; by itself it would set `gradient_checkpointing`, which costs a second forward pass."""
    from datasets import Dataset

    rows, collator = Rows(work), Collator(work)

    def collated(places: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
        return collator([rows[place["row"]] for place in places])

    places = list(range(_PASSES * len(rows.rows)))
    data = Dataset.from_dict({"row": places})
    _fine_tune(work, ticks, data, {"gradient_checkpointing": checkpointing}, collated)


def sft_free(work: Workload, ticks: Ticks) -> None:
    """`SFTTrainer` without padding: all texts of a batch in one row, as its packing has them. Not for pictures."""
    from datasets import Dataset

    rows = Rows(work).rows
    columns = {name: [row[name].tolist() for row in rows] * _PASSES for name in ("input_ids", "labels")}
    settings = {"gradient_checkpointing": False, "padding_free": True}
    _fine_tune(work, ticks, Dataset.from_dict(columns), settings, None)


def _fine_tune(work: Workload, ticks: Ticks, data: Any, settings: dict[str, Any], collator: Any) -> None:
    from trl import SFTConfig, SFTTrainer

    class Sft(InOrder, SFTTrainer):  # type: ignore[misc]
        """Over the examples in their order."""

    tell, ready = _Tell(ticks), {"skip_prepare_dataset": True}
    with tempfile.TemporaryDirectory() as folder:
        told = {**settings, **_arguments(work, folder)}
        run = Sft(
            model=work.model,
            args=SFTConfig(**told, max_length=None, dataset_kwargs=ready),
            train_dataset=data,
            data_collator=collator,
            processing_class=tokenizer(work.pad_id),
            optimizers=_optimizers(work),
            callbacks=[tell],
        )
        tell.run = run
        run.train()


PEERS: dict[str, Callable[[Workload, Ticks], None]] = {
    "trainer": trainer,
    "sft": sft,
    "sft_default": partial(sft, checkpointing=True),
    "sft_free": sft_free,
}
