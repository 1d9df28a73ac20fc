"""The recipes of the five jobs, from end to end in a few steps, and recipes of several stages."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_mapping

import finesight as fs
from finesight.config.load import dump, load_recipe, parse_recipe, stage_recipes
from finesight.config.model import Fresh
from finesight.core.errors import FinesightError, RecipeError, RunError
from finesight.models.fresh import fresh_config, fresh_model, fresh_processor
from finesight.models.load import load_model
from finesight.models.scratch import learn_tokenizer

LANGUAGE = {
    "config": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 96,
    },
    "vocabulary": 300,
}  # fmt: skip
VISION = {
    "config": {
        "model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, "hidden_size": 32,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    }
}  # fmt: skip

FEW = {"data.train.max_samples": 24, "data.test.max_samples": 4, "data.workers": 0, "run.threads": 1}
QUICK = {"train.max_steps": 3, "train.batch_size": 8, "evaluation.every": 3, "evaluation.max_samples": 4}


def values_of(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("name", ["pairs-t5", "caption-blip", "scratch-vlm"])
def test_a_job_from_end_to_end(name: str, tmp_path: Path) -> None:
    few = {key: value for key, value in FEW.items() if name != "scratch-vlm" or "test" not in key}
    sizes = {"pairs-t5": {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1}}.get(name, {})
    small = {f"model.fresh.config.{key}": value for key, value in sizes.items()}
    run = tmp_path / "run"
    summary = fs.train(name, **{**few, **QUICK, **small, "run.dir": str(run), "log.every": 1})
    assert summary["status"] == "finished" and len(values_of(run)) == 3
    again = fs.generate(str(run), [], "red bird") if name == "pairs-t5" else None
    assert again is None or len(again) == 1


@pytest.mark.parametrize(("name", "asked"), [("pairs-t5", "abels"), ("caption-blip", None)])
def test_plain_transformers_answers_the_same(name: str, asked: str | None, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

    run = tmp_path / "run"
    fs.train(name, **{**FEW, **QUICK, "run.dir": str(run)})
    folder = run / "model"
    if asked is not None:
        (ours,) = fs.generate(str(run), [], asked)
        tokenizer, model = (
            AutoTokenizer.from_pretrained(folder),
            AutoModelForSeq2SeqLM.from_pretrained(folder),
        )
        produced = model.generate(**tokenizer(asked, return_tensors="pt"))
        assert ours["answer"] == tokenizer.decode(produced[0], skip_special_tokens=True).strip()
        return
    picture = tmp_path / "a.png"
    from tiny_runs import picture_bytes

    picture.write_bytes(picture_bytes("red", "blue"))
    (ours,) = fs.generate(str(run), picture, "a picture of")
    from PIL import Image

    processor, model = (
        AutoProcessor.from_pretrained(folder),
        AutoModelForImageTextToText.from_pretrained(folder),
    )
    turn = {"role": "user", "content": [{"type": "text", "text": "a picture of"}]}
    text = processor.tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    tokens = processor.tokenizer(
        text + processor.tokenizer.sep_token, add_special_tokens=False, return_tensors="pt"
    )
    pixels = processor.image_processor(Image.open(picture), return_tensors="pt")["pixel_values"]
    produced = model.generate(pixel_values=pixels, input_ids=tokens["input_ids"], max_new_tokens=20)
    words = processor.tokenizer.decode(produced[0], skip_special_tokens=True)
    assert words.strip().removeprefix("a picture of").strip() == ours["answer"]


def test_questions_are_learned_by_lora(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = {**FEW, **QUICK, "model.pretrained": str(finished_run), "run.dir": str(run)}
    fs.train("vqa-lora", **{**keys, "data.transforms": {}, "evaluation.every": None})
    assert (run / "adapter" / "adapter_config.json").is_file() and not (run / "model").exists()


def staged(folder: Path, **more: Any) -> dict[str, Any]:
    tiny: dict[str, Any] = {
        "model.compose.language.pretrained": None,
        "model.compose.vision.pretrained": None,
    }
    tiny |= {"model.compose.language": LANGUAGE, "model.compose.vision": VISION, "run.dir": str(folder)}
    tiny["model.compose.vision.image_size"] = None
    steps = {"train.max_steps": 2, "train.batch_size": 4, "train.precision": "fp32", "log.every": 1}
    return {**FEW, **tiny, **steps, "generation.max_new_tokens": 2, "data.train.max_samples": 12, **more}


@pytest.fixture(scope="module")
def staged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("staged") / "run"
    fs.train("compose-llava", **staged(run))
    return run


def test_two_stages_make_one_run(staged_run: Path, tmp_path: Path) -> None:
    run = staged_run
    first, second = run / "stages" / "1-projector", run
    assert (first / "model" / "config.json").is_file() and (second / "adapter").is_dir()
    assert load_recipe(str(second / "recipe.yaml")).model.pretrained == str(first)
    before, after = load_model(str(first / "model")).model, fs.load_model(str(run)).model
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    (answer,) = fs.generate(str(run), _picture(tmp_path), "What is this?")
    assert isinstance(answer["answer"], str)
    losses, times = values_of(run), os.stat(first / "results.json").st_mtime_ns
    assert fs.train("compose-llava", resume=True, **staged(run))["status"] == "finished"
    assert values_of(run) == losses and os.stat(first / "results.json").st_mtime_ns == times


def _picture(folder: Path) -> Path:
    from tiny_runs import picture_bytes

    (folder / "p.png").write_bytes(picture_bytes("red", "green"))
    return folder / "p.png"


def test_a_second_stage_that_was_broken_off_goes_on(staged_run: Path, tmp_path: Path) -> None:
    whole, broken = staged_run, tmp_path / "broken"

    class Stop(Exception):
        pass

    class Breaks:
        steps = 0

        def on_step(self, report: Any) -> None:
            self.steps += 1
            if self.steps == 3:  # the first of the second stage
                raise Stop

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    with pytest.raises(Stop):
        fs.train("compose-llava", observer=Breaks(), **staged(broken))
    with pytest.raises(RunError, match="exists"):
        fs.train("compose-llava", **staged(broken))
    fs.train("compose-llava", resume=True, **staged(broken))
    assert values_of(broken) == values_of(whole)
    one, other = (dict(fs.load_model(str(run)).model.named_parameters()) for run in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_faults_of_stages_are_told_before_anything_runs(tiny_data: Path, tmp_path: Path) -> None:
    mapping = tiny_mapping(tiny_data, tmp_path)
    mapping["stages"] = [
        {"name": "one", "set": {"train": {"lr": -1.0}}},
        {"name": "two", "set": {"data": {"nothing": 1}, "model": {"freeze": ["eye"]}}},
    ]
    with pytest.raises(RecipeError) as caught:
        stage_recipes(parse_recipe(mapping))
    places = [fault.where for fault in caught.value.faults]
    assert len(places) == 3
    assert [("one" in place, "two" in place) for place in places] == [
        (True, False),
        (False, True),
        (False, True),
    ]


def test_what_a_stage_replaces(tiny_data: Path, tmp_path: Path) -> None:
    mapping = tiny_mapping(tiny_data, tmp_path, model={"freeze": ["vision_tower"]})
    mapping["stages"] = [
        {"name": "one"},
        {"name": "two", "set": {"train": {"max_steps": None, "epochs": 3}, "run": {"seed": 9}}},
    ]
    recipe = parse_recipe(mapping)
    one, two = stage_recipes(recipe)
    assert one.model == recipe.model and one.directory == f"{recipe.directory}/stages/1-one"
    assert (two.model.pretrained, two.model.freeze) == (one.directory, ())
    assert (two.train.epochs, two.train.max_steps, two.run.seed) == (3, None, 9)
    assert two.directory == recipe.directory and not two.stages
    for stage in (one, two):
        assert load_recipe_text(dump(stage), tmp_path) == stage


def load_recipe_text(text: str, folder: Path) -> Any:
    (folder / "r.yaml").write_text(text)
    return load_recipe(str(folder / "r.yaml"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llava"}, "is not made here"),
        ({"model_type": "t5", "d_modle": 3}, "has no `d_modle`"),
        ({"model_type": "nothing"}, "knows no `model_type: nothing`"),
    ],
)
def test_new_models_that_cannot_be_made(config: dict[str, Any], said: str) -> None:
    with pytest.raises(FinesightError, match=said):
        fresh_processor(Fresh(config=config), learn_tokenizer(["a word"], 264))


def test_sizes_that_do_not_go_together_are_an_error_of_the_recipe() -> None:
    sizes = {"hidden_size": 30, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 8}
    fresh = Fresh(config={"model_type": "blip", "vision_config": sizes, "text_config": {"hidden_size": 32}})
    processor = fresh_processor(fresh, learn_tokenizer(["a word"], 264))
    with pytest.raises(FinesightError, match="no blip can be made of these sizes") as caught:
        fresh_model(fresh_config(fresh, processor), 7)
    assert caught.value.faults[0].where == "model.fresh.config"


def test_the_data_of_a_stage_are_inspected(tiny_data: Path, tmp_path: Path) -> None:
    mapping = tiny_mapping(tiny_data, tmp_path / "run")
    few = {**mapping["data"]["train"], "max_samples": 3}
    mapping["stages"] = [
        {"name": "one", "set": {}},
        {"name": "two", "set": {"adapter": {"rank": 2}, "data": {"train": few}}},
    ]
    whole, own = (fs.inspect(mapping, stage=stage)["splits"]["train"]["samples"] for stage in (None, "two"))
    assert own < 4 <= whole
    with pytest.raises(RecipeError, match="no stage is called `three`") as caught:
        fs.inspect(mapping, stage="three")
    assert caught.value.faults[0].mend == "its stages are one, two"
