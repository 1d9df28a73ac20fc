"""docs/compose.md: every excerpt is a section of a recipe, and what the page says of it holds."""

import re
from pathlib import Path

import pytest
from tiny_runs import tiny_mapping

from finesight.config.adapter import Adapter
from finesight.config.compose import Compose
from finesight.config.load import dump, load_recipe, parse_recipe
from finesight.config.model import Model
from finesight.config.yaml import read_document

PAGE = (Path(__file__).parents[3] / "docs" / "compose.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml ?(\w*)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_excerpts_are_sections(kind: str, text: str) -> None:
    value = read_document(text.encode(), "compose.md").value
    if kind == "recipe":
        Adapter.model_validate(value.pop("adapter"), strict=False)
        kind, value = "model", value["model"]
    (Model if kind == "model" else Compose).model_validate(value, strict=False)


def test_the_page_shows_the_shipped_recipe() -> None:
    shown = Compose.model_validate(read_document(BLOCKS[1][1].encode(), "compose.md").value, strict=False)
    shipped = load_recipe("things").model.compose
    assert shipped is not None
    assert (shown.vision, shown.projector) == (shipped.vision, shipped.projector)
    assert shown.language.vocabulary == shipped.language.vocabulary
    assert (shown.language.config or {}).items() <= (shipped.language.config or {}).items()


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_excerpts_are_written_down_and_read_again(kind: str, text: str) -> None:
    value = read_document(text.encode(), "compose.md").value
    mapping = tiny_mapping(Path("x.csv"), Path("runs/x"))
    mapping |= value if kind == "recipe" else {"model": value if kind else {"compose": value}}
    recipe = parse_recipe(mapping)
    assert parse_recipe(read_document(dump(recipe).encode(), "recipe.yaml").value) == recipe
