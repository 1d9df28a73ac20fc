"""Damaged, hostile and unusual data through the command line (T15, T17, T19, T28, T31, T33)."""

import base64
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain, groupby, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import test_archives_fuzz as archives_fuzz
import test_rows_fuzz as rows_fuzz
from archives import tar_bytes
from test_chat_templates import ENDS, model_of
from test_encode import ANSWERS, _tiny
from test_pictures_hostile import BOMBS, LOADED
from tiny_runs import picture_bytes, tiny_mapping, write_pictures

from finesight.cli.main import run
from finesight.config.yaml import write
from finesight.core.ports import Ports
from finesight.workflows.tensors import read_table

SECONDS = 5


def recipe_of(folder: Path, source: dict[str, Any], **data: Any) -> Path:
    """A recipe over one source, for a tiny model."""
    mapping = tiny_mapping(folder, folder / "run")
    mapping["data"] = {"train": source, **data}
    recipe = folder / "recipe.yaml"
    recipe.write_text(write(mapping), encoding="utf-8")
    return recipe


def inspected(
    capsys: pytest.CaptureFixture[str], recipe: Path, *words: str
) -> tuple[int, dict[str, Any], str]:
    """Status, what `inspect --json` printed, and what it said."""
    capsys.readouterr()
    status = run(["inspect", str(recipe), "--jobs", "0", "--show", "0", "--json", *words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, json.loads(said.out) if said.out else {}, said.err


def jpeg_file(folder: Path) -> tuple[Path, Any]:
    return picture_file(folder, "JPEG")


def png_file(folder: Path) -> tuple[Path, Any]:
    return picture_file(folder, "PNG")


def picture_file(folder: Path, form: str) -> tuple[Path, Any]:
    """A picture that three rows of a table name, two of them beside whole ones."""
    from PIL import Image

    file = folder / f"picture.{form.lower()}"
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(file, form)
    (folder / "whole.png").write_bytes(picture_bytes("red", "blue"))
    (folder / "rows.csv").write_text(
        f"image,caption\nwhole.png,a\n{file.name},b\nwhole.png,c\n{file.name},d\n", encoding="utf-8"
    )
    return file, {"source": "csv", "path": str(folder / "rows.csv")}


MAKERS: list[Callable[[Path], tuple[Path, Any]]] = [
    *archives_fuzz.MAKERS,
    *(rows_fuzz.csv_file, rows_fuzz.tsv_file),
    *(rows_fuzz.json_file("rows.json"), rows_fuzz.json_file("rows.jsonl", kind="folder")),
    *(jpeg_file, png_file),
]  # fmt: skip


@pytest.mark.proof
@pytest.mark.parametrize("number", range(len(MAKERS)))
def test_damaged_files(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], proof_factor: int
) -> None:
    """T31: a fault is listed with its row, or the file is refused by its name; counts add up; nothing hangs."""
    file, source = MAKERS[number](tmp_path)
    if not isinstance(source, dict):
        source = source.model_dump(mode="json", exclude_unset=True)
    recipe = recipe_of(tmp_path, source, on_bad_row="skip")
    whole, draw = file.read_bytes(), random.Random(number)
    damaged = (rows_fuzz if file.suffix in (".csv", ".tsv", ".json", ".jsonl") else archives_fuzz).damaged
    for mutant in range(2 * proof_factor):
        file.write_bytes(damaged(whole, draw))
        began = time.process_time()
        status, result, said = inspected(capsys, recipe)
        assert time.process_time() - began < SECONDS, mutant
        assert status in (0, 2), said
        if result:
            assert result["rows"] == result["samples"] + result["faults"] == result["read"]["rows"]
        else:
            assert status == 2
            assert str(tmp_path) in said


@pytest.mark.proof
def test_damaged_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str], proof_factor: int) -> None:
    """T31: what is left of a recipe is read as it stands, or refused with its name."""
    file, source = rows_fuzz.csv_file(tmp_path)
    recipe = recipe_of(tmp_path, source.model_dump(mode="json", exclude_unset=True), on_bad_row="skip")
    whole, draw, refused = recipe.read_bytes(), random.Random(3), 0
    for _ in range(10 * proof_factor):
        recipe.write_bytes(rows_fuzz.damaged(whole, draw))
        status, _, said = inspected(capsys, recipe)
        assert status == 0 or ("error: " in said and "where: " in said), said
        refused += status == 2 and (str(recipe) in said or str(file) in said)
    assert refused


# T19


def test_pictures_move_with_their_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows permuted, two pictures of a row exchanged: what the model is fed moves with them, alone or in a batch."""
    colours = ("red", "green", "blue", "white", "black")
    for colour in colours:
        (tmp_path / f"{colour}.png").write_bytes(picture_bytes(colour, "yellow"))
    pairs = [("red", "green"), ("green", "red"), ("blue", "white"), ("white", "blue"), ("black", "red")]
    rows = [
        {
            "id": "-".join(pair),
            "image": [f"{colour}.png" for colour in pair],
            "conversations": [
                {"from": "human", "value": f"<image> {'and then ' * number}<image>?"},
                {"from": "gpt", "value": "yes"},
            ],
        }
        for number, pair in enumerate(pairs)
    ]

    def fed(rows: list[dict[str, Any]], *words: str) -> dict[str, tuple[Any, Any]]:
        """Tokens and pictures by sample, as they are saved for a batch of the rows."""
        (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
        columns = {"id": "id"}
        recipe = recipe_of(
            tmp_path, {"source": "llava", "path": str(tmp_path / "rows.json"), "columns": columns}
        )
        file = tmp_path / "fed.safetensors"
        asked = words or [word for number in range(1, len(rows) + 1) for word in ("--sample", str(number))]
        status, _, said = inspected(capsys, recipe, *asked, "--tensors", str(file))
        assert status == 0, said
        table = read_table(file)
        starts = np.cumsum([0, *table.pictures])
        return {
            name: (
                table.tensors["input_ids"][at][table.tensors["attention_mask"][at] == 1],
                table.tensors["pixel_values"][starts[at] : starts[at + 1]],
            )
            for at, name in enumerate(table.ids)
        }

    whole, turned, alone = fed(rows), fed(rows[::-1]), fed(rows, "--id", "blue-white")
    assert set(whole) == set(turned) == {row["id"] for row in rows}
    for name, (tokens, pictures) in whole.items():
        assert (turned[name][0] == tokens).all()
        assert (turned[name][1] == pictures).all()
    assert all(
        (one == other).all() for one, other in zip(alone["blue-white"], whole["blue-white"], strict=True)
    )
    for one, other in (("red-green", "green-red"), ("blue-white", "white-blue")):
        assert (whole[one][1] == whole[other][1][::-1]).all()
        assert (whole[one][1] != whole[other][1]).any()


# T28


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_frozen(number: signal.Signals, tmp_path: Path) -> None:
    """The run ends in time, says where, can be resumed, and leaves no process behind."""
    mapping = tiny_mapping(write_pictures(tmp_path / "table.csv"), tmp_path / "run")
    mapping["data"] |= {"workers": 2, "timeout": 3}
    mapping["train"]["max_steps"] = 100_000
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(write(mapping), encoding="utf-8")
    command = [sys.executable, "-c", "from finesight.cli.main import main; main()", "train", str(recipe)]
    run_of_its_own = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        losses, deadline = tmp_path / "run" / "losses_log.csv", time.monotonic() + 120
        while not losses.exists() or len(losses.read_text().splitlines()) < 8:
            assert run_of_its_own.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        children = psutil.Process(run_of_its_own.pid).children()
        assert len(children) == 2
        children[0].send_signal(number)
        _, told = run_of_its_own.communicate(timeout=60)
    finally:
        run_of_its_own.kill()
    assert run_of_its_own.returncode == 1, told  # not what a person could have written otherwise
    assert "Traceback" not in told
    how = "ended by signal 9 (SIGKILL)" if number == signal.SIGKILL else "silent for 3 seconds"
    assert f"error: a process that prepares samples was {how}" in told
    assert "where: step " in told and "--resume goes on from there" in told
    assert not any(child.is_running() for child in children)
    assert (tmp_path / "run" / "checkpoints" / "last").exists()


# T33


WATCHED = """
import contextlib, io, json, os, re, sys, time
from pathlib import Path
from finesight.cli.main import run

def kibibytes(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def look(recipe):
    out, err = io.StringIO(), io.StringIO()
    before, began = kibibytes("VmRSS"), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(["inspect", recipe, "--jobs", "0", "--show", "0", "--json"])
    seconds, peak = time.process_time() - began, kibibytes("VmHWM") - before
    return {"status": status, "said": err.getvalue(), "seconds": seconds, "bytes": 1024 * peak}

harmless, *recipes = sys.argv[1:]
look(harmless)  # what a process needs only once
for recipe in [harmless, *recipes]:
    reading, writing = os.pipe()
    if not os.fork():
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        os.write(writing, json.dumps(look(recipe)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        print(stream.read().decode(), flush=True)
    os.wait()
"""


def hostile(folder: Path) -> dict[str, dict[str, Any]]:
    """Sources by what is wrong with them."""
    folder.mkdir()
    made: dict[str, dict[str, Any]] = {}

    def table(name: str, data: bytes, kind: str, **more: Any) -> None:
        (folder / name).write_bytes(data)
        made[name] = {"source": kind, "path": str(folder / name), **more}

    for name, bomb in BOMBS.items():
        if name not in LOADED:
            (folder / f"{name}.bin").write_bytes(bomb())
            table(f"{name}.csv", f"image,caption\n{name}.bin,x\n".encode(), "csv")
    coded = base64.b64encode(BOMBS["one-bit PNG"]())
    table("base64.csv", b"b64string_images,caption\n" + coded + b",x\n", "csv")
    table("deep.json", b"[" * 100_000 + b"]" * 100_000, "json")
    table("deep row.jsonl", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "json")
    table("line.jsonl", b'{"question": "' + b"x" * (130 << 20) + b'"}\n', "json")
    table("quote.csv", b'image,caption\na,"' + b"x" * (130 << 20), "csv")
    return made


@pytest.mark.proof
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)
def test_bombs_cost_little(tmp_path: Path, proof_factor: int) -> None:
    """T33: each is refused, in at most two more seconds and 128 MiB more than a harmless table costs."""
    (tmp_path / "ok").mkdir()
    _, source = png_file(tmp_path / "ok")
    recipes = [recipe_of(tmp_path / "ok", source)]
    named = hostile(tmp_path / "bombs")
    if proof_factor == 1:  # the others cost what their neighbours do
        named = dict(islice(named.items(), 0, None, 5))
    for number, bomb in enumerate(named.values()):
        (tmp_path / str(number)).mkdir()
        recipes.append(recipe_of(tmp_path / str(number), bomb))
    aliases = "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
    )
    recipes.append(tmp_path / "aliases.yaml")
    recipes[-1].write_text(f"a: &a [x]\n{aliases}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, recipes)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(recipes), done.stderr
    plain = found[0]
    assert plain["status"] == 0, plain["said"]
    for name, one in zip([*named, "aliases.yaml"], found[1:], strict=True):
        assert one["status"] == 2, name
        assert "Traceback" not in one["said"]
        assert str(tmp_path) in one["said"], name
        assert one["seconds"] <= plain["seconds"] + 2, (name, one["seconds"])
        assert one["bytes"] <= plain["bytes"] + (128 << 20), (name, one["bytes"])


# T15


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["csv", "tar", "stream"])
def test_each_row_once_an_epoch(kind: str, tmp_path: Path, proof_factor: int) -> None:
    """Two epochs of `train` with two workers, as `samples.jsonl` records them."""
    count, batch = (207 if proof_factor == 1 else 10_007), 64
    if kind == "csv":
        rows = "".join(f"word {number},answer {number % 7}\n" for number in range(count))
        (tmp_path / "rows.csv").write_text(f"question,answer\n{rows}", encoding="utf-8")
        source: dict[str, Any] = {"source": "text", "path": str(tmp_path / "rows.csv")}
    else:
        told = [{"question": f"word {number}", "answer": f"answer {number % 7}"} for number in range(count)]
        for shard in range(3):
            members = [
                (f"{number:06d}.json", json.dumps(told[number]).encode()) for number in range(shard, count, 3)
            ]
            (tmp_path / f"part-{shard}.tar").write_bytes(tar_bytes(members))
        source = {"source": "text", "path": str(tmp_path / "part-{0..2}.tar"), "stream": kind == "stream"}
    steps = -(-count // batch)
    mapping = tiny_mapping(tmp_path, tmp_path / "run")
    mapping["data"] = {"train": source, "workers": 2}
    mapping["train"] |= {"max_steps": 2 * steps, "batch_size": batch, "micro_batch": batch}
    mapping["evaluation"] |= {"best_by": "last", "every": 2 * steps}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(write(mapping), encoding="utf-8")
    assert run(["train", str(recipe)]) == 0
    seen = [json.loads(line)["ids"] for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(seen) == 2 * steps
    epochs = [list(chain(*seen[:steps])), list(chain(*seen[steps:]))]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == count
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


# T17


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.mark.parametrize("name", ENDS)
def test_what_is_learned_under_any_template(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answers and their ends, character for character, as `inspect` shows them."""
    ports, processor = model_of(name)
    assert ports.image is not None
    processor.save_pretrained(tmp_path / "model")
    _, config = _tiny()
    config.image_token_index = ports.image.placeholder_id
    config.save_pretrained(tmp_path / "model")
    (tmp_path / "a.png").write_bytes(picture_bytes("red", "blue"))
    rows = [
        {"image": "a.png", "messages": [turn("user", "what?"), turn("assistant", answer), *more]}
        for answer in ANSWERS
        for more in ([], [turn("user", "and then?"), turn("assistant", "nothing")])
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    mapping = tiny_mapping(tmp_path, tmp_path / "run")
    mapping["model"] = {"pretrained": str(tmp_path / "model")}
    mapping["data"] = {"train": {"source": "messages", "path": str(tmp_path / "rows.json")}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(write(mapping), encoding="utf-8")
    status, result, said = inspected(capsys, recipe, "--show", str(len(rows)))
    assert status == 0, said
    assert len(result["shown"]) == len(rows)
    for shown in result["shown"]:
        messages = rows[shown["origin"]["row"] - 1]["messages"]
        answers = [one["content"] for one in messages if one["role"] == "assistant"]
        assert learned(shown["pieces"], ports) == [answer + ENDS[name] for answer in answers]


def learned(pieces: list[dict[str, Any]], ports: Ports) -> list[str]:
    """The text of each run of tokens that are learned from."""
    runs = groupby(pieces, lambda piece: piece["learned"])
    ids = [[piece["id"] for piece in run for _ in range(piece["count"])] for learns, run in runs if learns]
    return [ports.tokenizer.decode(run, clean_up_tokenization_spaces=False).lstrip(" ") for run in ids]
