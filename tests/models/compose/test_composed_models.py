"""Every kind of composed model learns, answers the same in a process without finesight, and is saved as it was."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_parts import VISION, batch_of, built, composed, example, left_padded, pictures
from torch.nn.functional import cross_entropy
from tower_watch import learn_once

from finesight.core.sample import Image as Picture
from finesight.core.sample import Message, Text
from finesight.models.features import encode
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.models.load import LoadedModel, load_model
from finesight.models.parts import count, freeze
from finesight.models.recompute import checkpoint_activations


def _eye(name: str, **more: Any) -> dict[str, Any]:
    return {"config": VISION[name], **more}


CASES = {
    "linear": (composed("clip", "linear", "llama"), "plain", 16),
    "mlp": (composed("siglip", "mlp", "tied", image_start="<see>", image_end="</see>"), "plain", 16),
    "all": (composed(_eye("clip", tokens="all"), "mlp", "llama"), "plain", 17),
    "wide": (composed("clip", {"kind": "mlp", "width": 40}, "llama"), "trust", 16),
    "resblock": (composed("clip", {"kind": "resblock", "blocks": 2}, "phi"), "trust", 16),
    "shuffle": (composed("siglip", "pixel_shuffle", "gpt2"), "trust", 4),
    "registers": (composed("registers", "resblock", "tied", image_start="<see>"), "trust", 16),
    "cls": (composed(_eye("clip", tokens="cls", layer=-2), "mlp", "llama"), "trust", 1),
    "efficientnet": (composed(_eye("efficientnet", image_size=64), "linear", "tied"), "trust", 4),
    "resnet": (composed(_eye("resnet", image_size=64), "mlp", "llama"), "trust", 4),
}
"""Composition; whether others must trust its code; visual tokens of a picture."""
BEFORE = {"clip": 1, "registers": 5}
"""Tokens of an encoder before its patches: a class token, and four registers."""


@dataclass
class Case:
    name: str
    loaded: LoadedModel
    trust: str
    tokens: int
    losses: list[float]
    place: Path


def _learn(loaded: LoadedModel, steps: int = 8) -> list[float]:
    model, batch = loaded.model, batch_of(loaded.ports)
    forward = SupervisedForward(model, loaded.ports.image)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    losses = []
    for _ in range(steps):
        model.train()
        targets = batch.targets[batch.targets != -100]
        loss = cross_entropy(forward(batch), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def _asked(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Prompts of unequal lengths, padded on the left, the second with two pictures."""
    ports = loaded.ports
    shown = pictures(ports, 3, seed=5)
    rows = []
    for count_, question in ((1, "Which colours?"), (2, "Which?")):
        found = example(ports, shown[:count_], question, "x")
        rows.append(found.tokens[: -len(ports.tokenizer("x")["input_ids"]) - 1].tolist())
    levels = {"pixel_values": torch.tensor([shown[0].tolist(), shown[1].tolist(), shown[2].tolist()])}
    return {**left_padded(rows, ports.pad_id), **float_pictures(levels, ports.image)}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """All models: built, taught a little, saved."""
    root, found = tmp_path_factory.mktemp("composed"), {}
    torch.manual_seed(0)
    for name, (compose, trust, tokens) in CASES.items():
        loaded, place = built(compose), root / name
        losses = _learn(loaded)
        loaded.model.save_pretrained(place / "model")
        loaded.processor.save_pretrained(place / "model")
        batch = batch_of(loaded.ports)
        inputs = {**float_pictures(batch.inputs, loaded.ports.image)}
        inputs |= {f"asked_{key}": value for key, value in _asked(loaded).items()}
        save_file({key: value.contiguous() for key, value in inputs.items()}, place / "inputs.safetensors")
        Image.new("RGB", (50, 30), (200, 30, 30)).save(place / "picture.png")
        found[name] = Case(name, loaded, trust, tokens, losses, place)
    return found


@pytest.fixture(scope="module")
def outside(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a process without finesight made of the folders."""
    hidden = tmp_path_factory.mktemp("hidden")
    (hidden / "finesight").mkdir()
    (hidden / "finesight" / "__init__.py").write_text("raise ImportError('not here')\n")
    environment = {**os.environ, "PYTHONPATH": str(hidden), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))}
    folders = [f"{case.trust}:{case.place}" for case in cases.values()]
    program = [sys.executable, "-P", str(Path(__file__).with_name("remote.py")), *folders]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        name: {
            **load_file(case.place / "outputs.safetensors"),
            **json.loads((case.place / "texts.json").read_text()),
        }
        for name, case in cases.items()
    }


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


def test_it_learns(case: Case) -> None:
    assert case.losses[-1] < 0.8 * case.losses[0]
    counts = count(case.loaded.model)
    assert set(counts) == {"vision_tower", "projector", "language_model"}
    assert all(part.total for part in counts.values())


def test_dimensions_are_derived(case: Case) -> None:
    config, image = case.loaded.model.config, case.loaded.ports.image
    assert image is not None and image.tokens_per_image == case.tokens == config.image_seq_length
    assert config.text_config.vocab_size == len(case.loaded.processor.tokenizer)
    assert config.model_type == ("llava" if case.trust == "plain" else "finesight_llava")


def test_others_compute_the_same(case: Case, outside: dict[str, dict[str, Any]]) -> None:
    model, theirs = case.loaded.model, outside[case.name]
    inputs = load_file(case.place / "inputs.safetensors")
    asked = {name: inputs[f"asked_{name}"] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        logits = model(**{name: inputs[name] for name in asked}).logits
        greedy = model.generate(**asked, max_new_tokens=4, do_sample=False)
        beams = model.generate(**asked, max_new_tokens=4, do_sample=False, num_beams=3)
    assert float((logits - theirs["logits"]).abs().max()) <= 1e-6
    assert torch.equal(greedy, theirs["greedy"])
    assert torch.equal(beams, theirs["beams"])
    kind = (
        "LlavaForConditionalGeneration" if case.trust == "plain" else "FinesightLlavaForConditionalGeneration"
    )
    assert theirs["kind"] == kind
    assert (case.place / "model" / "modeling_finesight.py").is_file() == (case.trust == "trust")


def test_their_processor_prepares_the_same(case: Case, outside: dict[str, dict[str, Any]]) -> None:
    ports, theirs = case.loaded.ports, outside[case.name]
    turn = Message("user", (Picture(b""), Text("Which colours?")))
    text = ports.render([turn], True)
    assert text == theirs["text"]
    assert ports.image is not None
    expanded = text.replace("<image>", "<image>" * case.tokens)
    assert theirs["input_ids"][0].tolist() == ports.tokenizer(expanded, add_special_tokens=False)["input_ids"]
    assert theirs["pixel_values"].shape == (1, 3, ports.image.height, ports.image.width)


def test_saved_again_it_is_the_same(case: Case, outside: dict[str, dict[str, Any]]) -> None:
    first, again = case.place / "model", case.place / "again"
    assert {path.name for path in first.iterdir()} == {path.name for path in again.iterdir()}
    ours, theirs = load_file(first / "model.safetensors"), load_file(again / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if case.trust == "trust":
        assert (first / "modeling_finesight.py").read_bytes() == (
            again / "modeling_finesight.py"
        ).read_bytes()
        own = json.loads((first / "config.json").read_text())["auto_map"]
        assert json.loads((again / "config.json").read_text())["auto_map"] == own


def test_finesight_loads_it_without_running_the_folders_code(case: Case, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for path in (case.place / "model").iterdir():
        data = b"raise SystemExit('ran')" if path.suffix == ".py" else path.read_bytes()
        (tmp_path / "model" / path.name).write_bytes(data)
    found = load_model(str(tmp_path / "model"))
    assert type(found.model) is type(case.loaded.model)
    state = case.loaded.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.model.state_dict().items())
    assert found.ports.fingerprint == case.loaded.ports.fingerprint


def test_the_chosen_tokens_of_the_chosen_layer_are_read(case: Case) -> None:
    part = CASES[case.name][0].vision
    side = case.loaded.ports.image.height if case.loaded.ports.image else 0
    pixels, tower = torch.randn(2, 3, side, side), case.loaded.model.model.vision_tower
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states[part.layer]
        states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
        before = next((count_ for name, count_ in BEFORE.items() if part.config == VISION[name]), 0)
        wanted = {"all": states, "cls": states[:, :1], "patches": states[:, before:]}[part.tokens]
        assert torch.equal(encode(case.loaded.model, pixels), wanted)
        tokens = case.loaded.model.get_image_features(pixels).pooler_output
        expected = case.loaded.model.model.multi_modal_projector(wanted)
    assert all(torch.equal(one, other) for one, other in zip(tokens, expected, strict=True))


def test_batches_and_single_rows_agree(case: Case) -> None:
    asked, model = _asked(case.loaded), case.loaded.model
    places = (asked["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        together = model(**asked, position_ids=places).logits
        shown = [asked["pixel_values"][:1], asked["pixel_values"][1:]]
        for row, levels in enumerate(shown):
            kept = asked["attention_mask"][row] == 1
            alone = model(input_ids=asked["input_ids"][row : row + 1, kept], pixel_values=levels).logits[0]
            assert float((together[row, kept] - alone).abs().max()) <= 1e-5


def test_swapped_pictures_swap_the_logits(case: Case) -> None:
    loaded = case.loaded
    one, two = pictures(loaded.ports, 2, seed=8)

    def logits(*shown: Any) -> torch.Tensor:
        found = example(loaded.ports, list(shown), "Which colours?", "red")
        inputs = {"input_ids": torch.tensor(found.tokens[None].tolist())}
        inputs["pixel_values"] = torch.tensor([picture.tolist() for picture in shown])
        with torch.no_grad():
            return loaded.model(**float_pictures(inputs, loaded.ports.image)).logits[0, -1]

    assert float((logits(one, two) - logits(two, one)).abs().max()) > 1e-5
    assert float((logits(one, one) - logits(two, two)).abs().max()) > 1e-5
    assert torch.equal(logits(one, two), logits(one, two))


def test_supervised_rows_are_those_of_the_whole(case: Case) -> None:
    model, batch = case.loaded.model, batch_of(case.loaded.ports)
    with torch.no_grad():
        whole = model(**float_pictures(batch.inputs, case.loaded.ports.image)).logits
        rows = SupervisedForward(model, case.loaded.ports.image)(batch)
    assert float((whole[batch.targets != -100] - rows).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", ["mlp", "resblock", "efficientnet", "resnet"])
def test_a_frozen_encoder_stays_as_it_is(name: str) -> None:
    loaded = built(CASES[name][0])
    freeze(loaded.model, ["vision_tower"])
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    _learn(loaded, 8)
    for key, value in loaded.model.state_dict().items():
        frozen = key.startswith("model.vision_tower.")
        assert torch.equal(value, before[key]) == frozen, key


@pytest.mark.parametrize("name", ["mlp", "resblock", "efficientnet"])
def test_nothing_of_a_frozen_encoder_is_kept(name: str) -> None:
    loaded = built(CASES[name][0])
    batch, forward = batch_of(loaded.ports), SupervisedForward(loaded.model, loaded.ports.image)
    assert learn_once(lambda: forward(batch), loaded.model).inside > 10
    freeze(loaded.model, ["vision_tower"])
    frozen = learn_once(lambda: forward(batch), loaded.model)
    assert frozen.inside == frozen.outputs_that_learn == 0 < frozen.outside
    if name != "efficientnet":  # which has no layers to checkpoint
        checkpoint_activations(loaded.model)
        again = learn_once(lambda: forward(batch), loaded.model)
        assert again.inside == again.outputs_that_learn == 0 < again.outside


def test_a_learning_encoder_moves_its_statistics() -> None:
    loaded = built(CASES["efficientnet"][0])
    before = loaded.model.model.vision_tower.stem.norm.running_mean.clone()
    _learn(loaded, 1)
    assert not torch.equal(before, loaded.model.model.vision_tower.stem.norm.running_mean)


def test_seeds_decide_the_weights() -> None:
    one, same, other = (built(CASES["resblock"][0], seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft asks for it by its old name
def test_an_adapter_learns_through_checkpointed_layers() -> None:
    peft = pytest.importorskip("peft")
    loaded = built(CASES["resblock"][0])
    model = loaded.model
    freeze(model, ["vision_tower", "language_model"])
    before = model.state_dict()["model.multi_modal_projector.steps.3.weight"].clone()
    settings = peft.LoraConfig(
        r=4,
        target_modules=r"model\.language_model\..*(q_proj|v_proj)",
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(model, settings)
    wrapped.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": False})
    wrapped.train()
    batch = batch_of(loaded.ports)
    inputs = float_pictures(batch.inputs, loaded.ports.image)
    optimizer = torch.optim.AdamW([value for value in wrapped.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        logits = wrapped(**inputs, use_cache=False).logits
        loss = cross_entropy(logits[batch.targets != -100], batch.targets[batch.targets != -100])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    state = wrapped.state_dict()
    moved = [value for name, value in state.items() if "lora_B" in name]
    assert len(moved) == 4 and all(value.abs().max() > 0 for value in moved)
    wrapped.eval()
    with torch.no_grad():
        with_adapter = wrapped(**inputs).logits
        merged = wrapped.merge_and_unload()
        assert float((merged(**inputs).logits - with_adapter).abs().max()) <= 1e-5
    assert not torch.equal(merged.state_dict()["model.multi_modal_projector.steps.3.weight"], before)
