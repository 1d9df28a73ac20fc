"""docs/parallel.md: its excerpt is valid, its table has every key."""

import re
from pathlib import Path
from typing import Any

from tiny_runs import tiny_mapping

from finesight.config.load import parse_recipe
from finesight.config.parallel import Parallel
from finesight.config.yaml import read_document

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "parallel.md").read_text(encoding="utf-8")


def test_the_excerpt_is_part_of_a_recipe(tmp_path: Path) -> None:
    (excerpt,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    read: Any = read_document(excerpt.encode(), "docs/parallel.md").value
    recipe = parse_recipe(tiny_mapping(tmp_path / "rows.csv", tmp_path) | read)
    assert recipe.parallel == Parallel(strategy="fsdp")


def test_the_key_table_is_the_section() -> None:
    found = dict(re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", PAGE, re.MULTILINE))
    assert found == {
        name: str(field.default).replace("True", "true") for name, field in Parallel.model_fields.items()
    }
