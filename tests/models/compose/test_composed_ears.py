"""Composed models that hear: sounds in their places, as many tokens as they are long, together as alone."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_parts import built, composed
from tones import EAR, HEIGHTS, as_wav, tone
from torch.nn.functional import cross_entropy, pad
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from finesight.config.compose import Compose
from finesight.core.batch import Example
from finesight.core.errors import DataError, FinesightError, ModelError
from finesight.core.sample import Audio, Message, Origin, Sample, Text
from finesight.core.sample import Image as Picture
from finesight.data.dataset import asked, example_of
from finesight.data.encode import encode
from finesight.data.inspection.views import pieces
from finesight.data.loading.collate import collate, collate_prompts
from finesight.models.compose.build import open_parts
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.models.load import LoadedModel, load_model
from finesight.models.parts import count, freeze, parts_by_name

FACTOR = 4
SECONDS = (0.5, 0.9, 0.033, 1.0)


def hearing(**audio: Any) -> Compose:
    """A composition with ears."""
    ears = {"config": EAR, "projector": {"factor": FACTOR}, **audio}
    return composed("clip", "mlp", "llama", audio=ears, image_start="<see>")


def sound(number: int) -> Audio:
    hertz = list(HEIGHTS.values())[number % 3]
    return Audio(as_wav(tone(hertz, SECONDS[number % 4], number)))


def sample(number: int, *parts: Any, answer: str = "red, green") -> Sample:
    turns = (Message("user", (*parts, Text("Which colours?"))), Message("assistant", (Text(answer),)))
    return Sample(f"s{number}", turns, (answer,), Origin("rows.jsonl", number + 1))


def picture(level: int) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (level, 90, 255 - level)).save(buffer, "PNG")
    return Picture(buffer.getvalue())


SAMPLES = (
    sample(0, sound(0)),
    sample(1, picture(30), sound(1), answer="blue"),
    sample(2, answer="a yellow flag"),
    sample(3, sound(2), picture(200), sound(3), answer="white"),
    sample(4, picture(90)),
)
"""A sound; a picture and a sound; words; a picture between two sounds; a picture."""


def tiny_whisper() -> WhisperForConditionalGeneration:
    values = {
        **EAR,
        "vocab_size": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 8,
    }
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    values.pop("model_type")
    return WhisperForConditionalGeneration(WhisperConfig(**values, **ids))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    made = built(hearing())
    freeze(made.model, [])
    with torch.no_grad():  # so that what is said depends on what is heard
        for value in made.model.model.audio_projector.parameters():
            value.mul_(5)
    return made


@pytest.fixture(scope="module")
def examples(loaded: LoadedModel) -> list[Example]:
    return [example_of(one, encode(one, loaded.ports), loaded.ports) for one in SAMPLES]


def logits(loaded: LoadedModel, inputs: Any) -> torch.Tensor:
    ready = float_pictures(inputs, loaded.ports.image)
    places = (ready["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found: torch.Tensor = loaded.model(**ready, position_ids=places).logits
    return found


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.0101, 0.25, 0.99, 1.0])
def test_a_sound_is_as_many_tokens_as_it_is_long(loaded: LoadedModel, seconds: float) -> None:
    samples = round(seconds * 16_000)
    one = sample(0, Audio(as_wav(np.zeros(samples, dtype=np.float32))))
    text = encode(one, loaded.ports)
    frames = math.ceil(samples / 160)
    tokens = math.ceil(math.ceil(frames / 2) / FACTOR)
    assert loaded.ports.sound is not None
    assert (text.tokens == loaded.ports.sound.placeholder_id).sum() == tokens
    features = example_of(one, text, loaded.ports).extras
    assert features["input_features_mask"].array.sum() == frames
    heard = loaded.model.get_submodule("model").get_audio_features(
        *(torch.from_numpy(features[name].array) for name in ("input_features", "input_features_mask"))
    )
    assert [len(found) for found in heard.pooler_output] == [tokens]


def test_their_tokens_are_what_whisper_hears(loaded: LoadedModel, examples: list[Example]) -> None:
    extras = examples[3].extras
    features = torch.from_numpy(extras["input_features"].array)
    model = loaded.model.model
    encoder = tiny_whisper().model.get_encoder().eval()
    encoder.load_state_dict(model.audio_tower.state_dict())
    with torch.no_grad():
        states = encoder(features).last_hidden_state
        side_by_side = pad(states, (0, 0, 0, 2)).reshape(2, 13, FACTOR * 32)
        steps = model.audio_projector.steps
        wanted = steps[2](torch.nn.functional.gelu(steps[0](side_by_side)))
        mask = torch.from_numpy(extras["input_features_mask"].array)
        found = model.get_audio_features(features, mask).pooler_output
    lengths = [math.ceil(math.ceil(SECONDS[number] * 50) / FACTOR) for number in (2, 3)]
    assert [len(one) for one in found] == lengths
    for one, whole, length in zip(found, wanted, lengths, strict=True):
        assert float((one - whole[:length]).abs().max()) <= 1e-6


@pytest.mark.parametrize("layer", [-1, -2])
def test_the_chosen_state_is_read(layer: int) -> None:
    made = built(hearing(layer=layer, projector={"kind": "linear", "factor": 1}))
    features = torch.randn(1, 16, 100)
    tower = made.model.model.audio_tower
    with torch.no_grad():
        states = tower(features, output_hidden_states=True).hidden_states
        found = made.model.model.get_audio_features(features).pooler_output[0]
        (matrix,) = made.model.model.audio_projector.steps
    assert torch.equal(found, matrix(states[layer][0]))
    unused = freeze(made.model, [])
    behind = {"layers.0.", "layer_norm."} if layer == -2 else set()
    heard = {name.removeprefix("model.audio_tower.") for name in unused if "audio" in name}
    assert {name for name in heard if not name.startswith(tuple(behind))} == set()
    assert bool(heard) == (layer == -2)


@pytest.mark.parametrize("left", [False, True])
def test_together_they_are_as_alone(loaded: LoadedModel, examples: list[Example], left: bool) -> None:
    if left:
        asks = [asked(one, loaded.ports) for one in SAMPLES]
        together = collate_prompts(*zip(*asks, strict=True), loaded.ports.pad_id)
        alone = [collate_prompts([tokens], [extras], loaded.ports.pad_id) for tokens, extras in asks]
    else:
        together = dict(collate(examples, loaded.ports.pad_id).inputs)
        alone = [dict(collate([one], loaded.ports.pad_id).inputs) for one in examples]
    whole = logits(loaded, together)
    for row, one in enumerate(alone):
        kept = whole[row, together["attention_mask"][row] == 1]
        assert float((kept - logits(loaded, one)[0]).abs().max()) <= 1e-5


def test_the_loss_is_the_models_own(loaded: LoadedModel, examples: list[Example]) -> None:
    batch = collate(examples, loaded.ports.pad_id)
    inputs = float_pictures(batch.inputs, loaded.ports.image)
    labels = torch.full_like(batch.targets, -100)
    labels[:, 1:] = batch.targets[:, :-1]
    with torch.no_grad():
        theirs = loaded.model(**inputs, labels=labels).loss
        rows = SupervisedForward(loaded.model, loaded.ports.image)(batch)
    ours = cross_entropy(rows, batch.targets[batch.targets != -100])
    assert float(abs(ours - theirs)) <= 1e-5


def test_what_is_heard_counts_in_its_place(loaded: LoadedModel) -> None:
    def last(*parts: Any) -> torch.Tensor:
        tokens, extras = asked(sample(0, *parts), loaded.ports)
        return logits(loaded, collate_prompts([tokens], [extras], loaded.ports.pad_id))[0, -1]

    one, two = Audio(as_wav(tone(300, 0.5))), Audio(as_wav(tone(4000, 0.5)))
    assert torch.equal(last(one, two), last(one, two))
    assert float((last(one, two) - last(two, one)).abs().max()) > 1e-4
    assert float((last(one) - last(two)).abs().max()) > 1e-4


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_together_are_as_alone(loaded: LoadedModel, beams: int) -> None:
    """With beams each row is there several times, and its sounds with it."""
    asks = [asked(one, loaded.ports) for one in (SAMPLES[3], SAMPLES[2], SAMPLES[1])]

    def answered(some: list[Any]) -> torch.Tensor:
        inputs = float_pictures(
            collate_prompts(*zip(*some, strict=True), loaded.ports.pad_id), loaded.ports.image
        )
        settings = {"num_beams": beams, "do_sample": False, "output_scores": True}
        found = loaded.model.generate(
            **inputs, **settings, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True
        )
        scores = found.sequences_scores if beams > 1 else torch.stack(found.scores).logsumexp(-1).sum(0)
        return torch.cat([found.sequences[:, -4:].float(), scores[:, None]], dim=1)

    assert torch.allclose(answered(asks), torch.cat([answered([one]) for one in asks]), atol=1e-4)


def test_each_row_keeps_its_sounds_where_rows_are_repeated(loaded: LoadedModel) -> None:
    asks = [asked(one, loaded.ports) for one in (SAMPLES[3], SAMPLES[2], SAMPLES[1])]
    inputs = collate_prompts(*zip(*asks, strict=True), loaded.ports.pad_id)
    first, second, third = inputs["input_features"]
    _, made = loaded.model._expand_inputs_for_generation(expand_size=2, **inputs)
    assert torch.equal(made["input_features"], torch.stack([first, second, first, second, third, third]))
    lengths = made["input_features_mask"].sum(-1).tolist()
    assert lengths == [4, 100, 4, 100, 90, 90]


def test_inspection_names_them(loaded: LoadedModel) -> None:
    found = pieces(encode(SAMPLES[3], loaded.ports), loaded.ports)
    told = [(piece.kind, piece.count) for piece in found if piece.kind in ("picture", "sound")]
    assert told == [("sound", 1), ("picture", 16), ("sound", 13)]


@pytest.fixture(scope="module")
def outside(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process without finesight made of the saved folder."""
    place, hidden = tmp_path_factory.mktemp("ears"), tmp_path_factory.mktemp("hidden")
    loaded.model.save_pretrained(place / "model")
    loaded.processor.save_pretrained(place / "model")
    levels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    np.savez(place / "sounds.npz", a=tone(300, 0.4), b=tone(1200, 0.8), picture=levels)
    (hidden / "finesight").mkdir()
    (hidden / "finesight" / "__init__.py").write_text("raise ImportError('not here')\n")
    environment = {**os.environ, "PYTHONPATH": str(hidden), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))}
    program = [sys.executable, "-P", str(Path(__file__).with_name("remote_ears.py")), str(place)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    texts = json.loads((place / "texts.json").read_text())
    return {"place": place, **texts, **load_file(place / "outputs.safetensors")}


def test_others_load_and_compute_the_same(loaded: LoadedModel, outside: dict[str, Any]) -> None:
    assert (outside["model"], outside["processor"]) == (
        "FinesightLlavaForConditionalGeneration",
        "FinesightProcessor",
    )
    assert "at most 1 are heard" in outside["said"]
    names = ("input_ids", "attention_mask", "pixel_values", "input_features", "input_features_mask")
    inputs = {name: outside[name] for name in names}
    with torch.no_grad():
        ours = loaded.model(**inputs).logits
        greedy = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        beams = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=3)
    assert float((ours - outside["logits"]).abs().max()) <= 1e-6
    assert torch.equal(greedy, outside["greedy"]) and torch.equal(beams, outside["beams"])


def test_others_prepare_the_same(loaded: LoadedModel, outside: dict[str, Any]) -> None:
    with np.load(outside["place"] / "sounds.npz") as held:
        sounds = [held["a"], held["b"]]
        buffer = io.BytesIO()
        Image.fromarray(held["picture"]).save(buffer, "PNG")
    heard = [Audio(as_wav(one)) for one in sounds]
    turn = Message("user", (Picture(buffer.getvalue()), *heard, Text("How high?")))
    tokens, extras = asked(Sample("a", (turn,), (), Origin("a", 1)), loaded.ports)
    assert tokens.tolist() == outside["input_ids"][0].tolist()
    assert np.array_equal(extras["input_features_mask"].array, outside["input_features_mask"].numpy())
    # a WAV has 16 bits, and quiet features are logarithms of little more than nothing
    assert np.abs(extras["input_features"].array - outside["input_features"].numpy()).mean() <= 1e-3


def test_saved_again_it_is_the_same(outside: dict[str, Any]) -> None:
    first, again = outside["place"] / "model", outside["place"] / "again"
    assert {path.name for path in first.iterdir()} == {path.name for path in again.iterdir()}
    for name in (
        "modeling_finesight.py",
        "processing_finesight.py",
        "processor_config.json",
        "chat_template.jinja",
    ):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    ours, theirs = load_file(first / "model.safetensors"), load_file(again / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_finesight_loads_it_without_running_the_folders_code(
    loaded: LoadedModel, outside: dict[str, Any], tmp_path: Path
) -> None:
    for path in (outside["place"] / "model").iterdir():
        data = b"raise SystemExit('ran')" if path.suffix == ".py" else path.read_bytes()
        (tmp_path / path.name).write_bytes(data)
    found = load_model(str(tmp_path))
    state = loaded.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.model.state_dict().items())
    assert found.ports.fingerprint == loaded.ports.fingerprint


def test_parts_are_frozen_counted_and_adapted(loaded: LoadedModel) -> None:
    peft = pytest.importorskip("peft")
    from finesight.adapters.attach import attach
    from finesight.config.adapter import Adapter

    assert peft
    made = built(hearing())
    freeze(made.model, ["vision_tower", "audio_tower", "language_model"])
    counts = count(made.model)
    assert counts["audio_tower"].trainable == 0 < counts["audio_tower"].total
    assert counts["audio_projector"].trainable == counts["audio_projector"].total == (128 + 1 + 32 + 1) * 32
    made.model.train()
    assert not made.model.model.audio_tower.training and made.model.model.audio_projector.training
    targets = {"audio_tower": "attention", "language_model": "attention"}
    settings = Adapter(rank=2, targets=targets, save=("audio_projector",))
    attached = attach(made.model, settings, [], parts_by_name(made.model), 1)
    counts = count(attached.model)
    assert counts["audio_tower"].trainable == 4 * 2 * 2 * 32
    assert (
        counts["audio_projector"].trainable == (128 + 1 + 32 + 1) * 32 and counts["projector"].trainable == 0
    )


def test_ears_change_no_other_part() -> None:
    wide = {"kind": "mlp", "width": 40}
    deaf = built(composed("clip", wide, "llama"))
    state = built(composed("clip", wide, "llama", audio={"config": EAR})).model.state_dict()
    for name, value in deaf.model.state_dict().items():
        if "vision_tower" in name:  # the language model has another token, and so other random values
            assert torch.equal(value, state[name]), name
    assert deaf.ports.sound is None and "audio" not in deaf.processor.chat_template


def test_ears_of_a_whisper_and_of_a_composed_model(
    loaded: LoadedModel, outside: dict[str, Any], tmp_path: Path
) -> None:
    whisper = tiny_whisper()
    whisper.save_pretrained(tmp_path)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(tmp_path)
    own = {"weight": torch.randn(32, 64), "bias": torch.randn(32)}
    file = tmp_path / "projector.safetensors"
    save_file({f"audio_projector.steps.0.{name}": value for name, value in own.items()}, file)
    projector = {"kind": "linear", "factor": 2, "pretrained": str(file)}
    for place, encoder in (
        (tmp_path, whisper.model.encoder),
        (outside["place"] / "model", loaded.model.model.audio_tower),
    ):
        made = built(hearing(config=None, pretrained=str(place), projector=projector))
        theirs = encoder.state_dict()
        ours = made.model.model.audio_tower.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert torch.equal(made.model.model.audio_projector.steps[0].weight, own["weight"])
        assert made.ports.sound is not None and made.ports.sound.seconds == 1


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (
            {"config": {"model_type": "wav2vec2"}},
            ["wav2vec2 has no encoder of sounds", "name a Whisper model"],
        ),
        ({"layer": -3}, ["2 hidden states", "from -1 to -2"]),
        ({"config": {**EAR, "max_source_positions": 60}}, ["no whole seconds", "a multiple of 50"]),
        ({"config": {**EAR, "encoder_attention_heads": 5}}, ["sizes do not go together"]),
        ({"config": None, "pretrained": "nowhere/at/all"}, ["no model can be read there", "compose.audio"]),
        ({"config": {**EAR, "hear": 1}}, ["a whisper has no `hear`"]),
    ],
)
def test_ears_that_cannot_be(audio: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FinesightError) as caught:
        open_parts(hearing(**audio))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ({"pretrained": "x"}, "both is there"),
        ({"config": {"d_model": 3}}, "does not say what it is"),
        ({"projector": {"kind": "linear", "width": 8}}, "linear has no `width`"),
        ({"projector": {"kind": "resblock"}}, "mlp"),
        ({"projector": {"factor": 0}}, "factor"),
        ({"layer": 1}, "layer"),
    ],
)
def test_faults_of_the_section(audio: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hearing(**audio)


def test_wrong_sounds_are_told(loaded: LoadedModel) -> None:
    long = Audio(as_wav(tone(300, 1.2)))
    with pytest.raises(DataError) as caught:
        encode(sample(6, sound(0), long), loaded.ports)
    told = str(caught.value)
    assert all(
        words in told
        for words in ("longer than 1 seconds", "rows.jsonl, row 7, sound 2", "cut it into pieces")
    )
    assert "max_seconds" not in told
    with pytest.raises(DataError, match="no sound that can be read"):
        encode(sample(0, Audio(b"no sound")), loaded.ports)
    with pytest.raises(DataError, match="contains `<audio>`"):
        encode(sample(0, sound(0), answer="an <audio> it is"), loaded.ports)
    deaf = built(composed("clip", "mlp", "llama"))
    with pytest.raises(DataError, match="takes no sounds") as caught:
        encode(sample(0, sound(0)), deaf.ports)
    assert "model.compose.audio" in str(caught.value) and "data.speech.model" in str(caught.value)


def test_a_wrong_projector_file_is_told(tmp_path: Path) -> None:
    save_file({"steps.0.weight": torch.zeros(3, 3)}, tmp_path / "p.safetensors")
    with pytest.raises(ModelError, match=r"model\.compose\.audio\.projector\.pretrained"):
        built(hearing(projector={"kind": "linear", "pretrained": str(tmp_path / "p.safetensors")}))


def test_placeholders_and_tokens_must_be_as_many(loaded: LoadedModel, examples: list[Example]) -> None:
    inputs = dict(collate([examples[0]], loaded.ports.pad_id).inputs)
    inputs["input_features_mask"] = torch.ones_like(inputs["input_features_mask"])
    with pytest.raises(ValueError, match="placeholders stand for 13 tokens"):
        logits(loaded, inputs)
