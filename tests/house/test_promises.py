"""Pages that name tests name such as are there; every row of a table of promises names one; one page leads to all."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
PROMISING = [page for page in PAGES if re.search(r"^\| promise", page.read_text(encoding="utf-8"), re.M)]


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names of all test functions."""
    files = (ROOT / "tests").rglob("test_*.py")
    return {
        name
        for file in files
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }


def promises(page: Path) -> list[str]:
    """Rows of the page's tables of promises."""
    tables = re.findall(r"^\| promise.*\n\|[-| ]+\|\n((?:\|.*\n?)+)", page.read_text(encoding="utf-8"), re.M)
    return [row for table in tables for row in table.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page: Path, known: set[str]) -> None:
    text = page.read_text(encoding="utf-8")
    assert [path for path in re.findall(r"`(tests/[\w./]+)`", text) if not (ROOT / path).exists()] == []
    assert [name for name in re.findall(r"`(test_\w+)`", text) if name not in known] == []


@pytest.mark.parametrize("page", PROMISING, ids=lambda page: page.stem)
def test_every_promise_names_its_test(page: Path) -> None:
    rows = promises(page)
    assert rows and [row for row in rows if not re.search(r"`(tests/\w|test_)\w+", row)] == []


def test_one_page_leads_to_all() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    led = set(re.findall(r"\]\((\w+\.md)\)", text))
    assert {page.name for page in PROMISING} - {"promises.md"} <= led
