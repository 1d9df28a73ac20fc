"""docs/parallel.md: its excerpt is valid, its table has every key, each test that it names is there."""

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


def test_every_promise_has_its_test() -> None:
    named = re.findall(r"\| `(test_\w+)` \|", PAGE)
    here = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(named) == 13 and [name for name in named if f"def {name}(" not in here] == []
