"""The command line: helps that teach and cost little, exit status, one clear message, JSON alone."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from finesight import __version__
from finesight.cli.main import COMMANDS, run
from finesight.config.load import recipe_text
from finesight.config.loading import Load
from finesight.core.errors import Fault, Interrupted, RecipeError

START = "from finesight.cli.main import main; main()"
SCORE = {
    "split": "test",
    "slice": "all",
    "name": "exact_match",
    "value": 0.5,
    "low": 0.4,
    "high": 0.6,
    "count": 40,
}
BASELINE = {
    **SCORE,
    "baseline": "majority",
    "value": 0.1,
    "difference": 0.4,
    "low": 0.3,
    "high": 0.5,
    "groups": 8,
}
DONE = {
    "run": "runs/q",
    "status": "finished",
    "scores": [SCORE, {**SCORE, "slice": "artist=x", "name": "hidden"}],
    "baselines": [BASELINE],
    "report": "runs/q/report.html",
    "next": "finesight generate runs/q",
}


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a stand-in for a workflow where the command imports it from, and returns the list of its calls."""

    def put(module: str, function: str, answer: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def stand_in(*positional: Any, **named: Any) -> Any:
            calls.append((positional, named))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        name = f"finesight.workflows.{module}"
        fake = sys.modules.get(name) if isinstance(sys.modules.get(name), _Fake) else _Fake(name)
        setattr(fake, function, stand_in)
        monkeypatch.setitem(sys.modules, name, fake)
        return calls

    return put


class _Fake(ModuleType):
    pass


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, name)
    assert COMMANDS[name] in text
    assert len(re.findall(rf"^ +finesight (?:{name}|train) ", text + "\n", re.M)) >= 2 or name == "doctor"
    assert "Examples" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_list_of_commands_says_what_their_own_helps_say(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    for name, line in COMMANDS.items():
        assert f"  {name:<8}  {line}" in text
        command = typer.main.get_command(import_module(f"finesight.cli.{name}").app)
        assert (command.help or "").splitlines()[0] == line


def test_help_is_light() -> None:
    heavy = {"torch", "transformers", "numpy", "pydantic", "yaml", "rich", "PIL", "matplotlib"}
    code = (
        f"import sys\ntry:\n {START}\nfinally:\n print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for name in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, check=True
        )
        assert "torch" not in done.stderr
        assert "transformers" not in done.stderr


def test_version_and_help_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"finesight {__version__}\n"
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train"], "Usage: finesight train"),
        (["train", "quickstart", "--resum"], "--resume"),
        (["train", "quikstart"], "did you mean `quickstart`"),
        (["train", "quickstart", "train.epoch=3", "log.evry=1"], "2 things are wrong"),
        (["train", "quickstart", "resume"], "`resume` is no override"),
        (["evaluate", "--metrics", ",", "x"], "no metric is named"),
        (["evaluate", "--split", "val"], "there is nothing to evaluate"),
        (["evaluate", "x", "--predictions", "y", "--metrics", "cider"], "both given"),
        (["evaluate", "--predictions", "y"], "the metrics are missing"),
        (["evaluate", "x", "--debug", "-1"], "--debug"),
        (["generate", "x"], "nothing is asked"),
        (["generate", "x", "--image", "a.png", "--device", "gpu"], "auto"),
        (["recipes", "show", "quikstart"], "did you mean `quickstart`"),
        (["recipes", "lst"], "No such command"),
    ],
)
def test_wrong_input_exits_with_2_and_one_message(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_errors_have_their_own_exit_status(workflow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workflow("train", "train", RecipeError.of([Fault("a", "b", "c"), Fault("d", "e", "f")]))
    assert run(["train", "quickstart"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: 2 things are wrong:\n1. a\n  where: b\n  mend:  c\n2. d"
    )
    workflow("train", "train", Interrupted("stopped after step 3", "runs/q", "add --resume"))
    assert run(["train", "quickstart", "--json"]) == 75
    said = capsys.readouterr()
    assert said.err.startswith("stopped: stopped after step 3")
    assert said.out == ""
    workflow("train", "train", KeyboardInterrupt())
    assert run(["train", "quickstart"]) == 75  # before anything could be saved there is nothing to lose
    assert "stopped before there was anything to save" in capsys.readouterr().err


def test_errors_of_the_system_are_the_persons_to_mend(
    workflow: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow("train", "train", OSError(28, "No space left on device", "/data/x"))
    assert run(["train", "quickstart"]) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "/data/x" in said
    assert "free some space" in said


def test_our_own_fault_exits_with_1_and_keeps_the_traceback(
    workflow: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workflow("train", "train", ZeroDivisionError("oh"))
    assert run(["train", "quickstart"]) == 1
    said = capsys.readouterr().err
    assert "a fault of finesight itself" in said
    assert "Traceback" not in said
    (file,) = tmp_path.iterdir()
    assert str(file) in said
    assert "ZeroDivisionError: oh" in file.read_text(encoding="utf-8")
    assert run(["--debug", "train", "quickstart"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("FINESIGHT_DEBUG", "1")
    assert run(["train", "quickstart"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_train_passes_its_options_and_closes_with_a_screen(
    workflow: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = workflow("train", "train", DONE)
    assert run(["train", "quickstart", "train.epochs=3", "train.max_steps=null", "--resume"]) == 0
    ((recipe,), options) = calls[0]
    assert recipe.train.epochs == 3
    assert options["resume"] is True
    assert options["dry_run"] is False
    said = capsys.readouterr().out
    for piece in ("exact_match", "0.500", "0.400 – 0.600", "majority", "0.100 (+0.300 – +0.500)"):
        assert piece in said
    assert "hidden" not in said
    assert "Report: runs/q/report.html" in said
    assert "Next:   finesight generate runs/q" in said


def test_json_stands_alone_on_standard_output(workflow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def noisy(*_: Any, observer: Any, **__: Any) -> dict[str, Any]:
        print("a library speaks")
        observer.on_phase("train", 10)
        return {**DONE, "scores": [{**SCORE, "value": float("nan")}], "path": Path("x")}

    workflow("train", "train", DONE)
    sys.modules["finesight.workflows.train"].train = noisy  # type: ignore[attr-defined]
    assert run(["train", "quickstart", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["scores"][0]["value"] is None
    assert result["path"] == "x"
    assert "a library speaks" in said.err


def test_evaluate_with_a_model(workflow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calls = workflow(
        "evaluate", "evaluate", {"scores": [SCORE], "results": "runs/q/evaluations/val/results.json"}
    )
    rows = workflow("score", "debug_rows", [])
    words = [
        "evaluate",
        "runs/q",
        "generation.num_beams=2",
        "--split",
        "val",
        "--metrics",
        "cider, bleu",
        "--debug",
        "2",
    ]
    assert run(words) == 0
    ((model,), options) = calls[0]
    assert model == "runs/q"
    assert (options["split"], options["metrics"]) == ("val", ["cider", "bleu"])
    assert options["overrides"] == ["generation.num_beams=2"]
    assert rows == [((Path("runs/q/evaluations/val/predictions/val.jsonl"), 2), {})]
    assert "0.500" in capsys.readouterr().out


def test_evaluate_a_table(workflow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "id": "7",
        "prediction": "The Red",
        "normalised": "red",
        "references": ("Red.",),
        "normalised_references": ("red",),
        "match": True,
    }
    calls = workflow("score", "score_table", {"scores": [SCORE], "results": "x/results.json"})
    workflow("score", "debug_rows", [row])
    words = ["evaluate", "--predictions", "p.jsonl", "--metrics", "exact_match", "--out", "x", "--debug", "1"]
    assert run(words) == 0
    assert calls == [((Path("p.jsonl"), ["exact_match"], Path("x"), None), {})]
    said = capsys.readouterr().out
    for piece in ("The Red", "= red", "Results: x/results.json"):
        assert piece in said
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["debug"][0]["references"] == ["Red."]


def test_generate_prints_one_answer_a_line(workflow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        {"image": "a.png", "prompt": "?", "answer": "red"},
        {"image": "b.png", "prompt": "?", "answer": "blue"},
    ]
    calls = workflow("generate", "generate", answers)
    words = ["generate", "runs/q", "--image", "a.png", "?", "--image", "b.png", "--device", "cpu"]
    assert run(words) == 0
    settings = {"audio": None, "speech_model": None, "device": "cpu", "load": Load()}
    assert calls == [(("runs/q", [Path("a.png"), Path("b.png")], "?"), settings)]
    assert capsys.readouterr().out == "a.png: red\nb.png: blue\n"
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"answers": answers}
    workflow("generate", "generate", answers[:1])
    assert run(words) == 0
    assert capsys.readouterr().out == "red\n"


def test_report_prints_its_path(workflow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workflow("report", "build_report", Path("runs/q/report.html"))
    assert run(["report", "runs/q"]) == 0
    assert capsys.readouterr().out == "runs/q/report.html\n"


def test_recipes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["recipes"]) == 0
    assert "quickstart" in capsys.readouterr().out
    assert run(["recipes", "show", "quickstart"]) == 0
    assert capsys.readouterr().out == recipe_text("quickstart")
    assert run(["recipes", "schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)
    mine = tmp_path / "mine.yaml"
    assert run(["recipes", "copy", "quickstart", str(mine)]) == 0
    assert mine.read_text(encoding="utf-8") == recipe_text("quickstart")
    capsys.readouterr()
    assert run(["recipes", "copy", "quickstart", str(mine)]) == 2
    assert "none is overwritten" in capsys.readouterr().err
    assert run(["recipes", "copy", "quickstart", str(tmp_path / "no" / "mine.yaml")]) == 2


def test_checking_a_recipe_from_the_command_line_needs_no_torch(tmp_path: Path) -> None:
    code = f"import sys\nsys.modules['torch'] = None\n{START}"
    words = [sys.executable, "-c", code, "train", "quickstart", "train.epoch=3"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=_environment())
    assert done.returncode == 2
    assert "did you mean `epochs`" in done.stderr


def _environment() -> dict[str, str]:
    paths: Sequence[str] = [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
