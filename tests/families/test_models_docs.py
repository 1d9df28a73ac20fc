"""The excerpts of recipes in docs/models.md are parts of recipes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import tiny_mapping

from finesight.config.load import parse_recipe

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
EXCERPTS = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_every_excerpt_is_part_of_a_recipe(excerpt: str, tiny_data: Path, tmp_path: Path) -> None:
    mapping: dict[str, Any] = {**tiny_mapping(tiny_data, tmp_path), **yaml.safe_load(excerpt)}
    parse_recipe(mapping)


def test_there_are_excerpts() -> None:
    assert len(EXCERPTS) == 2
