"""A recipe is accepted whole, or every fault is told at once with key, value and cure."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from finesight.config.load import dump, load_recipe, parse_recipe, recipe_text, schema, shipped_recipes
from finesight.config.recipe import Recipe
from finesight.config.train import SCORES, BestBy, MetricName
from finesight.config.yaml import read_document
from finesight.core.errors import RecipeError

SHIPPED = sorted(shipped_recipes())


def refused(*overrides: str, recipe: str = "quickstart") -> RecipeError:
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, overrides)
    return error.value


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_its_dump_reads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe
    assert json.loads(recipe.model_dump_json()) == recipe.model_dump(mode="json")


def test_dump_keeps_awkward_values(tmp_path: Path) -> None:
    recipe = load_recipe(
        "quickstart",
        [
            "run.name='1e-5'",
            "description='no: yes # \t'",
            'data.train.where={a: "12:30:45", b: ["0123", "null"]}',
            "train.lr=1e-05",
            "train.stop={patience: 0.25, threshold: 1e-9}",
            "train.micro_batch=8",
            "train.warmup=10",
            "data.val={split: {column: part, values: ['1']}}",
            "data.test=[{source: folder, path: x}, {source: csv, path: y}]",
        ],
    )
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe


def test_a_null_that_the_dump_leaves_out_is_the_default() -> None:
    def look(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if name in ("batch_size", "batch_tokens"):
                continue  # one of the two is there: the other is null without being said
            if type(None) in getattr(field.annotation, "__args__", ()):
                assert field.default is None, f"{model.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                look(field.annotation)

    look(Recipe)


def test_all_faults_are_told_at_once() -> None:
    error = refused(
        "train.epoch=3",
        "train.lr=abc",
        "data.train.source=cvs",
        "data.train.wheer={a: b}",
        "evaluation.metrics=[exact_mach]",
        "log.evry=1",
        "run.device=gpu",
        "train.stop={patience: 2}",
        "data.val=null",
    )
    where = [fault.where.split(" ")[0] for fault in error.faults]
    assert sorted(where) == sorted(
        [
            "run.device",
            "data.train.source",
            "data.train.wheer",
            "train.lr",
            "train.epoch",
            "evaluation.metrics.0",
            "log.evry",
        ]
    )
    assert "`train.stop` needs `data.val`" in str(
        refused("train.stop={patience: 2}", "data.val=null", "log.evry=1")
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.epoch=3"], ["`train.epoch` is no known key", "did you mean `epochs`", "max_steps"]),
        (["data.val.wheer=3"], ["did you mean `where`"]),
        (
            ["data.test=[{source: csv, path: x, colums: {}}]"],
            ["`data.test.0.colums`", "did you mean `columns`"],
        ),
        (["data.val={split: 0.1, gruop: x}"], ["did you mean `group`", "the keys here are split, group"]),
        (["data.train.source=cvs"], ["unknown source `cvs`", "did you mean `csv`", "csv, json"]),
        (
            ["data.train.source=null"],
            ["does not say what kind of source", "data.train.source", "csv, json"],
        ),
        (["data.train=3"], ["`data.train` is 3", "a source or a list of sources"]),
        (["data.train={split: 0.5}"], ["`data.train` is a mapping", "a source or a list of sources"]),
        (["data.train=[]"], ["the list of sources is empty"]),
        (["data.val={split: 1.5}"], ["`data.val.split` is 1.5", "below 1"]),
        (["data.val={split: x}"], ["it must be a share or a mapping"]),
        (["data.train.where={a: 2019}"], ["`data.train.where.a` is 2019", "text or a list", '"2019"']),
        (["train.stop={patience: 2.5}"], ["`train.stop.patience` is 2.5", "below 1"]),
        (["train.stop={patience: -1}"], ["at least 1"]),
        (["train.micro_batch=all"], ['the text "all"', "auto"]),
        (
            ["train.batch_size=32", "train.micro_batch=64"],
            ["`micro_batch: 64` is larger than `batch_size: 32`"],
        ),
        (["train.warmup=true"], ["is true", "a whole number or a number"]),
        (["train.batch_size=32.0"], ["is 32.0", "write 32"]),
        (["train.batch_size=1_000"], ["write 1000"]),
        (["train.batch_size='32'"], ['the text "32"', "write 32"]),
        (["train.batch_size=true"], ["is true", "a whole number"]),
        (["train.lr=.inf"], ["no finite number"]),
        (["train.lr=1e999"], ["no finite number"]),
        (["train.betas=[0.9]"], ["`train.betas.1` is missing"]),
        (["train.betas=[0.9, 0.9, 0.9]"], ["at most 2"]),
        (["train.schedule=cosin"], ["did you mean `cosine`", "constant, linear, cosine"]),
        (["train.max_steps=null"], ["exactly one of `epochs` and `max_steps`", "neither"]),
        (["train.epochs=3"], ["exactly one of `epochs` and `max_steps`", "both", "train.max_steps=null"]),
        (["model.scratch.vision.patch=7"], ["`patch: 7` does not divide `image_size: 40`"]),
        (["model.pretrained=x"], ["exactly one of scratch, fresh, pretrained, compose", "are there"]),
        (["model=null"], ["`model` is missing"]),
        (["log=[]"], ["`log` is a list", "a mapping of keys to values"]),
        (["log.samples=maybe"], ['the text "maybe"', "true or false"]),
        (["run.name=a b"], ['the text "a b"', "letters, digits"]),
        (["run.seed=99999999999999999999"], ["below 9223372036854775808"]),
        (["data.bad_row_limit=3"], ["`bad_row_limit` has a meaning only with"]),
        (["evaluation.best_by=exact_match_strict"], ["lacks exact_match_strict"]),
        (["evaluation.best_by=bleu_2"], ["lacks bleu"]),
        (["evaluation.best_by=cider", "evaluation.max_samples=0"], ["`max_samples: 0` answers no sample"]),
    ],
)
def test_a_fault_names_key_value_and_cure(words: list[str], told: list[str]) -> None:
    text = str(refused(*words))
    for piece in told:
        assert piece in text
    assert text.count("where:") == 1
    for internal in ("Input should", "pydantic", "http", "discriminator", "tuple", "dict", "instance"):
        assert internal not in text


def test_a_fault_in_a_file_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        recipe_text("quickstart").replace("schedule: cosine", "schedule: cosin"), encoding="utf-8"
    )
    line = 1 + recipe_text("quickstart").splitlines().index("  schedule: cosine")
    assert f"{file}, line {line}" in str(refused(recipe=str(file)))
    assert "the override `train.schedule=x`" in str(refused("train.schedule=x", recipe=str(file)))


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["train.epochs=3", "train.max_steps=null"], "train.epochs", 3),
        (["train.lr=1e-5"], "train.lr", 1e-5),
        (["train.lr=1"], "train.lr", 1.0),
        (["log.samples=yes"], "log.samples", True),
        (["log.samples=OFF"], "log.samples", False),
        (["run.name=no"], "run.name", "no"),
        (["train.stop.patience=3", "train.stop.threshold=1e-3"], "train.stop.patience", 3),
        (["data.test.tags=[a, b]"], "data.test.tags", ("a", "b")),
        (["data.test.tags.1=kind"], "data.test.tags", ("held_out", "kind")),
        (["data.test.tags.2=kind"], "data.test.tags", ("held_out", "artist", "kind")),
        (["data.test.tags.0=null"], "data.test.tags", ("artist",)),
        (["data.train=[{source: csv, path: a}]", "data.train.0.path=x"], "data.train.0.path", "x"),
        (
            ["data.train=[{source: csv, path: a}]", "data.train.1={source: folder, path: b}"],
            "data.train.1.path",
            "b",
        ),
        (["data.val=null"], "data.val", None),
        (["log.nothing=null", "none.at.all=null"], "log.every", 10),
        (["data.train.prompt=What is this: a flag? #1"], "data.train.prompt", "What is this: a flag? #1"),
    ],
)
def test_overrides(words: list[str], key: str, value: object) -> None:
    here: Any = load_recipe("quickstart", words)
    for step in key.split("."):
        here = here[int(step)] if step.isdigit() else getattr(here, step)
    assert here == value
    assert type(here) is type(value)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("train.lr", ["is no override", "section.key=value"]),
        ("=3", ["is no override"]),
        ("train..lr=3", ["is no override"]),
        ("train.lr.x=3", ["`train.lr` is 0.001, which has no keys below it"]),
        ("data.test.tags.7=x", ["`7` is no position", "which has 2 items", "from 0 to 2"]),
        ("data.test.tags.-1=x", ["`-1` is no position"]),
        ("data.test.tags.a.b=x", ["`a` is no position"]),
        ("train.betas=[1", ["cannot be read"]),
    ],
)
def test_overrides_that_cannot_be_applied(word: str, told: list[str]) -> None:
    error = refused(word, "run")
    assert len(error.faults) == 2  # with `run`, which is none either: all are told at once
    for piece in told:
        assert piece in str(error)


def test_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean `quickstart`" in str(refused(recipe="quikstart"))
    assert "shipped recipes: " in str(refused(recipe="none/of/these.yaml"))
    assert "is a folder" in str(refused(recipe="."))
    (tmp_path / "quickstart").mkdir()
    assert load_recipe("quickstart").run.name == "quickstart"
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "mine.yaml").write_text("run: {}", encoding="utf-8")
    assert "mine.yaml" in str(refused(recipe="mien.yaml"))
    (tmp_path / "quickstart").write_text("run: {}", encoding="utf-8")
    assert "`run.name` is missing" in str(refused(recipe="quickstart"))  # a file comes before a shipped name
    with pytest.raises(RecipeError, match="ships with finesight"):
        recipe_text("../recipes/quickstart")


def test_a_mapping_from_python_is_checked_the_same_way() -> None:
    mapping = read_document(recipe_text("quickstart").encode(), "q").value
    assert parse_recipe(mapping) == load_recipe("quickstart")
    assert parse_recipe({**mapping, "run": {"name": "x", "dir": Path("y")}}).directory == "y"
    for wrong in ({"run": object()}, {"run": float("nan")}, {"run": "\ud800"}, {1: 2}):
        with pytest.raises(RecipeError):
            parse_recipe(wrong)  # type: ignore[arg-type]
    mapping["run"]["loop"] = mapping
    with pytest.raises(RecipeError):
        parse_recipe(mapping)


def test_score_names_are_those_of_the_metrics() -> None:
    assert tuple(SCORES) == MetricName.__args__  # type: ignore[attr-defined]
    named = [score for scores in SCORES.values() for score in scores]
    assert ["last", "val_loss", *named] == list(BestBy.__args__)  # type: ignore[attr-defined]


def fits(value: Any, node: dict[str, Any], whole: dict[str, Any]) -> bool:
    """The part of JSON Schema that the recipe's schema uses."""
    if "$ref" in node:
        node = whole["$defs"][node["$ref"].rpartition("/")[2]]
    if branches := node.get("anyOf") or node.get("oneOf"):
        return any(fits(value, branch, whole) for branch in branches)
    if "const" in node or "enum" in node:
        return value in node.get("enum", [node.get("const")])
    match node.get("type"):
        case "object":
            known, other = node.get("properties", {}), node.get("additionalProperties", True)
            return (
                isinstance(value, dict)
                and set(node.get("required", [])) <= set(value)
                and all(
                    fits(item, known[key], whole)
                    if key in known
                    else other is True or (isinstance(other, dict) and fits(item, other, whole))
                    for key, item in value.items()
                )
            )
        case "array":
            items = node.get("items", {})
            return isinstance(value, list) and all(fits(item, items, whole) for item in value)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "null":
            return value is None
    return "type" not in node


@pytest.mark.parametrize("name", SHIPPED)
def test_the_schema_accepts_every_shipped_recipe_and_no_unknown_key(name: str) -> None:
    whole = json.loads(json.dumps(schema()))
    value = read_document(recipe_text(name).encode(), name).value
    assert fits(value, whole, whole)
    value["train"]["epoch"] = 3
    assert not fits(value, whole, whole)
    assert whole["$defs"]["Train"]["properties"]["lr"]["description"]


def test_reading_a_recipe_needs_no_torch() -> None:
    code = (
        "import sys; from finesight.config.load import load_recipe; load_recipe('quickstart')\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'PIL', 'typer', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def refusal_of(file: Path) -> str:
    """What a RecipeError says, or nothing where the file is a recipe; anything else is a failure."""
    try:
        load_recipe(file)
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.proof
def test_mutants_of_a_recipe_are_read_or_refused(tmp_path: Path, proof_factor: int) -> None:
    text = recipe_text("quickstart")
    pieces = [
        *"{}[]:,-#&*!|>'\"%@`?\t\n\x00~",
        ": ",
        "- ",
        "<<: ",
        "null",
        "yes",
        "1e-5",
        "\u2028",
        "\ud7ff",
        "9" * 30,
    ]
    draw = random.Random(7)
    read = 0
    for number in range(300 * proof_factor):
        mutant = text
        for _ in range(draw.randint(1, 4)):
            start = draw.randrange(len(mutant))
            mutant = mutant[:start] + draw.choice(pieces) + mutant[start + draw.choice([0, 0, 1, 5]) :]
        data = mutant.encode()
        if number % 5 == 0:
            start = draw.randrange(len(data))
            data = data[:start] + draw.randbytes(2) + data[start + 1 :]
        file = tmp_path / "mutant.yaml"
        file.write_bytes(data)
        told = refusal_of(file)
        read += not told
        assert "pydantic" not in told
        assert "Input should" not in told
    assert 0 < read < 300 * proof_factor
