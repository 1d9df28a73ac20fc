"""The page of an inspection: well formed, self-contained, escaped, and complete in what it filters by."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from finesight.core.view import Piece, Shown, View
from finesight.reports.samples import MOST_PIECES, deck, headline, render, twice

from .test_reports import VOID, Balance

EVIL = '</script><script>alert("1")</script> <img src=x onerror=alert(2)> " \' & {{ 7 * 7 }}'
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def view(number: int = 1, **values: Any) -> View:
    given = {
        "turns": (("user", (None, EVIL)), ("assistant", (f"red {number}",))),
        "pieces": (
            Piece("<|user|>", 2, "control"),
            Piece("<image>", 1, "picture", count=16),
            Piece(EVIL, 300, target=" red"),
            Piece(" red", 301, learned=True, target="<|end|>"),
            Piece("<|end|>", 5, "control", learned=True),
        ),
        "originals": (Shown(PNG, 64, 48),),
        "fed": (Shown(PNG, 32, 32),),
        "references": (f"red {number}", "crimson"),
        "tags": (("kind", EVIL),),
        "group": EVIL,
        **values,
    }
    split = given.pop("split", "train")
    return View(split, number, f"id-{number} {EVIL}", f"/data/{EVIL}.csv", number, **given)


def faulty(number: int) -> View:
    return View(
        "val", 0, "", "/data/rows.csv", number, fault=f"broken {EVIL}", column="image", kind="broken …"
    )


def summary(**values: Any) -> dict[str, Any]:
    tokens = {"total": 90, "mean": 30.0, "min": 28}
    tokens |= dict.fromkeys(("p1", "p5", "p25", "p50", "p75", "p95", "p99", "max"), 30)
    sizes = {name: {"min": 1, "p50": 2, "max": 3} for name in ("width", "height", "aspect")}
    figures = {
        "tokens": tokens,
        "supervised_tokens": 9,
        "supervised_share": 0.1,
        "lengths": {"edges": [28, 29, 30, 31], "counts": [1, 0, 2]},
        "pictures": {"count": 3, **sizes},
    }
    part = {"rows": 4, "samples": 3, "faults": 1, "shortened": 0, "left_out": 0, **figures}
    return {
        "format": 1,
        "name": f"flags {EVIL}",
        "read": {"rows": 4, "of": 4},
        "context": 64,
        **part,
        "duplicates": {"train": 0},
        "near_pictures": {"val/train": 2},
        "fault_kinds": [
            {
                "kind": "broken …",
                "column": "image",
                "count": 1,
                "file": "/data/rows.csv",
                "row": 1,
                "reason": EVIL,
            }
        ],
        "splits": {"train": part},
        "stops": True,
        "policy": {"on_bad_row": "stop"},
        "notices": [{"kind": "guess", "text": EVIL, "count": 2}],
        **values,
    }


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Elements(HTMLParser):
    """All elements with their attributes, and the text between script tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def checked(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """The elements of a page that is well formed, has our one script and asks for nothing from elsewhere."""
    balance = Balance()
    balance.feed(page)
    balance.close()
    assert balance.open == []
    assert len(balance.ids) == len(set(balance.ids))
    assert balance.seen.count("script") == 1
    elements = Elements()
    elements.feed(page)
    for tag, attributes in elements.found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    return elements.found


def test_the_page_is_whole_and_alone() -> None:
    assert "img" in VOID
    found = checked(render(summary(), [faulty(1), view(1), view(2, alike=("the same sample as train 1",))]))
    rows = [
        attributes for tag, attributes in found if tag == "li" and "row" in (attributes.get("class") or "")
    ]
    assert [row["data-state"] for row in rows] == ["faulty", "fine", "twice"]
    assert [row["data-tokens"] for row in rows] == ["0", "20", "20"]
    assert rows[1]["data-tags"] == f"kind: {EVIL}\n"
    named = {attributes.get("id") for tag, attributes in found if tag in ("input", "select")}
    assert named == {"find", "state", "split", "tag", "least", "most"}
    labels = {attributes.get("for") for tag, attributes in found if tag == "label"}
    assert named <= labels


def test_what_people_wrote_stays_text() -> None:
    page = render(summary(), [faulty(1), view(1)])
    checked(page)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    assert page.count("&lt;script&gt;alert(") >= 5


def test_the_tokens_tell_what_is_learned() -> None:
    found = checked(render(summary(), [view()]))
    tokens = [attributes for tag, attributes in found if tag == "span" and "data-id" in attributes]
    assert [token.get("class") for token in tokens] == ["c", "p", None, "y", "y c"]
    assert [token.get("data-target") for token in tokens] == [None, None, "·red", "<|end|>", None]
    assert [token["data-n"] for token in tokens] == ["1", "16", "1", "1", "1"]


def test_very_long_samples_are_cut_on_the_page() -> None:
    page = render(summary(), [view(pieces=(Piece("a", 1),) * (MOST_PIECES + 700))])
    assert page.count('data-id="1"') == MOST_PIECES
    assert "And 700 tokens more." in page


@pytest.mark.parametrize("views", [[], [faulty(1)], [view(pieces=(), originals=(), fed=())]])
def test_any_number_of_rows(views: list[View]) -> None:
    empty = {
        "tokens": {},
        "supervised_share": 0.0,
        "lengths": {"edges": [], "counts": []},
        "pictures": {"count": 0},
    }
    part = {"rows": 0, "samples": 0, "faults": 0, "shortened": 0, "left_out": 0, **empty}
    checked(
        render(summary(**part, splits={"train": part}, fault_kinds=[], near_pictures={}, notices=[]), views)
    )


DRIVE = """
<script>
const form = document.querySelector("#filters");
const shown = () => [...document.querySelectorAll(".row")].map((row) => row.hidden ? "-" : "x").join("");
const said = [shown()];
for (const [name, value] of WANTED) {
  form.reset();
  form.elements[name].value = value;
  form.dispatchEvent(new Event("input"));
  said.push(shown());
}
const list = document.querySelector(".tokens[tabindex]");
const press = (key) => list.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
["ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"].forEach(press);
said.push(list.parentElement.querySelector(".about").textContent);
press("End");
said.push(list.parentElement.querySelector(".about").textContent);
document.documentElement.innerHTML = "<body>" + encodeURIComponent(JSON.stringify(said)) + "</body>";
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no browser is here")
def test_the_filters_and_the_keyboard_work_in_a_browser(tmp_path: Path) -> None:
    rows = [
        faulty(1),
        view(1, alike=("the same sample as train 2",)),
        view(2, split="val", tags=(("kind", "b"), ("artist", "Ö"))),
        view(3, pieces=(Piece("a", 1),) * 3),
    ]
    wanted = [
        ("find", "RED 2"), ("find", "broken"), ("state", "fine"), ("state", "twice"), ("state", "faulty"),
        ("state", "kind:broken …"), ("split", "val"), ("tag", "artist: Ö"), ("least", "20"), ("most", "3"),
        ("find", ""),
    ]  # fmt: skip
    page = render(summary(), rows)
    file = tmp_path / "page.html"
    file.write_text(page + DRIVE.replace("WANTED", json.dumps(wanted)), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (body,) = re.findall(r"<body>(.*)</body>", done.stdout)
    said = json.loads(unquote(body))
    assert said[:-2] == [
        "xxxx",
        "--x-",
        "x---",
        "--xx",
        "-x--",
        "x---",
        "x---",
        "x-x-",
        "--x-",
        "-xx-",
        "x--x",
        "xxxx",
    ]
    assert said[-2:] == [
        "Position 18: “·red”, token 301. It learns to say “<|end|>” next.",
        "Position 19: “<|end|>”, token 5. What follows is not learned.",
    ]


def test_the_same_inspection_gives_the_same_page() -> None:
    assert render(summary(), [view()]) == render(summary(), [view()])


def test_sentences() -> None:
    assert headline(summary()) == "1 of 4 rows cannot be used."
    assert headline(summary(faults=0)) == "All 4 rows can be used."
    assert headline(summary(faults=4)) == "No row can be used."
    assert "Read were 4 of 40 rows" in deck(summary(read={"rows": 4, "of": 40}))[0]
    assert twice(summary())[0] == ("2 pictures of validation look the same as one in train.", True)
    assert twice(summary(near_pictures={"train": 1})) == [
        ("1 picture of train looks the same as one before.", False)
    ]
