"""docs/sounds.md: its recipe is one, its keys are those that there are, its commands know their options."""

import re
from pathlib import Path

from finesight.cli.generate import app
from finesight.config.data import Data
from finesight.config.speech import Speech
from finesight.config.yaml import read_document
from finesight.data.sounds.decode import SoundLimits

PAGE = (Path(__file__).parents[2] / "docs" / "sounds.md").read_text(encoding="utf-8")


def test_the_recipe_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    data = Data.model_validate(read_document(block.encode(), "docs/sounds.md").value["data"])
    assert data.speech is not None
    assert data.speech.model == "small.en"


def test_the_table_has_every_key_and_its_default() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert list(table) == list(Speech.model_fields)
    assert table["num_beams"].endswith(f"; {Speech(model='x').num_beams}")
    assert table["max_seconds"].endswith(f"; {Speech(model='x').max_seconds:g}")
    assert f"more than {SoundLimits().file_bytes >> 20} MiB" in PAGE


def test_the_commands_know_their_options() -> None:
    known = {name for info in app.registered_commands for name in _options(info.callback)}
    assert {name for line in re.findall(r"^finesight generate .*", PAGE, re.MULTILINE) for name in
            re.findall(r"--[\w-]+", line)} <= known  # fmt: skip


def _options(callback: object) -> set[str]:
    import inspect

    assert callable(callback)
    return {f"--{name.replace('_', '-')}" for name in inspect.signature(callback).parameters}
