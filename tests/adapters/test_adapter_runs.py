"""Runs that train an adapter: what learns and what stays, recomputed activations, resuming, and what a run may name."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted import adapter_mapping, adapter_recipe, copied, inputs, logits
from safetensors.torch import load_file, save_file
from tiny_runs import Watcher, rows, steps_made, tiny_recipe

from finesight.adapters.attach import adapted_layers
from finesight.config.load import parse_recipe
from finesight.core.errors import Interrupted, ModelError, RunError
from finesight.data.loading.workers import Workers
from finesight.models.forward import SupervisedForward
from finesight.models.load import load_model
from finesight.runtime.notices import Notices
from finesight.training.optim import build_optimizer
from finesight.training.step import Step, loss_sum
from finesight.workflows import train as workflow
from finesight.workflows.places import find_model
from finesight.workflows.ports import found_ports
from finesight.workflows.prepare import Prepared, course_of, prepare

SHORT = {"max_steps": 6, "weight_decay": 0.1}
EVALUATION = {"every": 8, "max_samples": 1}
ADAPTER: dict[str, Any] = {"rank": 4, "targets": {"language_model": "all_linear"}, "save": ["projector"]}


def _train(recipe: Any, steps: int) -> tuple[Prepared, list[float]]:
    """`steps` steps of a recipe, as a run makes them, without files; the losses."""
    prepared = prepare(recipe, Notices())
    train = recipe.train
    forward = SupervisedForward(prepared.model, prepared.ports.image)
    optimizer = build_optimizer(prepared.model, train)
    step = Step(
        prepared.model, forward, optimizer, prepared.precision, train.clip, recipe.run.seed, prepared.device
    )
    prepared.model.train()
    windows = course_of(recipe, prepared).windows(0, steps, Workers(0, 60.0))
    losses = [step(next(windows), number, train.lr).loss for number in range(1, steps + 1)]
    states = optimizer.state.values()
    assert {value.dtype for state in states for value in state.values()} == {torch.float32}
    return prepared, losses


@pytest.fixture(scope="module")
def adapter_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, finished_run: Path) -> Path:
    """A finished run of an adapter; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "adapter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "build_report", lambda path: path / "report.html")
        workflow.train(adapter_recipe(tiny_data, folder, finished_run, ADAPTER, train=SHORT))
    return folder


@pytest.mark.parametrize(
    "adapter",
    [
        ADAPTER,
        {"targets": {"vision_tower": "attention"}, "bias": "all", "dora": True},
        {"save": ["embeddings"]},
    ],
    ids=["projector", "biases and dora", "embeddings"],
)
def test_what_is_frozen_stays_to_the_bit(
    adapter: dict[str, Any],
    tiny_data: Path,
    tmp_path: Path,
    finished_run: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = adapter_recipe(
        tiny_data, tmp_path / "run", finished_run, adapter, train={"max_steps": 50, "weight_decay": 0.1}
    )
    caplog.set_level("INFO", "finesight")
    start = prepare(recipe, Notices())
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    learning = {name for name, value in start.model.named_parameters() if value.requires_grad}
    prepared, _ = _train(recipe, 50)
    after = prepared.model.state_dict()
    assert after.keys() == before.keys()
    whole = {"lm_head.weight"} if "embeddings" in adapter.get("save", ()) else set()  # the same matrix twice
    for name, value in after.items():
        assert torch.equal(value, before[name]) == (name not in learning | whole), name

    total = sum(value.numel() for value in prepared.model.parameters())
    count = sum(value.numel() for value in prepared.model.parameters() if value.requires_grad)
    told = f"trainable {count:,} of {total:,} ({100 * count / total:.2f} %)"
    assert f"model: {told}" in caplog.text
    parts = prepared.facts()["parameters"]
    assert sum(part["trainable"] for part in parts.values()) == count
    assert parts["vision_tower"]["trainable"] == (
        0 if adapter.get("bias") is None else count - _biases(prepared)
    )


def _biases(prepared: Prepared) -> int:
    """Values of biases that learn outside the vision tower."""
    return sum(
        value.numel()
        for name, value in prepared.model.named_parameters()
        if value.requires_grad and not name.startswith("model.vision_tower.")
    )


@pytest.mark.parametrize("dora", [False, True])
def test_every_matrix_learns_with_recomputed_activations(
    dora: bool, tiny_data: Path, tmp_path: Path, finished_run: Path
) -> None:
    adapter = {"targets": {"vision_tower": "all_linear", "language_model": "all_linear"}, "dora": dora}
    found = []
    for again in (True, False):
        train = {"max_steps": 5, "gradient_checkpointing": again}
        recipe = adapter_recipe(tiny_data, tmp_path / "run", finished_run, adapter, train=train)
        prepared, losses = _train(recipe, 5)
        layers = adapted_layers(prepared.model)
        assert len(layers) == 13
        assert all(layer.lora_B["default"].weight.abs().max() > 0 for layer in layers.values())
        found.append((losses, prepared.model.state_dict()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    # the last layer's rows are selected in another place, so that sums round otherwise
    for name, value in found[0][1].items():
        assert torch.allclose(value, found[1][1][name], atol=1e-4), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_learns_is_fp32_in_every_precision(
    precision: str, tiny_data: Path, tmp_path: Path, finished_run: Path
) -> None:
    train = {"max_steps": 3, "precision": precision}
    prepared, losses = _train(
        adapter_recipe(tiny_data, tmp_path / "run", finished_run, ADAPTER, train=train), 3
    )
    assert prepared.precision.name == precision
    assert {value.dtype for value in prepared.model.parameters()} == {torch.float32}
    layers = adapted_layers(prepared.model).values()
    assert all(layer.lora_B["default"].weight.abs().max() > 0 for layer in layers)
    assert np.isfinite(losses).all()


def _values_kept(work: Any) -> int:
    """How many values autograd keeps for the backward pass of some work."""
    sizes: list[int] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        work()
    return sum(sizes)


def test_recomputed_activations_are_not_kept(tiny_data: Path, tmp_path: Path, finished_run: Path) -> None:
    kept = []
    for again in (True, False):
        train = {"max_steps": 5, "gradient_checkpointing": again}
        recipe = adapter_recipe(tiny_data, tmp_path / "run", finished_run, {}, train=train)
        prepared = prepare(recipe, Notices())
        prepared.model.train()
        batch = course_of(recipe, prepared).first()[0]
        forward = SupervisedForward(prepared.model, prepared.ports.image)
        kept.append(_values_kept(lambda: loss_sum(forward(batch), batch.targets)))  # noqa: B023 (called at once)
    assert kept[0] < 0.7 * kept[1]


def test_a_loop_with_plain_peft_learns_the_same(tiny_data: Path, tmp_path: Path, finished_run: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    from finesight.training.step import hash_seed
    from finesight.workflows.adapting import _ATTACHING

    base = copied(finished_run / "model", tmp_path / "base")
    # without dropout: finesight computes fewer rows, so that others would be dropped
    config = (
        (base / "config.json").read_text().replace('"attention_dropout": 0.1', '"attention_dropout": 0.0')
    )
    (base / "config.json").write_text(config)
    adapter = {"rank": 4, "rslora": True}
    recipe = adapter_recipe(tiny_data, tmp_path / "run", base, adapter, train={"max_steps": 6})
    _, ours = _train(recipe, 6)

    model = load_model(str(base)).model
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    targets = rf"model\.language_model\..*\.({'|'.join(names)})"
    torch.manual_seed(hash_seed(recipe.run.seed, _ATTACHING))
    settings = LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=targets)
    model = inject_adapter_in_model(settings, model)
    learning = [value for value in model.parameters() if value.requires_grad]
    decay = recipe.train.weight_decay
    optimizer = torch.optim.AdamW(learning, lr=recipe.train.lr, betas=recipe.train.betas, weight_decay=decay)
    prepared = prepare(recipe, Notices())  # its data; its own model is not used
    model.train()
    theirs = []
    for number, window in enumerate(course_of(recipe, prepared).windows(0, 6, Workers(0, 60.0)), 1):
        torch.manual_seed(hash_seed(recipe.run.seed, number))
        total = torch.tensor(0.0)
        for batch in window:
            image = prepared.ports.image
            assert image is not None
            given = dict(batch.inputs)
            mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (image.mean, image.std))
            given["pixel_values"] = (given["pixel_values"].float() / 255 - mean) / std
            scores = model(**given).logits.flatten(0, 1)
            summed = torch.nn.functional.cross_entropy(scores, batch.targets.flatten(), reduction="sum")
            (summed / sum(part.supervised for part in window)).backward()
            total += summed.detach() / sum(part.supervised for part in window)
        torch.nn.utils.clip_grad_norm_(learning, recipe.train.clip)
        optimizer.step()
        optimizer.zero_grad()
        theirs.append(float(total))
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[0] != pytest.approx(ours[-1], abs=1e-3)


def _same(one: Path, other: Path) -> None:
    for name in ("losses_log.csv", "samples.jsonl", "predictions/val.jsonl", "checkpoints/last"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    last = (one / "checkpoints" / "last").read_text().strip()
    for name in ("model", "optimizer"):
        file = f"checkpoints/{last}/{name}.safetensors"
        assert (one / file).read_bytes() == (other / file).read_bytes(), name
    weights = "adapter/adapter_model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()


def test_ten_and_ten_steps_of_an_adapter_are_twenty(
    tmp_path: Path, tiny_data: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    adapter = ADAPTER | {"dropout": 0.1, "dora": True}
    train = {"max_steps": 20, "gradient_checkpointing": True}
    whole, halves = (
        adapter_recipe(tiny_data, tmp_path / name, finished_run, adapter, train=train, evaluation=EVALUATION)
        for name in ("whole", "halves")
    )
    workflow.train(whole)
    with pytest.raises(Interrupted):
        workflow.train(halves, observer=Watcher("step", 10, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert steps_made(tmp_path / "halves") == 10
    workflow.train(halves, resume=True)
    _same(tmp_path / "whole", tmp_path / "halves")


def test_a_changed_base_is_refused_on_resuming(tmp_path: Path, tiny_data: Path, finished_run: Path) -> None:
    base = copied(finished_run / "model", tmp_path / "base")
    recipe = adapter_recipe(tiny_data, tmp_path / "run", base, {}, train={"max_steps": 4, "save_every": 1})

    with pytest.raises(Interrupted):
        workflow.train(recipe, observer=Watcher("step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    tensors = load_file(base / "model.safetensors")
    next(iter(tensors.values())).add_(0.5)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="the base model changed"):
        workflow.train(recipe, resume=True)


def test_files_of_a_run(adapter_run: Path, finished_run: Path) -> None:
    assert not (adapter_run / "model").exists()
    names = {path.name for path in (adapter_run / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "finesight.json", "README.md"} <= names
    card = (adapter_run / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card
    assert f'from_pretrained("{finished_run / "model"}", dtype="float32")' in card
    assert "| val | all | exact_match |" in card
    assert {"generation_config.json", "tokenizer.json", "processor_config.json"} <= names
    config = json.loads((adapter_run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(finished_run / "model")
    known = json.loads((adapter_run / "environment.json").read_text())
    record = json.loads((adapter_run / "adapter" / "finesight.json").read_text())
    assert record["format"] == 1
    assert record["base"].items() >= known["base"].items()
    assert known["base"]["fingerprint"].startswith("sha256:")
    last = adapter_run / "checkpoints" / (adapter_run / "checkpoints" / "last").read_text().strip()
    saved = load_file(last / "model.safetensors")
    assert saved and all("lora_" in name or "multi_modal_projector" in name for name in saved)
    optimizer = load_file(last / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in optimizer} == set(saved)
    for tensors in (saved, optimizer, load_file(adapter_run / "adapter" / "adapter_model.safetensors")):
        assert {value.dtype for value in tensors.values()} == {torch.float32}


def test_a_run_its_adapter_and_its_checkpoints_can_be_named(adapter_run: Path, tmp_path: Path) -> None:
    last = (adapter_run / "checkpoints" / "last").read_text().strip()
    best = (adapter_run / "checkpoints" / "best").read_text().strip()
    models = [find_model(str(place)) for place in (adapter_run, adapter_run / "adapter")]
    models.append(find_model(str(adapter_run / "checkpoints" / best)))
    given = inputs(models[0].loaded)
    first, *others = [logits(found.loaded.model, given) for found in models]
    assert all(torch.equal(first, other) for other in others)
    assert all(found.recipe is not None and found.adapted is not None for found in models)
    ports = [found_ports(str(place)) for place in (adapter_run, adapter_run / "checkpoints" / last)]
    assert {found.fingerprint for found in ports} == {models[0].loaded.ports.fingerprint}

    from tiny_runs import picture_bytes

    from finesight.workflows.generate import generate

    (tmp_path / "picture.png").write_bytes(picture_bytes("red", "blue"))
    told = generate(str(adapter_run), [tmp_path / "picture.png"], "Which colours?", device="cpu")
    assert isinstance(told[0]["answer"], str)


def test_evaluating_a_run_gives_its_own_answers(adapter_run: Path, tmp_path: Path) -> None:
    from finesight.workflows.evaluate import evaluate

    evaluate(str(adapter_run), split="val", out=tmp_path / "again")
    assert rows(tmp_path / "again" / "predictions" / "val.jsonl") == rows(
        adapter_run / "predictions" / "val.jsonl"
    )


@pytest.mark.parametrize("checkpoint", [False, True])
def test_an_adapter_is_trained_on(
    checkpoint: bool, adapter_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    last = (adapter_run / "checkpoints" / "best").read_text().strip()
    place = adapter_run / "checkpoints" / last if checkpoint else adapter_run
    notices = Notices()
    prepared = prepare(adapter_recipe(tiny_data, tmp_path / "run", place, ADAPTER), notices)
    found = find_model(str(place)).loaded
    assert torch.equal(logits(prepared.model, inputs(found)), logits(found.model, inputs(found)))
    assert prepared.adapted.base == find_model(str(adapter_run)).adapted.base
    assert "continued" in {row["kind"] for row in notices.rows()}
    for changes, what in (({"alpha": 99}, "alpha 16 became 99"), ({"rank": 5}, "rank 4 became 5")):
        with pytest.raises(ModelError, match=what):
            prepare(adapter_recipe(tiny_data, tmp_path / "run", adapter_run, ADAPTER | changes), Notices())
    if not checkpoint:
        wider = ADAPTER | {"targets": {"language_model": "all_linear", "vision_tower": ["q_proj"]}}
        recipe = adapter_recipe(tiny_data, tmp_path / "run", adapter_run, wider)
        with pytest.raises(ModelError, match="missing: "):
            prepare(recipe, Notices())


@pytest.mark.parametrize("checkpoint", [False, True])
def test_an_adapter_is_merged_as_start_weights(
    checkpoint: bool, adapter_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    best = (adapter_run / "checkpoints" / "best").read_text().strip()
    place = adapter_run / "checkpoints" / best if checkpoint else adapter_run
    notices = Notices()
    prepared = prepare(adapter_recipe(tiny_data, tmp_path / "run", place, None), notices)
    found = find_model(str(adapter_run)).loaded
    given = inputs(found)
    assert torch.allclose(logits(prepared.model, given), logits(found.model, given), rtol=0, atol=1e-5)
    assert "merged" in {row["kind"] for row in notices.rows()}
    assert not any("lora" in name or "base_layer" in name for name, _ in prepared.model.named_parameters())


def test_one_batch_leaves_no_trace(tiny_data: Path, tmp_path: Path, finished_run: Path) -> None:
    recipe = adapter_recipe(tiny_data, tmp_path / "run", finished_run, {"dora": True})
    told = workflow.train(recipe, dry_run=True)
    assert told["status"] == "dry run passed"
    assert np.isfinite(told["loss"])
    assert not (tmp_path / "run").exists()


def test_a_whole_run_has_no_adapter(tiny_data: Path, tmp_path: Path) -> None:
    assert tiny_recipe(tiny_data, tmp_path).adapter is None
    assert parse_recipe(adapter_mapping(tiny_data, tmp_path, tmp_path, None)).adapter is None
