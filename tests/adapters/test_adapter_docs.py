"""docs/adapters.md: its recipes are valid, and its table has every key with its default."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tiny_mapping

from finesight.config.adapter import Adapter
from finesight.config.load import parse_recipe
from finesight.config.yaml import read_document

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
EXCERPTS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_every_excerpt_is_part_of_a_recipe(excerpt: str, tiny_data: Path, tmp_path: Path) -> None:
    mapping = tiny_mapping(tiny_data, tmp_path)
    mapping["model"] = {"pretrained": "runs/quickstart"}
    read: Any = read_document(excerpt.encode(), "docs/adapters.md").value
    for section, keys in read.items():
        mapping[section] = {**mapping.get(section, {}), **keys}
    assert parse_recipe(mapping).adapter is not None


def test_the_table_is_the_section() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    assert list(rows) == list(Adapter.model_fields)
    words = {"None": "none", "()": "none", "False": "false", "0.0": "0"}
    for name, told in rows.items():
        default = str(Adapter.model_fields[name].default)
        assert told.strip("`") == words.get(default, default), name
